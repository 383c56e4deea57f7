"""Of RGB pixels [..., 3]: luminance, and hue, saturation and value."""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["from_hsv", "luminance", "to_hsv"]

# Pillow's, of ITU-R 601. torchvision's tensors have 0.2989 for the first, which makes white a little gray.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def luminance(image: jax.Array) -> jax.Array:
    """[H, W, 1] of an image [H, W, C]: 0.299 R + 0.587 G + 0.114 B; a gray image, C = 1, is its own.

    >>> round(luminance(jnp.float32([[[1.0, 0.0, 0.5]]])).item(), 6)
    0.356
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = jnp.split(image, 3, axis=-1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hue, a share of the circle in [0, 1), saturation and value, both in [0, 1], [...] each, of RGB [..., 3].

    Value is the largest of the three, saturation the spread from the smallest over it, and hue goes red (0), yellow,
    green (1/3), cyan, blue (2/3), magenta. Gray has hue and saturation 0.

    >>> [round(x.item(), 4) for x in to_hsv(jnp.float32([0.0, 0.5, 0.25]))]
    [0.4167, 1.0, 0.5]
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    top = jnp.max(image, -1)
    spread = top - jnp.min(image, -1)
    divisor = jnp.where(spread > 0, spread, 1.0)
    sixth = jnp.where(
        top == red,
        (green - blue) / divisor,
        jnp.where(top == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    return jnp.mod(sixth / 6.0, 1.0), spread / jnp.where(top > 0, top, 1.0), top


def from_hsv(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """RGB [..., 3] of hue, saturation and value [...], as `to_hsv` gives them.

    A channel is V - V S max(0, min(k, 4 - k, 1)) with k = (n + 6 H) mod 6 and n = 5, 3, 1 for red, green, blue.

    >>> from_hsv(*to_hsv(jnp.float32([0.25, 0.5, 0.75]))).round(4).tolist()
    [0.25, 0.5, 0.75]
    """
    place = jnp.mod(jnp.stack([hue * 6.0 + n for n in (5.0, 3.0, 1.0)], -1), 6.0)
    distance = jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] * distance)
