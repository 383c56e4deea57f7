"""Brightness, contrast, saturation and hue, each changed by a random amount, in random order."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.part import Number
from advjax.attacks.settings import check_radius, check_real
from advjax.disturb.color import from_hsv, luminance, to_hsv
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_channels
from advjax.value import number, value

__all__ = ["ColorDraw", "ColorJitter"]


class ColorDraw(NamedTuple):
    """What `ColorJitter` draws for an image.

    Attributes:
        order: int32 [4], which comes first, second, ...: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: how far to turn the hue, a share of the circle; 0 changes nothing.
    """

    order: jax.Array
    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    hue: jax.Array


@value
class ColorJitter(Disturbance):
    """Brightness, contrast, saturation and hue changed one after the other, in an order that is drawn too.

    With a factor f, clipped to [0, 1] each time:

        brightness  f x,    contrast  f x + (1 - f) mean(luminance(x)),    saturation  f x + (1 - f) luminance(x),

    and hue turns each pixel's by a share of the circle. Gray images know brightness and contrast alone.

    Attributes:
        brightness, contrast, saturation: c: the factor is uniform in [max(0, 1 - c), 1 + c]. One number, or one for
            each image [B].
        hue: c in [0, 0.5]: the turn is uniform in [-c, c].

    Di et al. give no strength, and their accuracies are those without it: the defaults, near to nothing, are ours.
    Source: torchvision's ColorJitter, with Pillow's weights in the luminance.

    >>> ColorJitter(0, 0, 0, 0)(jax.random.key(0), jnp.full((1, 1, 1, 3), 0.5)).ravel().tolist()
    [0.5, 0.5, 0.5]
    """

    brightness: Number = number(default=0.1)
    contrast: Number = number(default=0.1)
    saturation: Number = number(default=0.1)
    hue: Number = number(default=0.02)

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_radius(name, getattr(self, name))
        check_real("hue", self.hue, "a number in [0, 0.5]", lambda array: (array >= 0) & (array <= 0.5))

    def draw(self, key: jax.Array, image: jax.Array) -> ColorDraw:
        """The order, the three factors and the turn."""
        order, *keys, turn = jax.random.split(key, 5)
        brightness, contrast, saturation = [
            jax.random.uniform(key, minval=jnp.maximum(0.0, 1.0 - strength), maxval=1.0 + strength)
            for key, strength in zip(keys, (self.brightness, self.contrast, self.saturation), strict=True)
        ]
        hue = jax.random.uniform(turn, minval=-self.hue, maxval=self.hue)
        return ColorDraw(jax.random.permutation(order, 4), brightness, contrast, saturation, hue)

    def apply(self, image: jax.Array, draw: ColorDraw) -> jax.Array:
        """The image [H, W, C] after the four."""
        check_channels(image)
        changes = (
            lambda x: _blend(x, jnp.zeros_like(x), draw.brightness),
            lambda x: _blend(x, jnp.mean(luminance(x)), draw.contrast),
            lambda x: _blend(x, luminance(x), draw.saturation),
            lambda x: _turned(x, draw.hue),
        )

        def change(image: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.switch(which, changes, image), None

        return jax.lax.scan(change, image, draw.order)[0]


def _blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def _turned(image: jax.Array, turn: jax.Array) -> jax.Array:
    if image.shape[-1] == 1:
        return image
    hue, saturation, value = to_hsv(image)
    # There and back again is not exact, but a turn of nothing is.
    return jnp.where(turn == 0, image, from_hsv(hue + turn, saturation, value))
