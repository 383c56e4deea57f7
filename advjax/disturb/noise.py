"""Noise of a sensor: Gaussian, of photons that are counted, and of dead pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.part import Number
from advjax.attacks.settings import check_radius, check_real
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_probability
from advjax.value import number, value

__all__ = ["GaussianNoise", "ImpulseDraw", "ImpulseNoise", "ShotNoise"]


@value
class GaussianNoise(Disturbance):
    """clip(x + deviation n, 0, 1) with n standard normal, for each pixel and channel.

    Attributes:
        deviation: of the noise; one number, or one for each image [B].

    Its draw is n, [H, W, C].

    >>> GaussianNoise(0.5).apply(jnp.zeros((1, 2, 1)), jnp.float32([[[1.0], [-1.0]]])).ravel().tolist()
    [0.5, 0.0]
    """

    deviation: Number = number()

    def __post_init__(self) -> None:
        check_radius("deviation", self.deviation)

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Standard normal, [H, W, C]."""
        return jax.random.normal(key, image.shape)

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The noisy image [H, W, C]."""
        return jnp.clip(image + self.deviation * draw, 0.0, 1.0)


@value
class ShotNoise(Disturbance):
    """min(k / photons, 1) with k ~ Poisson(photons x), for each pixel and channel.

    Attributes:
        photons: how many a white pixel gets on average; one number, or one for each image [B].

    Its draw is k, float32 [H, W, C].

    >>> ShotNoise(4.0).apply(jnp.zeros((1, 2, 1)), jnp.float32([[[1.0], [5.0]]])).ravel().tolist()
    [0.25, 1.0]
    """

    photons: Number = number()

    def __post_init__(self) -> None:
        check_real("photons", self.photons, "a number above 0", lambda array: array > 0)

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """The photons that came, float32 [H, W, C]."""
        return jax.random.poisson(key, self.photons * image).astype(jnp.float32)

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The image [H, W, C] that they make."""
        # Not a division, which XLA turns into this product or leaves as it is, by the shape of the batch.
        return jnp.clip(draw * (1.0 / self.photons), 0.0, 1.0)


class ImpulseDraw(NamedTuple):
    """Which pixels are hit and which of these become white, bool [H, W, C] each."""

    hit: jax.Array
    white: jax.Array


@value
class ImpulseNoise(Disturbance):
    """Salt and pepper: each pixel and channel becomes 0 or 1, as likely, with probability `amount`.

    Attributes:
        amount: the probability; one number, or one for each image [B].

    Its draw is an `ImpulseDraw`. Source: scikit-image's random_noise, mode "s&p".

    >>> draw = ImpulseDraw(jnp.array([[[True], [True], [False]]]), jnp.array([[[True], [False], [True]]]))
    >>> ImpulseNoise(0.1).apply(jnp.full((1, 3, 1), 0.5), draw).ravel().tolist()
    [1.0, 0.0, 0.5]
    """

    amount: Number = number()

    def __post_init__(self) -> None:
        check_probability("amount", self.amount)

    def draw(self, key: jax.Array, image: jax.Array) -> ImpulseDraw:
        """Which are hit, and which become white."""
        hit, white = jax.random.split(key)
        return ImpulseDraw(
            jax.random.bernoulli(hit, self.amount, image.shape), jax.random.bernoulli(white, 0.5, image.shape)
        )

    def apply(self, image: jax.Array, draw: ImpulseDraw) -> jax.Array:
        """The image [H, W, C] with the pixels that are hit black or white."""
        return jnp.where(draw.hit, draw.white.astype(image.dtype), image)
