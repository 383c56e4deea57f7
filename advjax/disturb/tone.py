"""Brighter, and with less contrast."""

import jax
import jax.numpy as jnp

from advjax.attacks.part import Number
from advjax.attacks.settings import check_radius
from advjax.disturb.disturbance import Disturbance
from advjax.value import number, value

__all__ = ["Brightness", "Contrast"]


@value
class Brightness(Disturbance):
    """The value of each pixel, of hue, saturation and value, raised by `shift`, up to 1.

    With V the largest channel, hue and saturation stay as they are where all channels grow in proportion:
    x min(V + shift, 1) / V; a black pixel becomes gray.

    Attributes:
        shift: 0 or more; one number, or one for each image [B].

    It draws nothing.

    >>> Brightness(0.25).apply(jnp.float32([[[0.5, 0.25, 0.0], [0.0, 0.0, 0.0]]]), ()).tolist()
    [[[0.75, 0.375, 0.0], [0.25, 0.25, 0.25]]]
    """

    shift: Number = number()

    def __post_init__(self) -> None:
        check_radius("shift", self.shift)

    def apply(self, image: jax.Array, draw: tuple[()]) -> jax.Array:
        """The brighter image [H, W, C]."""
        top = jnp.max(image, -1, keepdims=True)
        share = jnp.where(top > 0, image / jnp.where(top > 0, top, 1.0), 1.0)
        return share * jnp.minimum(top + self.shift, 1.0)


@value
class Contrast(Disturbance):
    """clip(m + factor (x - m), 0, 1) with m the mean of the image, channel by channel.

    Attributes:
        factor: 0 or more; one number, or one for each image [B].

    It draws nothing.

    >>> Contrast(0.5).apply(jnp.float32([[[0.0], [1.0]]]), ()).ravel().tolist()
    [0.25, 0.75]
    """

    factor: Number = number()

    def __post_init__(self) -> None:
        check_radius("factor", self.factor)

    def apply(self, image: jax.Array, draw: tuple[()]) -> jax.Array:
        """The image [H, W, C] nearer to its mean."""
        mean = jnp.mean(image, (0, 1), keepdims=True)
        return jnp.clip((image - mean) * self.factor + mean, 0.0, 1.0)
