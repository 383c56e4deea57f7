"""The networks' copies in PyTorch, one forward function each, over weights by the names that they have in Flax."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advjax.models.blocks import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Copy"]

# Flax's axes in PyTorch's order.
_ORDER = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
# Dense layers that read a flattened image, [H, W, C] in Flax and [C, H, W] in PyTorch: layer, H, W.
_FLATTENED = {"lenet": ("dense1", 4, 4), "madry": ("dense1", 7, 7)}


class Copy(torch.nn.Module):
    """A network in PyTorch's own functions: images [B, C, H, W] -> logits."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.network, self.names = name, sorted(arrays)
        for key, array in arrays.items():
            tensor = torch.tensor(np.ascontiguousarray(self._flattened(key, array).transpose(_ORDER[array.ndim])))
            if key.rsplit("/", 1)[-1] in ("mean", "var"):
                self.register_buffer(_attribute(key), tensor)
            else:
                self.register_parameter(_attribute(key), torch.nn.Parameter(tensor))

    def _flattened(self, key: str, array: np.ndarray, back: bool = False) -> np.ndarray:
        """A dense kernel [H W C, K] as [C H W, K], or back."""
        layer, height, width = _FLATTENED.get(self.network, ("", 1, 1))
        if key != f"{layer}/kernel":
            return array
        channels = len(array) // (height * width)
        shape, order = ((channels, height, width), (1, 2, 0, 3)) if back else ((height, width, channels), (2, 0, 1, 3))
        return array.reshape(*shape, -1).transpose(order).reshape(array.shape)

    def forward(self, images: Tensor) -> Tensor:
        return _FORWARDS[self.network](self, images)

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters in Flax's layouts, by name."""
        found = {key: self.get(key) for key in self.names}
        kept = {
            key: tensor.detach().cpu().numpy()
            for key, tensor in found.items()
            if isinstance(tensor, torch.nn.Parameter)
        }
        back = {key: array.transpose(np.argsort(_ORDER[array.ndim])) for key, array in kept.items()}
        return {key: self._flattened(key, array, back=True) for key, array in back.items()}

    def get(self, key: str) -> Tensor | None:
        """The tensor of a layer's part, or None."""
        return getattr(self, _attribute(key), None)

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.get(f"{name}/kernel"), self.get(f"{name}/bias"), stride, padding)

    def norm(self, x: Tensor, name: str, epsilon: float = 1e-5) -> Tensor:
        statistics, weights = (
            [self.get(f"{name}/{part}") for part in parts] for parts in (("mean", "var"), ("scale", "bias"))
        )
        return F.batch_norm(x, *statistics, *weights, self.training, 0.1, epsilon)

    def dense(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.get(f"{name}/kernel"), self.get(f"{name}/bias"))


def _attribute(key: str) -> str:
    return key.replace("/", "_")


def _normalized(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shift, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (x - shift) / scale


def _lenet(net: Copy, x: Tensor) -> Tensor:
    x = F.max_pool2d(net.conv(x * (255 / 256), "conv1"), 2)
    x = F.max_pool2d(net.conv(x, "conv2"), 2)
    return net.dense(F.relu(net.dense(x.flatten(1), "dense1")), "dense2")


def _madry(net: Copy, x: Tensor) -> Tensor:
    for name in ("conv1", "conv2"):
        x = F.max_pool2d(F.relu(net.conv(x, name, padding=2)), 2)
    return net.dense(F.relu(net.dense(x.flatten(1), "dense1")), "dense2")


def _vgg_cifar(net: Copy, x: Tensor) -> Tensor:
    x = _normalized(x, CIFAR10_MEAN, CIFAR10_STD)
    for stage, units in enumerate((2, 2, 3, 3, 3)):
        for unit in (f"stages/{stage}/{index}" for index in range(units)):
            x = F.relu(net.norm(net.conv(x, f"{unit}/conv", padding=1), f"{unit}/norm", 1e-3))
        x = F.max_pool2d(x, 2)
    return net.dense(F.relu(net.norm(net.dense(x.flatten(1), "dense1"), "norm")), "dense2")


def _resnet20(net: Copy, x: Tensor) -> Tensor:
    x = F.relu(net.norm(net.conv(_normalized(x, IMAGENET_MEAN, IMAGENET_STD), "conv1", padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in (f"layer{stage}/{index}" for index in range(3)):
            stride = 2 if stage > 1 and block.endswith("/0") else 1
            hidden = F.relu(net.norm(net.conv(x, f"{block}/conv1", stride, 1), f"{block}/bn1"))
            hidden = net.norm(net.conv(hidden, f"{block}/conv2", padding=1), f"{block}/bn2")
            more = (hidden.shape[1] - x.shape[1]) // 2
            x = F.relu(hidden + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more, more)))
    return net.dense(x.mean((2, 3)), "linear")


def _wrn_28_10(net: Copy, x: Tensor) -> Tensor:
    x = net.conv(_normalized(x, CIFAR10_MEAN, CIFAR10_STD), "conv1", padding=1)
    for stage in (1, 2, 3):
        for block in (f"block{stage}/{index}" for index in range(4)):
            stride = 2 if stage > 1 and block.endswith("/0") else 1
            hidden = F.relu(net.norm(x, f"{block}/bn1"))
            shortcut = net.conv(hidden, f"{block}/shortcut", stride) if block.endswith("/0") else x
            hidden = F.relu(net.norm(net.conv(hidden, f"{block}/conv1", stride, 1), f"{block}/bn2"))
            x = net.conv(hidden, f"{block}/conv2", padding=1) + shortcut
    return net.dense(F.relu(net.norm(x, "bn")).mean((2, 3)), "fc")


def _resnet50(net: Copy, x: Tensor) -> Tensor:
    x = net.conv(_normalized(x, IMAGENET_MEAN, IMAGENET_STD), "conv1", 2, 3)
    x = F.max_pool2d(F.relu(net.norm(x, "bn1")), 3, 2, 1)
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for block in (f"layer{stage}/{index}" for index in range(depth)):
            stride = 2 if stage > 1 and block.endswith("/0") else 1
            shortcut = x
            if block.endswith("/0"):
                shortcut = net.norm(net.conv(x, f"{block}/downsample/0", stride), f"{block}/downsample/1")
            x = F.relu(net.norm(net.conv(x, f"{block}/conv1"), f"{block}/bn1"))
            x = F.relu(net.norm(net.conv(x, f"{block}/conv2", stride, 1), f"{block}/bn2"))
            x = F.relu(net.norm(net.conv(x, f"{block}/conv3"), f"{block}/bn3") + shortcut)
    return net.dense(x.mean((2, 3)), "fc")


_FORWARDS: Mapping[str, Callable[[Copy, Tensor], Tensor]] = MappingProxyType(
    {
        "lenet": _lenet,
        "madry": _madry,
        "vgg-cifar": _vgg_cifar,
        "resnet20": _resnet20,
        "wrn-28-10": _wrn_28_10,
        "resnet50": _resnet50,
    }
)
