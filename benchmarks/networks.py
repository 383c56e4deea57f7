"""The networks that are attacked and trained here, and their copies in PyTorch: same weights, equal logits."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax import Classifier, from_nnx
from advjax.models import NETWORKS
from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD, conv, normalize
from advjax.models.layers import batch_norm, fan_in_uniform

__all__ = ["Known", "arrays_of", "images_for", "network", "torch_copy"]


class Known(NamedTuple):
    """A network, the shape [H, W, C] of its images, and what is to be said of its weights."""

    name: str
    model: nnx.Module
    shape: tuple[int, int, int]
    weights: str

    @property
    def classifier(self) -> Classifier:
        """The network in evaluation mode."""
        return from_nnx(self.model)


def network(name: str, seed: int = 0) -> Known:
    """LeNet and others of the library by the registry's names, or "resnet20", which reads published weights."""
    if name == "resnet20":
        model = ResNet20(rngs=nnx.Rngs(seed))
        return Known(name, model, (32, 32, 3), _published(model))
    entry = NETWORKS[name]
    # The generator `rbg` compiles several times faster than the usual one.
    model = entry.make(rngs=nnx.Rngs(jax.random.key(seed, impl="rbg")))
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nnx.Dropout):
            part.rate = 0.0  # two libraries draw other masks: their results could not be compared
    return Known(name, model, entry.shape, "random weights")


def images_for(known: Known, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images float32 [B, H, W, C] on the grid k/255, and what the network says of them, int32 [B]."""
    levels = np.random.default_rng(0).integers(0, 256, (count, *known.shape))
    images = (levels / np.float32(255)).astype(np.float32)
    return images, np.asarray(jnp.argmax(jax.jit(known.classifier)(images), -1), np.int32)


class ResNet20(nnx.Module):
    """ResNet-20 for CIFAR-10 (He et al. 2016, sec. 4.2), option A, as in akamaster/pytorch_resnet_cifar10."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv1, self.bn1 = conv(3, 16, 3, rngs=rngs), batch_norm(16, rngs=rngs)
        inputs = 16
        for stage in (1, 2, 3):
            outputs, blocks = 8 * 2**stage, []
            for index in range(3):
                blocks.append(_Block(inputs, outputs, 2 if stage > 1 and index == 0 else 1, rngs))
                inputs = outputs
            setattr(self, f"layer{stage}", nnx.List(blocks))
        uniform = fan_in_uniform(64)
        self.linear = nnx.Linear(64, 10, kernel_init=uniform, bias_init=uniform, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(normalize(images, IMAGENET_MEAN, IMAGENET_STD))))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                x = block(x)
        return self.linear(x.mean((1, 2)))


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride, rngs=rngs), batch_norm(outputs, rngs=rngs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, rngs=rngs), batch_norm(outputs, rngs=rngs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        more = ((0, 0), (0, 0), (0, 0), (self.more, self.more))
        shortcut = jnp.pad(x[:, :: self.stride, :: self.stride], more)
        x = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        return nnx.relu(x + shortcut)


def _published(model: nnx.Module) -> str:
    """Gives the model the weights of `resnet20.npz` below $ADVJAX_NETWORKS, whose names are PyTorch's."""
    folder = os.environ.get("ADVJAX_NETWORKS", "")
    files = sorted(Path(folder).rglob("resnet20.npz")) if folder else []
    if not files:
        return "random weights: no resnet20.npz below ADVJAX_NETWORKS"
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    with np.load(files[0], allow_pickle=False) as arrays:
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            *module, leaf = map(str, path)
            array = arrays[".".join([*module, leaves[leaf]])]
            variable[...] = array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])
    return "published weights"


def torch_copy(known: Known) -> Any:
    """The network in PyTorch, in evaluation mode, images [B, C, H, W]; its logits are checked to be equal.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: the logits differ.
    """
    import torch

    from benchmarks.torch_networks import Copy

    copy = Copy(known.name, arrays_of(known.model)).eval().requires_grad_(False)
    images, _ = images_for(known, 8)
    ours = np.asarray(jax.jit(known.classifier)(images))
    with torch.no_grad():
        theirs = copy(torch.tensor(images.transpose(0, 3, 1, 2).copy())).numpy()
    if (apart := np.abs(ours - theirs).max()) > 1e-3 * np.abs(ours).max():
        raise ValueError(f"{known.name}'s copy in PyTorch must give the same logits, got some {apart:.2g} apart")
    return copy


def arrays_of(model: nnx.Module, kinds: Any = (nnx.Param, nnx.BatchStat)) -> dict[str, np.ndarray]:
    """Parameters and batch statistics by name, "conv1/kernel" and so on."""
    return {
        "/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model, kinds))
    }
