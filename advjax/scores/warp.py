"""Plane motions and the sampling of images under them: parametrization, bilinear interpolation, pixel grids."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from advjax.scores.norms import check_pair, widened

__all__ = [
    "INTERPOLATIONS",
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
"""Number of parameters of each motion; all of them 0 is the identity."""
INTERPOLATIONS = ("gather", "matmul")

_POINTS_PER_PRODUCT = 1024
"""Points interpolated by one matrix product: bounds its intermediate to 1024 x W x C numbers."""


class Frame(NamedTuple):
    """Normalized coordinates of a pixel grid: X = (x - center_x) / scale, near [-1, 1].

    One scale serves both axes, so a rotation here is a rotation of pixels. In raw pixel coordinates the
    perspective columns of the Jacobian exceed the others some 1e4 times: too much for float32.

    `height` and `width` are those of the array. The picture has `rows` and `columns` of it, from the upper left corner
    on: all, or, where pictures of many sizes share a shape, arrays [N] like all that follows.
    """

    height: int
    width: int
    rows: int | jax.Array
    columns: int | jax.Array
    center_y: float | jax.Array
    center_x: float | jax.Array
    scale: float | jax.Array

    @property
    def filled(self) -> bool:
        """Whether the picture is all of the array."""
        return isinstance(self.rows, int)

    def of(self, pair: jax.Array) -> "Frame":
        """The frame of one of N pictures; beyond them that of the last."""
        if self.filled:
            return self
        return Frame(self.height, self.width, *(jnp.asarray(part).at[pair].get(mode="clip") for part in self[2:]))

    def halved(self) -> "Frame":
        """The frame after averaging 2 x 2 blocks: points of the scene keep their coordinates."""
        return Frame(
            (self.height + 1) // 2,
            (self.width + 1) // 2,
            (self.rows + 1) // 2,
            (self.columns + 1) // 2,
            (self.center_y - 0.5) / 2,
            (self.center_x - 0.5) / 2,
            self.scale / 2,
        )

    def to_pixels(self) -> jax.Array:
        """[3, 3] matrix taking (X, Y, 1) to pixel coordinates (x, y, 1)."""
        return jnp.array([[self.scale, 0, self.center_x], [0, self.scale, self.center_y], [0, 0, 1]])

    def inside(self, inset: int = 0) -> jax.Array | np.ndarray:
        """Which pixels of the array belong to the picture and lie `inset` from its border: bool [H, W]."""
        y, x = np.mgrid[: self.height, : self.width].astype(np.int32)
        return (y >= inset) & (y < self.rows - inset) & (x >= inset) & (x < self.columns - inset)


def frame_of(height: int, width: int, sizes: jax.Array | None = None, dtype: DTypeLike = float) -> Frame:
    """The frame with 0 at the picture's center and its longer side spanning [-1, 1].

    Args:
        height, width: of the arrays.
        sizes: int32 [N, 2], rows and columns of the picture in each; None: all.
        dtype: of the coordinates, if there are sizes.
    """
    if sizes is None:
        return Frame(height, width, height, width, (height - 1) / 2, (width - 1) / 2, max(height, width) / 2)
    rows, columns = sizes.T
    center_y, center_x, scale = jnp.stack([rows - 1, columns - 1, jnp.maximum(rows, columns)]).astype(dtype) / 2
    return Frame(height, width, rows, columns, center_y, center_x, scale)


def motion_matrix(parameters: jax.Array, motion: Motion) -> jax.Array:
    """The [3, 3] matrix of `parameters` [k]; zeros give the identity.

    homography:  [[1 + p0, p3, p6], [p1, 1 + p4, p7], [p2, p5, 1]]   (OpenCV's order: column by column)
    affine:      [[1 + p0, p2, p4], [p1, 1 + p3, p5], [0, 0, 1]]
    euclidean:   rotation by the angle p0, then translation by (p1, p2)
    translation: by (p0, p1)
    """
    p = parameters
    zero = jnp.zeros_like(p[0])
    if motion == "translation":
        columns = [zero] * 6 + [p[0], p[1]]
    elif motion == "euclidean":
        # cos - 1 written as -2 sin(half)^2: exact for small angles.
        sine, cosine_less_1 = jnp.sin(p[0]), -2 * jnp.square(jnp.sin(p[0] / 2))
        columns = [cosine_less_1, sine, zero, -sine, cosine_less_1, zero, p[1], p[2]]
    elif motion == "affine":
        columns = [p[0], p[1], zero, p[2], p[3], zero, p[4], p[5]]
    else:
        columns = list(p)
    return jnp.stack([*columns, zero]).reshape(3, 3).T + jnp.eye(3, dtype=p.dtype)


def pixel_grid(height: int, width: int, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """x and y of every pixel, row by row, each [H * W]."""
    y, x = np.mgrid[:height, :width]
    return jnp.asarray(x.ravel(), dtype), jnp.asarray(y.ravel(), dtype)


def project(matrix: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x', y', 1 / denominator) of points under a [3, 3] homography; points not in front of it go far out."""
    m = matrix
    denominator = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    in_front = denominator > 1e-3
    inverse = 1 / jnp.where(in_front, denominator, 1)
    x_new = jnp.where(in_front, (m[0, 0] * x + m[0, 1] * y + m[0, 2]) * inverse, 1e6)
    y_new = jnp.where(in_front, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) * inverse, 1e6)
    return x_new, y_new, inverse


