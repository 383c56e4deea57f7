"""A small generator, classifier and trunk, and a set that the classifier knows half of."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax import from_nnx
from advjax.generators import Generator, Players
from advjax.models.taps import untapped
from advjax.training import Resident

__all__ = ["SHAPE", "STD", "Tapped", "known_set", "players"]

SHAPE = (6, 6, 2)
STD = (0.25, 0.5)


class Tapped(nnx.Module):
    """Two dense layers with taps, as the networks of `advjax.models` have them."""

    def __init__(self, seed, hidden=5):
        rngs = nnx.Rngs(seed)
        self.dense1 = nnx.Linear(72, hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, 3, rngs=rngs)

    def __call__(self, images, tap=untapped):
        x = tap("input", images - 0.5).reshape(images.shape[0], -1)
        return tap("penultimate", self.dense2(tap("dense1", jnp.tanh(self.dense1(x)))))


class _Encoder(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)

    def trunk(self, images):
        return jnp.tanh(self.conv(images))


class _Decoder(nnx.Module):
    def __init__(self, rngs, norm):
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs) if norm else lambda x: x
        self.deconv = nnx.ConvTranspose(4, 2, (4, 4), 2, rngs=rngs)

    def __call__(self, x):
        return self.deconv(self.norm(x))


def players(seed=0, *, norm=True, classifier=None, trunk=None, per_label=False):
    """Players around a small tapped network; `norm`: with batch statistics in the generator."""
    rngs = nnx.Rngs(seed)
    generator = Generator(_Encoder(rngs), _Decoder(rngs, norm), std=STD)
    classifier = from_nnx(Tapped(10)) if classifier is None else classifier
    return Players(generator, classifier, SHAPE, trunk=trunk, per_label=per_label, rngs=rngs)


def known_set(images=48, seed=0):
    """Random images and labels that the classifier `Tapped(10)` gives to two of three of them."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, *SHAPE)).astype(np.uint8)
    said = np.asarray(from_nnx(Tapped(10))(jnp.asarray(pixels / 255, jnp.float32)).argmax(-1))
    labels = np.where(np.arange(images) % 3 > 0, said, (said + 1) % 3).astype(np.int32)
    return Resident(pixels, labels)


def equal(one, other):
    """Asserts that two trees hold the same bits."""
    jax.tree.map(np.testing.assert_array_equal, one, other)
