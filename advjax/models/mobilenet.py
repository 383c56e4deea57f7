"""MobileNets v1 and v2, also as Google published them for TensorFlow Lite, their batch norms folded into biases."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
from flax import nnx

from advjax.models.blocks import HE_FAN_OUT, IMAGENET_MEAN, IMAGENET_STD, normalize
from advjax.models.checkpoint_names import Names, Source, names_of, torch_name, weight_paths
from advjax.models.layers import batch_norm, check_images
from advjax.models.taps import Tap, untapped

__all__ = ["MobileNetV1", "MobileNetV2"]

_HALF = (0.5, 0.5, 0.5)
_DENSE_NORMAL = nnx.initializers.normal(0.01)
_SLIM_NORMAL = nnx.initializers.truncated_normal(0.09, lower=-2.0, upper=2.0)
_LEAST = 8

# Channels after each block of v1, and whether it halves the image: Howard et al. 2017, Table 1.
_V1 = (
    (64, False),
    (128, True),
    (128, False),
    (256, True),
    (256, False),
    (512, True),
    *[(512, False)] * 5,
    (1024, True),
    (1024, False),
)


class _Group(NamedTuple):
    expansion: int
    channels: int
    blocks: int
    stride: int


# Sandler et al. 2018, Table 2.
_V2 = (
    _Group(1, 16, 1, 1),
    _Group(6, 24, 2, 2),
    _Group(6, 32, 3, 2),
    _Group(6, 64, 4, 2),
    _Group(6, 96, 3, 1),
    _Group(6, 160, 3, 2),
    _Group(6, 320, 1, 1),
)

# How a convolution is padded and what follows it: TensorFlow's "SAME" and batch norm (epsilon 0.001); PyTorch's
# (size // 2 on each side, epsilon 1e-5); "SAME" and a bias that the batch norm has been folded into.
_Style = Literal["slim", "torch", "folded"]


class MobileNetV1(nnx.Module):
    """MobileNet of depthwise separable convolutions; 4,231,976 parameters, 568.7M multiply-adds at 224x224.

    conv 3x3/2 -> 13 blocks of depthwise 3x3 -> pointwise 1x1, the second, fourth, sixth and twelfth of which halve the
    image -> mean over the image -> dense; batch norm (epsilon 0.001) and min(max(x, 0), 6) after each convolution,
    padding as TensorFlow's "SAME". Images are scaled to [-1, 1]. With `width` 0.25 at 128x128: 470,072 parameters,
    13.6M multiply-adds.

    `tflite` is the network in Google's TensorFlow Lite files. Inference alone needs them, so that each batch norm has
    been folded into the kernel and a bias, which cannot be undone: it has no batch norms. Its dense layer has an
    output more, first, for "background", which no image of ImageNet is: the logits are the others.

    Args:
        num_classes: number of logits.
        width: factor on the channels; no convolution has less than 8.
        tflite: be Google's TensorFlow Lite network, and read its weights.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input (scaled), stem, block1, ... block13, pool, penultimate. What each block reads are the hidden ones: stem
    and all blocks but the last.

    Source: Howard et al. 2017, "MobileNets"; tensorflow/models, research/slim/nets/mobilenet_v1.py. Its dropout of
    0.001 is left out.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: MobileNetV1(10, width=0.25, rngs=nnx.Rngs(0))(jnp.zeros((2, 128, 128, 3)))).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 1000, *, width: float = 1.0, tflite: bool = False, rngs: nnx.Rngs) -> None:
        self.tflite = tflite
        style: _Style = "folded" if tflite else "slim"
        inputs = max(int(32 * width), _LEAST)
        self.stem = _Unit(3, inputs, 3, 2, style, rngs)
        blocks = []
        for channels, halves in _V1:
            outputs = max(int(channels * width), _LEAST)
            blocks.append(_Separable(inputs, outputs, 2 if halves else 1, style, rngs))
            inputs = outputs
        self.blocks = nnx.List(blocks)
        self.classifier = nnx.Linear(inputs, num_classes + tflite, kernel_init=_SLIM_NORMAL, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 128 to 224 in the paper."""
        check_images(images, None, None, 3)
        x = tap("stem", self.stem(tap("input", normalize(images, _HALF, _HALF))))
        for number, block in enumerate(self.blocks, 1):
            x = tap(f"block{number}", block(x))
        x = tap("pool", x.mean((1, 2)))
        return tap("penultimate", self.classifier(x)[:, int(self.tflite) :])

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block reads."""
        return ("stem", *(f"block{number}" for number in range(1, len(self.blocks))))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """With `tflite` the layers of Google's files, dequantized, in an `.npz` with kernels [h, w, in, out]."""
        return [_tflite_names(self, _v1_layer)] if kind == "torch" and self.tflite else []


class MobileNetV2(nnx.Module):
    """MobileNet of inverted residuals; 3,504,872 parameters, 300.8M multiply-adds at 224x224.

    conv 3x3/2 of 32 channels -> 17 blocks -> conv 1x1 of 1280 -> mean over the image -> dropout 0.2 -> dense; batch
    norm after each convolution and, but for the last one of a block, min(max(x, 0), 6). A block is

        x <- conv 1x1 o depthwise 3x3 o conv 1x1 (x) [+ x where the shape stays],

    with 6 times the channels inside; the first block leaves the first convolution out. Kernels start as N(0, 2 /
    fan_out), the dense layer as N(0, 0.01^2), biases as 0, and images are normalized by ImageNet's mean and standard
    deviation (torchvision).

    `tflite` is the network in Google's TensorFlow Lite files: as in `MobileNetV1` without batch norms, with an output
    for "background" that is no logit, padding "SAME" and images in [-1, 1].

    Args:
        num_classes: number of logits.
        tflite: be Google's TensorFlow Lite network, and read its weights.
        rngs: `nnx.Rngs`; the stream `params` draws the weights, `dropout` the masks.

    Taps: input, stem, block1, ... block17, last (the convolution of 1280), pool, penultimate. What each block and the
    last convolution read are the hidden ones: stem and all blocks. No activation stands between blocks.

    Source: Sandler et al. 2018, "MobileNetV2: Inverted residuals and linear bottlenecks", Table 2; torchvision's
    mobilenetv2.py; tensorflow/models, research/slim/nets/mobilenet.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: MobileNetV2(10, rngs=nnx.Rngs(0))(jnp.zeros((2, 64, 64, 3)))).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 1000, *, tflite: bool = False, rngs: nnx.Rngs) -> None:
        self.tflite = tflite
        style: _Style = "folded" if tflite else "torch"
        self.stem = _Unit(3, 32, 3, 2, style, rngs)
        inputs, blocks = 32, []
        for group in _V2:
            for index in range(group.blocks):
                stride = group.stride if index == 0 else 1
                blocks.append(_Inverted(inputs, group.channels, group.expansion, stride, style, rngs))
                inputs = group.channels
        self.blocks = nnx.List(blocks)
        self.last = _Unit(inputs, 1280, 1, 1, style, rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(1280, num_classes + tflite, kernel_init=_DENSE_NORMAL, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 in the paper."""
        check_images(images, None, None, 3)
        scale = (_HALF, _HALF) if self.tflite else (IMAGENET_MEAN, IMAGENET_STD)
        x = tap("stem", self.stem(tap("input", normalize(images, *scale))))
        for number, block in enumerate(self.blocks, 1):
            x = tap(f"block{number}", block(x))
        x = tap("last", self.last(x))
        x = tap("pool", x.mean((1, 2)))
        return tap("penultimate", self.classifier(self.dropout(x))[:, int(self.tflite) :])

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block and the last convolution read."""
        return ("stem", *(f"block{number}" for number in range(1, len(self.blocks) + 1)))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in torchvision's checkpoints; with `tflite` those of Google's files, as in `MobileNetV1`."""
        if kind != "torch":
            return []
        return [_tflite_names(self, _v2_layer) if self.tflite else names_of(self, _v2_torch_name)]


class _Unit(nnx.Module):
    """Convolution -> batch norm, or the bias that it is folded into -> min(max(x, 0), 6) unless it is `linear`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        style: _Style,
        rngs: nnx.Rngs,
        *,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        self.linear = linear
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            stride,
            padding=size // 2 if style == "torch" else "SAME",
            feature_group_count=groups,
            use_bias=style == "folded",
            kernel_init=HE_FAN_OUT if style == "torch" else _SLIM_NORMAL,
            rngs=rngs,
        )
        if style == "folded":
            self.bn = None
        elif style == "slim":
            self.bn = batch_norm(outputs, epsilon=1e-3, momentum=0.9997, rngs=rngs)
        else:
            self.bn = batch_norm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return x if self.linear else nnx.relu6(x)


class _Separable(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, style: _Style, rngs: nnx.Rngs) -> None:
        self.depthwise = _Unit(inputs, inputs, 3, stride, style, rngs, groups=inputs)
        self.pointwise = _Unit(inputs, outputs, 1, 1, style, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pointwise(self.depthwise(x))


class _Inverted(nnx.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, style: _Style, rngs: nnx.Rngs) -> None:
        inner = expansion * inputs
        self.residual = stride == 1 and inputs == outputs
        self.expand = None if expansion == 1 else _Unit(inputs, inner, 1, 1, style, rngs)
        self.depthwise = _Unit(inner, inner, 3, stride, style, rngs, groups=inner)
        self.project = _Unit(inner, outputs, 1, 1, style, rngs, linear=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


def _tflite_names(model: nnx.Module, layer: Callable[[str], str]) -> Names:
    names = {}
    for path in weight_paths(model):
        module, leaf = path.rsplit("/", 1)
        end = {"kernel": "weight", "bias": "bias"}[leaf]
        names[path] = Source(f"{layer(module.removesuffix('/conv'))}/{end}", ours=True)
    return names


def _v1_layer(module: str) -> str:
    if module in ("stem", "classifier"):
        return {"stem": "Conv2d_0", "classifier": "Logits/Conv2d_1c_1x1"}[module]
    _, index, part = module.split("/")
    return f"Conv2d_{int(index) + 1}_{part}"


def _v2_layer(module: str) -> str:
    if "/" not in module:
        return {"stem": "Conv", "last": "Conv_1", "classifier": "Logits/Conv2d_1c_1x1"}[module]
    _, index, part = module.split("/")
    return f"expanded_conv{f'_{index}' if index != '0' else ''}/{part}"


def _v2_torch_name(path: str) -> str:
    module, leaf = path.rsplit("/", 1)
    if module == "classifier":
        return torch_name(f"classifier/1/{leaf}")
    *owner, part = module.split("/")
    # In torchvision a unit is a Sequential of both, but the last one of a block, whose parts stand in the block's.
    number = {"conv": 0, "bn": 1}[part]
    if owner[0] != "blocks":
        return torch_name(f"features/{'0' if owner == ['stem'] else '18'}/{number}/{leaf}")
    _, index, unit = owner
    place = ["expand", "depthwise", "project"].index(unit) - (index == "0")
    parts = f"{place + number}" if unit == "project" else f"{place}/{number}"
    return torch_name(f"features/{int(index) + 1}/conv/{parts}/{leaf}")
