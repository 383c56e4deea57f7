"""Plane motions and the sampling of images under them: parametrisation, bilinear interpolation, validity."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.scores.norms import check_pair

__all__ = [
    "MOTIONS",
    "Frame",
    "Interpolation",
    "Motion",
    "frame_of",
    "motion_matrix",
    "pixel_grid",
    "project",
    "sample",
    "warp_image",
]

Motion = Literal["translation", "euclidean", "affine", "homography"]
Interpolation = Literal["gather", "matmul"]

MOTIONS: dict[str, int] = {"translation": 2, "euclidean": 3, "affine": 6, "homography": 8}
"""Parameters of each motion; all of them zero is the identity."""


class Frame(NamedTuple):
    """Normalised coordinates of a pixel grid: X = (x - centre_x) / scale, so that X lies near [-1, 1].

    One scale for both axes: a rotation in these coordinates is a rotation of pixels. In raw pixel
    coordinates the perspective columns of the Jacobian are some 1e4 times the others, too much for float32.
    """

    height: int
    width: int
    centre_y: float
    centre_x: float
    scale: float

    def halved(self) -> "Frame":
        """The frame of the image averaged over 2 x 2 blocks: the same points keep their coordinates."""
        return Frame(
            (self.height + 1) // 2,
            (self.width + 1) // 2,
            (self.centre_y - 0.5) / 2,
            (self.centre_x - 0.5) / 2,
            self.scale / 2,
        )

    def to_pixels(self) -> np.ndarray:
        """[3, 3] matrix from normalised to pixel coordinates (x, y, 1)."""
        return np.array([[self.scale, 0, self.centre_x], [0, self.scale, self.centre_y], [0, 0, 1]])


def frame_of(height: int, width: int) -> Frame:
    """The frame with the image's centre at 0 and its longer side from -1 to 1."""
    return Frame(height, width, (height - 1) / 2, (width - 1) / 2, max(height, width) / 2)


def motion_matrix(parameters: jax.Array, motion: Motion) -> jax.Array:
    """The [3, 3] matrix of `parameters` [k]; zeros give the identity.

    homography  [[1+p0, p3, p6], [p1, 1+p4, p7], [p2, p5, 1]]      (OpenCV's order, column by column)
    affine      the same with p2 = p5 = 0                           (a0, a1, a3, a4, a6, a7 in that order)
    euclidean   rotation by p0, then translation by (p1, p2)
    translation by (p0, p1)
    """
    p = parameters
    zero = jnp.zeros_like(p[0])
    if motion == "translation":
        columns = [zero, zero, zero, zero, zero, zero, p[0], p[1]]
    elif motion == "euclidean":
        # cos - 1 as -2 sin^2(half): no cancellation at small angles.
        sine, cosine_less_1 = jnp.sin(p[0]), -2 * jnp.square(jnp.sin(p[0] / 2))
        columns = [cosine_less_1, sine, zero, -sine, cosine_less_1, zero, p[1], p[2]]
    elif motion == "affine":
        columns = [p[0], p[1], zero, p[2], p[3], zero, p[4], p[5]]
    else:
        columns = list(p)
    return jnp.stack([*columns, zero]).reshape(3, 3).T + jnp.eye(3, dtype=p.dtype)


def project(matrix: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x', y', 1/den) of the points (x, y) under a [3, 3] homography; points at or behind infinity go far out."""
    m = matrix
    denominator = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    visible = denominator > 1e-3
    inverse = 1 / jnp.where(visible, denominator, 1)
    x_new = jnp.where(visible, (m[0, 0] * x + m[0, 1] * y + m[0, 2]) * inverse, 1e6)
    y_new = jnp.where(visible, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) * inverse, 1e6)
    return x_new, y_new, inverse


def sample(
    values: jax.Array, height: int, width: int, x: jax.Array, y: jax.Array, first: jax.Array | int = 0
) -> jax.Array:
    """Bilinear interpolation of pixels [..., C], row by row from index `first`, at pixel points [P] -> [P, C].

    Points outside take the nearest border value. `values` may hold many images one after the other:
    `first` then says where this one starts, and no image has to be copied to be read.
    """
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    column = jnp.minimum(jnp.floor(jax.lax.stop_gradient(x)), width - 2)
    row = jnp.minimum(jnp.floor(jax.lax.stop_gradient(y)), height - 2)
    along, down = (x - column)[:, None], (y - row)[:, None]
    corner = first + row.astype(jnp.int32) * width + column.astype(jnp.int32)

    def tap(offset: int) -> jax.Array:
        return values.at[corner + offset].get(mode="promise_in_bounds")

    upper = tap(0) + along * (tap(1) - tap(0))
    lower = tap(width) + along * (tap(width + 1) - tap(width))
    return upper + down * (lower - upper)


def warp_image(image: jax.Array, warp: jax.Array) -> jax.Array:
    """The image seen through a homography: out(x, y) = image(warp (x, y, 1)), bilinear, 0 outside.

    This is OpenCV's `warpPerspective(image, warp, INTER_LINEAR | WARP_INVERSE_MAP)`: `warp` takes pixel
    coordinates (x to the right, y down) of the result to those of `image`. Differentiable in both.

    Args:
      image: floats [H, W, C].
      warp: [3, 3].

    Returns:
      [H, W, C].

    >>> import jax.numpy as jnp
    >>> image = jnp.arange(12.0).reshape(3, 4, 1)
    >>> right = jnp.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    >>> warp_image(image, right)[0, :, 0].tolist()
    [1.0, 2.0, 3.0, 0.0]
    """
    check_pair(image, image, "image", "image")
    height, width, channels = image.shape
    x, y = pixel_grid(height, width, image.dtype)
    x_new, y_new, _ = project(warp, x, y)
    bordered = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    return sample(bordered, height + 2, width + 2, x_new + 1, y_new + 1).reshape(height, width, channels)


def pixel_grid(height: int, width: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """x and y of every pixel, row by row, each [H * W]."""
    y, x = np.mgrid[:height, :width]
    return jnp.asarray(x.ravel(), dtype), jnp.asarray(y.ravel(), dtype)
