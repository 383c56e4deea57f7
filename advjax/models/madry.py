"""The MNIST network of Madry et al.'s challenge, which localized adversarial training starts from."""

from typing import Any, ClassVar

import jax
from flax import nnx

from advjax.models.layers import check_images, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["MadryNet"]

# TensorFlow's truncated_normal(stddev=0.1): the cut normal is not rescaled to a standard deviation of 0.1.
_NORMAL = nnx.initializers.truncated_normal(0.1, lower=-2.0, upper=2.0)
_TENTH = nnx.initializers.constant(0.1)


class MadryNet(nnx.Module):
    """The convolutional network of the MNIST challenge; 3,274,634 parameters, 13.9M multiply-adds.

    conv 5x5x32 (same) -> ReLU -> max pool 2/2 -> conv 5x5x64 (same) -> ReLU -> max pool 2/2 -> dense 1024
    -> ReLU -> dense `num_classes`. Weights start as a normal of standard deviation 0.1 cut at 2 standard
    deviations, biases as 0.1. Images enter as they are.

    Args:
        num_classes: number of logits.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input, pool1, pool2, dense1, penultimate; the hidden ones are pool1, pool2 and dense1.

    Source: MadryLab/mnist_challenge, model.py; Madry et al. 2018; Rothberg et al. 2019.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: MadryNet(rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28, 1)))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("pool1", "pool2", "dense1")

    def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs) -> None:
        init: dict[str, Any] = {"kernel_init": _NORMAL, "bias_init": _TENTH, "rngs": rngs}
        self.conv1 = nnx.Conv(1, 32, (5, 5), **init)
        self.conv2 = nnx.Conv(32, 64, (5, 5), **init)
        self.dense1 = nnx.Linear(7 * 7 * 64, 1024, **init)
        self.dense2 = nnx.Linear(1024, num_classes, **init)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, 28, 28, 1] in [0, 1]."""
        check_images(images, 28, 28, 1)
        x = tap("input", images)
        x = tap("pool1", max_pool(nnx.relu(self.conv1(x)), 2, 2))
        x = tap("pool2", max_pool(nnx.relu(self.conv2(x)), 2, 2))
        x = tap("dense1", nnx.relu(self.dense1(x.reshape(x.shape[0], -1))))
        return tap("penultimate", self.dense2(x))
