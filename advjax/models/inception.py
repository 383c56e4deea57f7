"""Inception-v3, for ImageNet at 299x299 and, with a stem that keeps the image's size, for 32x32 images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import ConvNorm, normalize
from advjax.models.checkpoint_names import Names, names_of, torch_name
from advjax.models.layers import avg_pool, check_images, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["InceptionV3"]

_NORMAL = nnx.initializers.normal(0.1)
_AUX_NORMAL = nnx.initializers.normal(0.01)
_AUX_DENSE_NORMAL = nnx.initializers.normal(0.001)


class _Conv(NamedTuple):
    """One convolution of a branch: its name in torchvision, its channels, its kernel."""

    name: str
    channels: int
    kernel: tuple[int, int]


# A branch is a chain of steps, a step one convolution or several side by side.
_Step = tuple[_Conv, ...]
_Branch = tuple[_Step, ...]


def _chain(*convs: _Conv) -> _Branch:
    return tuple((conv,) for conv in convs)


def _block_a(pool: int) -> tuple[_Branch, ...]:
    return (
        _chain(_Conv("branch1x1", 64, (1, 1))),
        _chain(_Conv("branch5x5_1", 48, (1, 1)), _Conv("branch5x5_2", 64, (5, 5))),
        _chain(
            _Conv("branch3x3dbl_1", 64, (1, 1)),
            _Conv("branch3x3dbl_2", 96, (3, 3)),
            _Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        _chain(_Conv("branch_pool", pool, (1, 1))),
    )


def _block_c(inner: int) -> tuple[_Branch, ...]:
    return (
        _chain(_Conv("branch1x1", 192, (1, 1))),
        _chain(
            _Conv("branch7x7_1", inner, (1, 1)),
            _Conv("branch7x7_2", inner, (1, 7)),
            _Conv("branch7x7_3", 192, (7, 1)),
        ),
        _chain(
            _Conv("branch7x7dbl_1", inner, (1, 1)),
            _Conv("branch7x7dbl_2", inner, (7, 1)),
            _Conv("branch7x7dbl_3", inner, (1, 7)),
            _Conv("branch7x7dbl_4", inner, (7, 1)),
            _Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        _chain(_Conv("branch_pool", 192, (1, 1))),
    )


_BLOCK_B = (
    _chain(_Conv("branch3x3", 384, (3, 3))),
    _chain(
        _Conv("branch3x3dbl_1", 64, (1, 1)),
        _Conv("branch3x3dbl_2", 96, (3, 3)),
        _Conv("branch3x3dbl_3", 96, (3, 3)),
    ),
)
_BLOCK_D = (
    _chain(_Conv("branch3x3_1", 192, (1, 1)), _Conv("branch3x3_2", 320, (3, 3))),
    _chain(
        _Conv("branch7x7x3_1", 192, (1, 1)),
        _Conv("branch7x7x3_2", 192, (1, 7)),
        _Conv("branch7x7x3_3", 192, (7, 1)),
        _Conv("branch7x7x3_4", 192, (3, 3)),
    ),
)
_BLOCK_E = (
    _chain(_Conv("branch1x1", 320, (1, 1))),
    (
        (_Conv("branch3x3_1", 384, (1, 1)),),
        (_Conv("branch3x3_2a", 384, (1, 3)), _Conv("branch3x3_2b", 384, (3, 1))),
    ),
    (
        (_Conv("branch3x3dbl_1", 448, (1, 1)),),
        (_Conv("branch3x3dbl_2", 384, (3, 3)),),
        (_Conv("branch3x3dbl_3a", 384, (1, 3)), _Conv("branch3x3dbl_3b", 384, (3, 1))),
    ),
    _chain(_Conv("branch_pool", 192, (1, 1))),
)
_REDUCTIONS = {"mixed_6a": _BLOCK_B, "mixed_7a": _BLOCK_D}
_BLOCKS = {
    "mixed_5b": _block_a(32),
    "mixed_5c": _block_a(64),
    "mixed_5d": _block_a(64),
    "mixed_6a": _BLOCK_B,
    "mixed_6b": _block_c(128),
    "mixed_6c": _block_c(160),
    "mixed_6d": _block_c(160),
    "mixed_6e": _block_c(192),
    "mixed_7a": _BLOCK_D,
    "mixed_7b": _BLOCK_E,
    "mixed_7c": _BLOCK_E,
}
# Channels, kernel, and the stride and padding at 299x299, and at 32x32.
_STEM: dict[str, tuple[int, int, tuple[int, int], tuple[int, int]]] = {
    "conv2d_1a_3x3": (32, 3, (2, 0), (1, 1)),
    "conv2d_2a_3x3": (32, 3, (1, 0), (1, 1)),
    "conv2d_2b_3x3": (64, 3, (1, 1), (1, 1)),
    "conv2d_3b_1x1": (80, 1, (1, 0), (1, 0)),
    "conv2d_4a_3x3": (192, 3, (1, 0), (1, 0)),
}
_POOLED = ("conv2d_2b_3x3", "conv2d_4a_3x3")


class InceptionV3(nnx.Module):
    """Inception-v3 as torchvision has it: factorized convolutions, batch norm, one auxiliary head.

    Five convolutions with two max pools 3/2 -> three blocks at 35x35 -> reduction -> four blocks with 7x1 and 1x7
    convolutions at 17x17 -> reduction -> two blocks at 8x8 -> mean over the image -> dropout 0.5 -> dense.
    27,161,264 parameters with the head; 23,834,568 and 5,713M multiply-adds without. With `small_images` the stem
    has no stride and no pools, for images of 32x32: 21,990,468 parameters with 100 classes and no head, 3,096M
    multiply-adds; a choice of public CIFAR-100 code, from no paper. Images enter as (x - 0.5) / 0.5, kernels start
    as N(0, 0.1^2), those of the head as N(0, 0.01^2) and N(0, 0.001^2).

    In training mode the head after mixed_6e gives logits to the tap aux1; add 0.4 times their loss (slim,
    `with_heads(0.4)`). In evaluation mode it is not computed.

    Args:
        num_classes: number of logits.
        aux: have the auxiliary head, for images of 299x299.
        small_images: the stem for 32x32 images; it has no auxiliary head.
        width: factor on the channels of all convolutions; 1 in the paper.
        rngs: `nnx.Rngs`; the stream `params` draws the weights, `dropout` the masks.

    Taps: input, stem, mixed_5b, ... mixed_7c (each block), aux1 (training), pool, penultimate. What each
    block reads are the hidden ones: stem and all blocks but the last, which all follow a ReLU.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", Table 1; torchvision's inception.py.

    >>> nnx.eval_shape(lambda: InceptionV3(10, rngs=nnx.Rngs(0))(jnp.zeros((2, 299, 299, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        aux: bool = True,
        small_images: bool = False,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        if aux and small_images:
            raise ValueError("aux must be False with small_images: the head needs the 17x17 features of 299x299 images")
        self.small_images = small_images
        channels = 3
        for name, (outputs, size, large, small) in _STEM.items():
            stride, padding = small if small_images else large
            outputs = round(outputs * width)
            conv = ConvNorm(channels, outputs, (size, size), stride, padding, kernel_init=_NORMAL, rngs=rngs)
            setattr(self, name, conv)
            channels = outputs
        for name, branches in _BLOCKS.items():
            block = _Mixed(channels, branches, name in _REDUCTIONS, width, rngs)
            setattr(self, name, block)
            channels = block.outputs
            if aux and name == "mixed_6e":
                self.aux_logits = _Auxiliary(channels, num_classes, width, rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(channels, num_classes, kernel_init=_NORMAL, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]."""
        check_images(images, None, None, 3)
        least = 18 if self.small_images else 75
        if min(images.shape[1:3]) < least:
            raise ValueError(f"images must be at least {least}x{least}, got {images.shape}")
        x = tap("input", normalize(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
        for name in _STEM:
            x = getattr(self, name)(x)
            if name in _POOLED and not self.small_images:
                x = max_pool(x, 3, 2)
        x = tap("stem", x)
        for name in _BLOCKS:
            x = tap(name, getattr(self, name)(x))
            if name == "mixed_6e" and hasattr(self, "aux_logits") and not self.dropout.deterministic:
                tap("aux1", self.aux_logits(x))
        x = tap("pool", self.dropout(x.mean((1, 2))))
        return tap("penultimate", self.fc(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block reads."""
        return ("stem", *list(_BLOCKS)[:-1])

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in torchvision's and timm's checkpoints."""
        return [names_of(self, _torch_name)] if kind == "torch" else []


def _torch_name(path: str) -> str:
    name = torch_name(path).replace("aux_logits.", "AuxLogits.")
    return name[0].upper() + name[1:] if name.startswith(("conv2d", "mixed")) else name


class _Mixed(nnx.Module):
    """Branches side by side, joined by channel; a reduction ends each in stride 2 and keeps a max pool as it is."""

    def __init__(
        self, inputs: int, branches: tuple[_Branch, ...], reduction: bool, width: float, rngs: nnx.Rngs
    ) -> None:
        self.reduction = reduction
        self.branches = tuple(tuple(tuple(conv.name for conv in step) for step in branch) for branch in branches)
        self.outputs = inputs if reduction else 0
        for branch in branches:
            channels = inputs
            for step in branch:
                halve: dict[str, Any] = {"strides": 2, "padding": 0} if reduction and step is branch[-1] else {}
                for conv in step:
                    outputs = round(conv.channels * width)
                    unit = ConvNorm(channels, outputs, conv.kernel, **halve, kernel_init=_NORMAL, rngs=rngs)
                    setattr(self, conv.name, unit)
                channels = sum(round(conv.channels * width) for conv in step)
            self.outputs += channels

    def __call__(self, x: jax.Array) -> jax.Array:
        ends = []
        for branch in self.branches:
            y = avg_pool(x, 3, 1, 1) if branch == (("branch_pool",),) else x
            for step in branch:
                y = jnp.concatenate([getattr(self, name)(y) for name in step], axis=-1)
            ends.append(y)
        if self.reduction:
            ends.append(max_pool(x, 3, 2))
        return jnp.concatenate(ends, axis=-1)


class _Auxiliary(nnx.Module):
    """Mean pool 5/3 -> conv 1x1 -> conv 5x5 -> mean over the image -> dense."""

    def __init__(self, inputs: int, num_classes: int, width: float, rngs: nnx.Rngs) -> None:
        first, second = round(128 * width), round(768 * width)
        self.conv0 = ConvNorm(inputs, first, (1, 1), kernel_init=_NORMAL, rngs=rngs)
        self.conv1 = ConvNorm(first, second, (5, 5), padding="VALID", kernel_init=_AUX_NORMAL, rngs=rngs)
        self.fc = nnx.Linear(second, num_classes, kernel_init=_AUX_DENSE_NORMAL, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if min(x.shape[1:3]) < 17:
            raise ValueError(f"images must be 299x299 or larger for the auxiliary head, got features {x.shape}")
        return self.fc(self.conv1(self.conv0(avg_pool(x, 5, 3))).mean((1, 2)))
