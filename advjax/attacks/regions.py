"""Regions: which pixels may change, read off the clean image or given as a mask.

A region is called as `region(image)` for one clean image [H, W, C] and says True, as bool [H, W, 1] or [H, W, C], where
a pixel may change.  All of it runs inside the compiled program, so that each image of a batch has its own region.
"""

from abc import ABC, abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.constraints import Constraint
from advjax.attacks.directions import Masked, check_mask_shape
from advjax.attacks.part import Mask, Number, Part
from advjax.value import number, static, value

__all__ = [
    "Background", "Broad", "Exact", "Pixels", "Region", "Standard", "Within", "mask_constraints", "mask_directions",
    "named_region",
]  # fmt: skip


class Region(Part, ABC):
    """Where an image may change."""

    @abstractmethod
    def __call__(self, image: jax.Array) -> jax.Array:
        """Clean image [H, W, C] -> bool [H, W, 1] or [H, W, C], True where a pixel may change."""


@value
class Standard(Region):
    """Every pixel."""

    def __call__(self, image: jax.Array) -> jax.Array:
        return jnp.ones((*image.shape[:2], 1), jnp.bool_)


@value
class Background(Region):
    """All but the centered square of `size` x `size` pixels (Rothberg et al., "background").

    The paper keeps "the middle 36 pixels": for 28 x 28 images and size 6, rows and columns 11 to 16 from 0.  Where a
    side minus `size` is odd the square is half a pixel towards the origin.
    """

    size: int = static(default=6)

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 0:
            raise ValueError(f"size must be an integer of 0 or more, got {self.size!r}")

    def __call__(self, image: jax.Array) -> jax.Array:
        rows, columns = (
            (jnp.arange(side) >= (side - self.size) // 2) & (jnp.arange(side) < (side - self.size) // 2 + self.size)
            for side in image.shape[:2]
        )
        return ~(rows[:, None, None] & columns[None, :, None])


@value
class Exact(Region):
    """All pixels that are no part of the digit: `x <= threshold` in every channel (Rothberg et al., "exact mask")."""

    threshold: Number = number(default=0.0)

    def __call__(self, image: jax.Array) -> jax.Array:
        return ~_digit(image, self.threshold)


@value
class Broad(Region):
    """All pixels neither of the digit nor next to one of it (Rothberg et al., "broad mask").

    Attributes:
      threshold: as for `Exact`.
      neighbors: 8, corners included, or 4; there are none across the image's border.
    """

    threshold: Number = number(default=0.0)
    neighbors: Literal[4, 8] = static(default=8)

    def __post_init__(self) -> None:
        if self.neighbors not in (4, 8):
            raise ValueError(f"neighbors must be 4 or 8, got {self.neighbors!r}")

    def __call__(self, image: jax.Array) -> jax.Array:
        digit = _digit(image, self.threshold)
        beside = _spread(digit, axis=1)
        above = _spread(beside if self.neighbors == 8 else digit, axis=0)
        return ~(beside | above)


@value
class Pixels(Region):
    """The pixels where `mask` is 1, whatever the image.

    Attributes:
      mask: 0/1 array, 1 = may change; [H, W, C] or [H, W, 1], or one for each image [B, H, W, C or 1].
    """

    mask: Mask = number(rank=3, dtype=np.bool_)

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        check_mask_shape(self.mask, shape)

    def __call__(self, image: jax.Array) -> jax.Array:
        return jnp.asarray(self.mask)


@value
class Within(Constraint):
    """Constraint: only the pixels in `region` may differ from the origin; outside they are the origin's bits.

    For a candidate in the linf ball this is the clip to `[x - epsilon m, x + epsilon m]`, m the region as 0/1, that
    ends Algorithm 1 of Rothberg et al.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks import Pixels, Within
      >>> Within(Pixels([[[1], [0]]]))(jnp.ones((1, 2, 1)), jnp.zeros((1, 2, 1))).tolist()
      [[[1.0], [0.0]]]
    """

    region: Region

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        return jnp.where(self.region(origin), candidate, origin)


def named_region(region: str | Region) -> Region:
    """The region of Rothberg et al. by its name: "standard", "background", "exact" or "broad"; a region is itself.

    Raises:
      ValueError: no such name.  TypeError: neither a name nor a region.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks import named_region
      >>> named_region("broad")(jnp.zeros((5, 5, 1)).at[0, 0].set(1.0))[..., 0].astype(int).tolist()
      [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    """
    regions: dict[str, Region] = {
        "standard": Standard(),
        "background": Background(),
        "exact": Exact(),
        "broad": Broad(),
    }
    if isinstance(region, str):
        if region not in regions:
            raise ValueError(f"region must be one of {', '.join(regions)}, or a region such as Broad(), got {region!r}")
        return regions[region]
    if not isinstance(region, Region):
        raise TypeError(f"region must be a name or a region such as Broad(), got {type(region).__name__}")
    return region


def mask_directions(mask: Mask | None) -> tuple[Masked, ...]:
    """The direction that a user's `mask` asks for; none for None."""
    return () if mask is None else (Masked(_checked(mask)),)


def mask_constraints(mask: Mask | None) -> tuple[Within, ...]:
    """The constraint that a user's `mask` asks for; none for None."""
    return () if mask is None else (Within(Pixels(_checked(mask))),)


def _digit(image: jax.Array, threshold: Number) -> jax.Array:
    return jnp.any(image > threshold, axis=-1, keepdims=True)


def _spread(pixels: jax.Array, axis: int) -> jax.Array:
    """Pixels and their neighbors along `axis`: bool [H, W, 1] -> bool [H, W, 1]."""
    width = [(0, 0)] * pixels.ndim
    width[axis] = (1, 1)
    wide = jnp.pad(pixels, width)
    before, after = (jax.lax.slice_in_dim(wide, start, start + pixels.shape[axis], axis=axis) for start in (0, 2))
    return pixels | before | after


def _checked(mask: Mask) -> Mask:
    if isinstance(mask, jax.core.Tracer):
        return mask
    array = np.asarray(mask)
    if array.ndim not in (3, 4):
        raise ValueError(f"mask must be [H, W, C] or [H, W, 1], or one for each image, got shape {array.shape}")
    if not np.all((array == 0) | (array == 1)):
        raise ValueError(f"mask must hold 0 and 1 only, got values from {array.min()} to {array.max()}")
    return array.astype(np.bool_)
