"""Blur: out of focus, and of a camera that moves."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.part import Number
from advjax.attacks.settings import check_real
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_size
from advjax.value import number, static, value

__all__ = ["DefocusBlur", "MotionBlur", "disk"]


@value
class DefocusBlur(Disturbance):
    """Each pixel the mean over a disk around it, whose rim is softened by a Gaussian; the image goes on mirrored.

    Attributes:
        radius: of the disk, in pixels.
        softening: the deviation of the Gaussian, in pixels.

    It draws nothing. Source: Hendrycks and Dietterich 2019 (`disk`, then OpenCV's filter2D, whose mirror stands on the
    border pixel).

    >>> round(DefocusBlur(1.0, 0.1).apply(jnp.zeros((5, 5, 1)).at[2, 2].set(1.0), ()).max().item(), 4)
    0.2
    """

    radius: float = static()
    softening: float = static()

    def __post_init__(self) -> None:
        for name in ("radius", "softening"):
            size = getattr(self, name)
            if not isinstance(size, int | float) or isinstance(size, bool) or not 0 < size < np.inf:
                raise ValueError(f"{name} must be a number above 0, got {size!r}")

    def apply(self, image: jax.Array, draw: tuple[()]) -> jax.Array:
        """The blurred image [H, W, C]."""
        kernel = jnp.asarray(disk(self.radius, self.softening))
        around = (kernel.shape[0] // 2,) * 2
        mirrored = jnp.pad(image, (around, around, (0, 0)), "reflect")
        planes = jnp.moveaxis(mirrored, -1, 0)[:, None]
        blurred = jax.lax.conv(planes, kernel[None, None], (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
        return jnp.clip(jnp.moveaxis(blurred[:, 0], 0, -1), 0.0, 1.0)


def disk(radius: float, softening: float) -> np.ndarray:
    """The weights float32 [k, k] of a disk of sum 1, blurred by a Gaussian of 3 taps, or of 5 beyond a radius of 8.

    The Gaussian sees a mirror at the border of the 17x17 pixels that hold the disk (or of as many as it needs beyond a
    radius of 8), so that the sum of a disk that touches it is not quite 1. What is zero all around is cut off.

    >>> disk(1.0, 0.1).round(2).tolist()
    [[0.0, 0.2..., 0.0], [0.2..., 0.2..., 0.2...], [0.0, 0.2..., 0.0]]
    """
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    offset = np.arange(-half, half + 1)
    weights = (offset[:, None] ** 2 + offset[None] ** 2 <= radius**2).astype(np.float64)
    weights /= weights.sum()
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / softening) ** 2)
    taps /= taps.sum()
    for _ in range(2):  # along one axis, then along the other
        mirrored = np.pad(weights, ((reach, reach), (0, 0)), "reflect")
        weights = sum(tap * mirrored[i : i + len(offset)] for i, tap in enumerate(taps)).T
    outside = int(np.argmax((weights > 1e-12).any(1)))
    inside = slice(outside, len(offset) - outside)
    return weights[inside, inside].astype(np.float32)


@value
class MotionBlur(Disturbance):
    """The weighted mean of the image and its copies shifted along a line, as ImageMagick's motion blur makes it:

        y(p) = sum_i w_i x(p + s_i),    w_i ~ exp(-i^2 / (2 sigma^2)),    i = 0 .. 2 radius,

    with shifts s_i = (ceil(i sin a - 1/2), ceil(i cos a - 1/2)) of whole rows and columns; beyond the border the image
    goes on as its last row or column. The weights are half a Gaussian: the blur drags to one side.

    Attributes:
        radius: half the length of the line, in pixels.
        sigma: the deviation of the Gaussian, in pixels; one number, or one for each image [B].
        angle: the angle a is uniform between -angle and angle, in degrees.

    Its draw is a, in degrees. Source: Hendrycks and Dietterich 2019, who call ImageMagick; what that gives, cut to 8
    bits, is floor(255 y) but where 255 y is within 0.002 of a whole number (ImageMagick 6.9.11, 16 bits a channel).

    >>> MotionBlur(1, 0.1).apply(jnp.float32([[[0.0], [1.0]]]), jnp.float32(0.0)).ravel().round(3).tolist()
    [0.0, 1.0]
    """

    radius: int = static()
    sigma: Number = number()
    angle: Number = number(default=45.0)

    def __post_init__(self) -> None:
        check_size("radius", self.radius)
        check_real("sigma", self.sigma, "a number above 0", lambda array: array > 0)
        check_real("angle", self.angle, "a number in [0, 180]", lambda array: (array >= 0) & (array <= 180))

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """The angle in degrees."""
        return jax.random.uniform(key, minval=-self.angle, maxval=self.angle)

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The blurred image [H, W, C]."""
        longest = 2 * self.radius
        step = jnp.arange(longest + 1, dtype=jnp.float32)
        weights = jnp.exp(-0.5 * (step / self.sigma) ** 2)
        radians = draw * (np.pi / 180)
        line = jnp.stack([jnp.sin(radians), jnp.cos(radians)])
        shifts = jnp.ceil(step[:, None] * line[None] - 0.5).astype(jnp.int32)
        around = (longest, longest)
        beyond = jnp.pad(image, (around, around, (0, 0)), "edge")

        def add(total: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            weight, (rows, columns) = one
            return total + weight * jax.lax.dynamic_slice(
                beyond, (longest + rows, longest + columns, 0), image.shape
            ), None

        total, _ = jax.lax.scan(add, jnp.zeros_like(image), (weights / jnp.sum(weights), shifts))
        return jnp.clip(total, 0.0, 1.0)
