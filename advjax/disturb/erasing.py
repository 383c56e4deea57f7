"""A box of random place, size and shape painted over."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.part import Number
from advjax.attacks.settings import check_real
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_probability
from advjax.value import number, value

__all__ = ["ErasingDraw", "RandomErasing"]

_ATTEMPTS = 100


class ErasingDraw(NamedTuple):
    """First row and column, height and width, int32; a height of 0 is no box."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


@value
class RandomErasing(Disturbance):
    """With probability p, one box of the image becomes `fill`.

    The box is the first that fits of up to 100 attempts; the image stays whole where none does. An attempt draws

        S ~ U(area) H W,    r ~ U(aspect),    height = round(sqrt(S r)),    width = round(sqrt(S / r)),

    fits where it is smaller than the image in both, and is put at a place drawn uniformly. All attempts are drawn at
    once, so that nothing waits for the host; the first that fits has the law that a loop of draws gives it.

    Attributes:
        p: the probability; one number, or one for each image [B].
        area: the smallest and largest share of the image's area, [2] (or [B, 2]).
        aspect: the smallest and largest height over width, [2] (or [B, 2]).
        fill: the values of the box, one for each channel or one for all, [C] or [1] (or with [B] in front), in the
            units of the images. The authors' code fills after it has standardized: for what it does with (0.4914,
            0.4822, 0.4465) there, give mean + deviation * that here.

    Its draw is an `ErasingDraw`. Source: Zhong et al. 2017, algorithm 1, and their code, whose r is uniform
    (torchvision's logarithm is).

    >>> box = ErasingDraw(*jnp.int32([0, 1, 2, 1]))
    >>> RandomErasing().apply(jnp.ones((2, 3, 1)), box)[..., 0].tolist()
    [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    """

    p: Number = number(default=0.5)
    area: Number | tuple[float, float] = number(rank=1, default=(0.02, 0.4))
    aspect: Number | tuple[float, float] = number(rank=1, default=(0.3, 1 / 0.3))
    fill: Number | tuple[float, ...] = number(rank=1, default=(0.0,))

    def __post_init__(self) -> None:
        check_probability("p", self.p)
        check_real("area", self.area, "two numbers in (0, 1]", lambda array: (array > 0) & (array <= 1))
        check_real("aspect", self.aspect, "two numbers above 0", lambda array: array > 0)
        for name in ("area", "aspect"):
            if (shape := np.shape(getattr(self, name)))[-1:] != (2,):
                raise ValueError(f"{name} must be two numbers, the smallest and the largest, got shape {shape}")

    def draw(self, key: jax.Array, image: jax.Array) -> ErasingDraw:
        """The box, of height 0 where nothing is to be painted over."""
        height, width, _ = image.shape
        chance, sizes, shapes, places = jax.random.split(key, 4)
        size = _uniform(sizes, self.area) * float(height * width)
        shape = _uniform(shapes, self.aspect)
        rows = jnp.round(jnp.sqrt(size * shape)).astype(jnp.int32)
        columns = jnp.round(jnp.sqrt(size / shape)).astype(jnp.int32)
        fits = (rows < height) & (columns < width)
        first = jnp.argmax(fits)
        rows, columns = rows[first], columns[first]
        wanted = jax.random.bernoulli(chance, self.p) & fits[first]
        # A box that does not fit leaves no place: any will do for it.
        room = jnp.maximum(jnp.stack([height - rows, width - columns]) + 1, 1)
        top, left = jax.random.randint(places, (2,), 0, room)
        return ErasingDraw(top, left, jnp.where(wanted, rows, 0), columns)

    def apply(self, image: jax.Array, draw: ErasingDraw) -> jax.Array:
        """The image [H, W, C] with the box painted over."""
        height, width, channels = image.shape
        fill = jnp.asarray(self.fill)
        if fill.shape not in ((1,), (channels,)):
            raise ValueError(f"fill must have 1 value or {channels}, one for each channel, got shape {fill.shape}")
        row, column = jnp.arange(height), jnp.arange(width)
        rows = (row >= draw.top) & (row < draw.top + draw.height)
        columns = (column >= draw.left) & (column < draw.left + draw.width)
        inside = rows[:, None, None] & columns[None, :, None]
        return jnp.where(inside, fill[None, None].astype(image.dtype), image)


def _uniform(key: jax.Array, bounds: Number | tuple[float, ...]) -> jax.Array:
    low, high = jnp.asarray(bounds)
    return jax.random.uniform(key, (_ATTEMPTS,), minval=low, maxval=high)
