"""cifar.torch's VGG with batch normalization and dropout, the CIFAR-10 network of Shaham, Yamada and Negahban."""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import nnx

from advjax.models.blocks import CIFAR10_MEAN, CIFAR10_STD, HE_FAN_OUT, input_channels, normalize
from advjax.models.layers import batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["VggCifar"]

# For each stage its channels as a multiple of the first's, and the dropout rates after its convolutions.
_STAGES = (
    (1, (0.3, 0.0)),
    (2, (0.4, 0.0)),
    (4, (0.4, 0.4, 0.0)),
    (8, (0.4, 0.4, 0.0)),
    (8, (0.4, 0.4, 0.0)),
)

# torch7's start of the scales of batch normalization.
_ZEROS = nnx.initializers.zeros_init()
_UNIT = nnx.initializers.uniform(1.0)


class VggCifar(nnx.Module):
    """vgg_bn_drop, VGG-16's small form, for images of up to 32x32; 14,991,946 parameters, 313.5M multiply-adds.

    Five stages of [conv 3x3 -> batch normalization (epsilon 1e-3) -> ReLU -> dropout], 64, 128, 256, 512 and
    512 channels, each followed by a max pool 2/2; then dropout 0.5 -> dense 512 -> batch normalization -> ReLU
    -> dropout 0.5 -> dense `num_classes`. The pools round sizes up, so that one pixel is left of 28x28 images too.
    Kernels start as N(0, 2 / (k^2 outputs)), the scripts' "MSR", the dense layers as U(+-1/sqrt(fan_in)).

    Args:
        num_classes: number of logits.
        width: channels of the first stage; 8 times as many in the last two and in the dense layer.
        mean, std: per channel, taken from and divided out of the images, as many as these have channels; the defaults
            are those of CIFAR-10's training images in RGB. The paper's images are normalized YUV: give them zeros and
            ones.
        rngs: `nnx.Rngs`; the streams `params` (weights) and `dropout`.

    Taps: input (normalized), stage1..stage5 (after the pools), dense1, penultimate; all between the first and the last
    are hidden ones.

    Source: szagoruyko/cifar.torch, models/vgg_bn_drop.lua; Shaham et al. 2015, sec. 5.2.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: VggCifar(rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("stage1", "stage2", "stage3", "stage4", "stage5", "dense1")

    def __init__(
        self,
        num_classes: int = 10,
        *,
        width: int = 64,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
        rngs: nnx.Rngs,
    ) -> None:
        channels = input_channels(mean, std)
        self.mean, self.std = tuple(mean), tuple(std)
        stages = []
        for multiple, rates in _STAGES:
            units = []
            for rate in rates:
                units.append(_Unit(channels, multiple * width, rate, rngs=rngs))
                channels = multiple * width
            stages.append(nnx.List(units))
        self.stages = nnx.List(stages)
        self.dropout1 = nnx.Dropout(0.5, rngs=rngs)
        init = fan_in_uniform(channels)
        self.dense1 = nnx.Linear(channels, channels, kernel_init=init, bias_init=init, rngs=rngs)
        self.norm = batch_norm(channels, scale_init=_UNIT, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.5, rngs=rngs)
        self.dense2 = nnx.Linear(channels, num_classes, kernel_init=init, bias_init=init, rngs=rngs)

    def trunk(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The features before the dense layers, float32 [B, 1, 1, 8 `width`], of images as in a call."""
        check_images(images, None, None, len(self.mean))
        if max(images.shape[1:3]) > 32:
            raise ValueError(f"images must be 32x32 or smaller, got {images.shape}")
        x = tap("input", normalize(images, self.mean, self.std))
        for index, stage in enumerate(self.stages, 1):
            for unit in stage:
                x = unit(x)
            x = tap(f"stage{index}", max_pool(x, 2, 2, ceil=True))
        return x

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, H, W, C] in [0, 1], up to 32x32."""
        x = self.trunk(images, tap)
        x = self.dense1(self.dropout1(x.reshape(x.shape[0], -1)))
        x = tap("dense1", nnx.relu(self.norm(x)))
        return tap("penultimate", self.dense2(self.dropout2(x)))


class _Unit(nnx.Module):
    def __init__(self, inputs: int, outputs: int, rate: float, *, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(inputs, outputs, (3, 3), kernel_init=HE_FAN_OUT, bias_init=_ZEROS, rngs=rngs)
        self.norm = batch_norm(outputs, epsilon=1e-3, scale_init=_UNIT, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.norm(self.conv(x))))
