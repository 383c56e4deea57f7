"""Coarse pixels: the image made smaller, and as large as before."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.transforms import to_float
from advjax.disturb.disturbance import Disturbance
from advjax.value import static, value

__all__ = ["Pixelate"]


@value
class Pixelate(Disturbance):
    """The image at `share` of its height and width, rounded down, and back, by Pillow's BOX filter on 8 bits.

    A pixel of the smaller image is the mean of those whose centers lie in its box, rounded to k/255 after the columns
    and again after the rows; one of the larger image is that in whose box it lies. Images are rounded to k/255 first.

    Attributes:
        share: in (0, 1].

    It draws nothing. Source: Hendrycks and Dietterich 2019; Pillow's resize.

    >>> levels = Pixelate(0.5).apply(jnp.float32([[[0.0], [0.4], [0.8], [1.0]]] * 2), ()) * 255
    >>> levels[0].ravel().round().tolist()
    [51.0, 51.0, 230.0, 230.0]
    """

    share: float = static()

    def __post_init__(self) -> None:
        if not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise ValueError(f"share must be a number in (0, 1], got {self.share!r}")

    def apply(self, image: jax.Array, draw: tuple[()]) -> jax.Array:
        """The coarse image [H, W, C], its values k/255."""
        height, width = image.shape[:2]
        small = tuple(int(length * self.share) for length in (height, width))
        if min(small) < 1:
            raise ValueError(f"share must leave a pixel of images of {height}x{width}, got {self.share}")
        levels = jnp.round(image * 255.0).astype(jnp.int32)
        for rows, columns in (small, (height, width)):
            levels = _resized(_resized(levels, columns, 1), rows, 0)
        return to_float(levels.astype(jnp.uint8))


def _resized(levels: jax.Array, length: int, axis: int) -> jax.Array:
    """One pass of Pillow's resize: one axis of the levels int32 [H, W, C] at another length."""
    inside = jnp.asarray(_in_box(levels.shape[axis], length))
    total = jnp.moveaxis(jnp.tensordot(inside, levels, ((1,), (axis,))), 0, axis)
    count = jnp.expand_dims(jnp.sum(inside, 1), tuple(other for other in range(3) if other != axis))
    return (2 * total + count) // (2 * count)  # halves go up


def _in_box(before: int, after: int) -> np.ndarray:
    """int32 [after, before]: which pixels before have their center in the box of a pixel after."""
    scale = before / after
    center = (np.arange(after) + 0.5) * scale
    place = (np.arange(before) + 0.5 - center[:, None]) / max(scale, 1.0)
    return ((place > -0.5) & (place <= 0.5)).astype(np.int32)
