"""The MNIST network of Shaham, Yamada and Negahban, with the normalizing input layer of their robust networks."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.layers import batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["ShahamNet"]


class ShahamNet(nnx.Module):
    """The convolutional network for MNIST padded with zeros to 32x32; 105,506 parameters, 2.0M multiply-adds.

    (255 x - mean) / std -> [batch normalization] -> conv 5x5x32 (valid) -> ReLU -> max pool 3/3
    -> conv 5x5x64 (valid) -> ReLU -> max pool 2/2 -> dense 200 -> ReLU -> dense `num_classes`.
    Weights and biases start as U(+-1/sqrt(fan_in)), torch7's default.

    Args:
        num_classes: number of logits.
        mean, std: of the standardization, in gray levels 0..255; the defaults are those of the 60,000 training
            images after padding. They become the variables `mean` and `std` (`nnx.Variable`, not trained),
            because the authors standardize the test images by the test set's own numbers, 25.87 and 70.74.
        input_norm: batch normalization without trained parameters on the standardized images (epsilon 1e-5,
            momentum 0.1), which the authors' robust networks have and their baseline has not.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input (standardized), [input_norm], pool1, pool2, dense1, penultimate; the hidden ones are pool1, pool2 and
    dense1.

    Source: Shaham et al. 2015, sec. 5.1; yutaroyamada/RobustTraining, mnist/train-*.lua.

    >>> model = ShahamNet(rngs=nnx.Rngs(0))
    >>> model.mean[...], model.std[...] = jnp.float32(25.87), jnp.float32(70.74)
    >>> model(jnp.zeros((2, 32, 32, 1))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("pool1", "pool2", "dense1")

    def __init__(
        self,
        num_classes: int = 10,
        *,
        mean: float = 25.51,
        std: float = 70.18,
        input_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.mean = nnx.Variable(jnp.float32(mean))
        self.std = nnx.Variable(jnp.float32(std))
        self.input_norm = batch_norm(1, use_bias=False, use_scale=False, rngs=rngs) if input_norm else None
        self.conv1 = _conv(1, 32, rngs)
        self.conv2 = _conv(32, 64, rngs)
        self.dense1 = _dense(2 * 2 * 64, 200, rngs)
        self.dense2 = _dense(200, num_classes, rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, 32, 32, 1] in [0, 1]."""
        check_images(images, 32, 32, 1)
        x = tap("input", (images * 255 - self.mean[...]) / self.std[...])
        if self.input_norm is not None:
            x = tap("input_norm", self.input_norm(x))
        x = tap("pool1", max_pool(nnx.relu(self.conv1(x)), 3, 3))
        x = tap("pool2", max_pool(nnx.relu(self.conv2(x)), 2, 2))
        x = tap("dense1", nnx.relu(self.dense1(x.reshape(x.shape[0], -1))))
        return tap("penultimate", self.dense2(x))


def _conv(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    init = fan_in_uniform(25 * inputs)
    return nnx.Conv(inputs, outputs, (5, 5), padding="VALID", kernel_init=init, bias_init=init, rngs=rngs)


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    init = fan_in_uniform(inputs)
    return nnx.Linear(inputs, outputs, kernel_init=init, bias_init=init, rngs=rngs)
