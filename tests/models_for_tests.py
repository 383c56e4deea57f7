"""Small classifiers that the tests attack."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx


def linear(weights, images):
    """Logits of a linear classifier: weights {"w": [H*W*C, K], "b": [K]}."""
    return images.reshape(images.shape[0], -1) @ weights["w"] + weights["b"][None]


def linear_weights(seed=0, pixels=36, classes=4):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(pixels, classes)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=classes), jnp.float32),
    }


def convolutional(weights, images):
    """Logits of a small convolutional network with a pool and a ReLU."""
    x = jax.lax.conv_general_dilated(
        images - 0.5, weights["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(x.shape[0], -1) @ weights["dense"]


def convolutional_weights(seed=0, size=8, channels=1, classes=5):
    rng = np.random.default_rng(seed)
    return {
        "conv": jnp.asarray(rng.normal(size=(3, 3, channels, 6)) * 0.5, jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(size * size // 4 * 6, classes)) * 0.3, jnp.float32),
    }


class NnxNet(nnx.Module):
    """With BatchNorm and Dropout, as users bring them."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(8 * 8 * 4, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.dense(self.dropout(x.reshape(x.shape[0], -1)))


class NnxNetWithSwitch(NnxNet):
    """In NNX, with the switch as an argument of the call."""

    def __call__(self, x, train):
        x = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
        return self.dense(self.dropout(x.reshape(x.shape[0], -1), deterministic=not train))


class LinenNet(linen.Module):
    """The same in Linen."""

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Conv(4, (3, 3))(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        return linen.Dense(5)(x)


def grid_images(seed, shape):
    """Random images on the grid k/255."""
    levels = np.random.default_rng(seed).integers(0, 256, shape)
    return (levels / np.float32(255)).astype(np.float32)