def sample(
    values: jax.Array,
    height: int,
    width: int,
    x: jax.Array,
    y: jax.Array,
    first: jax.Array | int = 0,
    interpolation: Interpolation = "gather",
) -> jax.Array:
    """Bilinear interpolation of pixels [H * W, C], row by row, at points (x, y) [P] -> [P, C].

    Points outside take the nearest border value. `values` may hold many images one after the other, this
    one from pixel `first` on: so a batch is read in place, whichever of its images is wanted.

    "gather" reads the four neighbors: the fastest on CPU and GPU. "matmul" is the product of the two hat
    functions max(0, 1 - |y - i|) and max(0, 1 - |x - j|) with the image, H W C multiplications a point
    instead of 4 C but no indexing: for accelerators on which a gather is slow.
    """
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    if interpolation == "matmul":
        return _sample_by_product(values, height, width, x, y, first)
    column = jnp.minimum(jnp.floor(jax.lax.stop_gradient(x)), width - 2)
    row = jnp.minimum(jnp.floor(jax.lax.stop_gradient(y)), height - 2)
    along, down = (x - column)[:, None], (y - row)[:, None]
    corner = first + row.astype(jnp.int32) * width + column.astype(jnp.int32)

    def tap(offset: int) -> jax.Array:
        return values.at[corner + offset].get(mode="promise_in_bounds", wrap_negative_indices=False)

    upper = tap(0) + along * (tap(1) - tap(0))
    lower = tap(width) + along * (tap(width + 1) - tap(width))
    return upper + down * (lower - upper)


def _sample_by_product(
    values: jax.Array, height: int, width: int, x: jax.Array, y: jax.Array, first: jax.Array | int
) -> jax.Array:
    channels = values.shape[1]
    image = jax.lax.dynamic_slice_in_dim(values, first, height * width).reshape(height, width * channels)

    def at_point(x: jax.Array, y: jax.Array) -> jax.Array:
        hat_x = jnp.maximum(0, 1 - jnp.abs(x - jnp.arange(width, dtype=x.dtype)))
        hat_y = jnp.maximum(0, 1 - jnp.abs(y - jnp.arange(height, dtype=y.dtype)))
        row = jnp.matmul(hat_y, image, precision=jax.lax.Precision.HIGHEST)
        return (row.reshape(width, channels) * hat_x[:, None]).sum(0)

    return jax.lax.map(lambda point: at_point(*point), (x, y), batch_size=_POINTS_PER_PRODUCT)


def warp_image(image: jax.Array, warp: jax.Array, *, interpolation: Interpolation = "gather") -> jax.Array:
    """The image seen through a homography: out(x, y) = image(warp (x, y, 1)), bilinear, 0 outside.

    This is OpenCV's `warpPerspective(image, warp, flags=INTER_LINEAR | WARP_INVERSE_MAP)`: `warp` takes
    pixel coordinates (x to the right, y down) of the result to those of `image`. Differentiable in both.

    Args:
      image: floats [H, W, C].
      warp: [3, 3].
      interpolation: "gather" or "matmul" (for accelerators where a gather is slow).

    Returns:
      [H, W, C], float32 or float64: half precision cannot hold the coordinates.

    Raises:
      ValueError, TypeError: bad shapes, not floats, or an unknown interpolation.

    >>> import jax.numpy as jnp
    >>> image = jnp.arange(12.0).reshape(3, 4, 1)
    >>> shift = jnp.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    >>> warp_image(image, shift)[0, :, 0].tolist()
    [1.0, 2.0, 3.0, 0.0]
    """
    check_pair(image, image, "image", "image")
    if jnp.ndim(image) != 3:
        raise ValueError(f"image: expected shape [H, W, C], got {jnp.shape(image)}")
    if jnp.shape(warp) != (3, 3):
        raise ValueError(f"warp: expected shape [3, 3], got {jnp.shape(warp)}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected one of {INTERPOLATIONS}, got {interpolation!r}")
    image, warp = widened(image), widened(warp)
    height, width, channels = image.shape
    x, y, _ = project(warp, *pixel_grid(height, width, image.dtype))
    bordered = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    warped = sample(bordered, height + 2, width + 2, x + 1, y + 1, interpolation=interpolation)
    return warped.reshape(height, width, channels)
