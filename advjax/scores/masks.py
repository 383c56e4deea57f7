"""Masks: which pixels of an array belong to the picture. Checked on the host, found there too."""

import operator
from functools import reduce
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Mask", "Masks", "batched", "border_mask", "check_mask", "eroded", "known_overlap", "stacked"]

Masks = tuple[jax.Array | None, jax.Array | None]
"""Of the image and of the template, bool; None: all of it is picture."""

Mask = TypeVar("Mask", np.ndarray, jax.Array)


def check_mask(name: str, mask: jax.Array | None, shape: tuple[int, ...]) -> None:
    """Raises unless the mask fits images of `shape` [..., H, W, C]."""
    if mask is None:
        return
    if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise TypeError(f"{name}: expected bool (True: a pixel of the picture), got {jnp.result_type(mask)}")
    if jnp.shape(mask) not in (shape[-3:-1], shape[:-1]):
        accepted = " or ".join(map(str, dict.fromkeys((shape[-3:-1], shape[:-1]))))
        raise ValueError(f"{name}: expected shape {accepted}, got {jnp.shape(mask)}")


def known_overlap(*masks: jax.Array | None) -> np.ndarray | None:
    """What all masks leave, [..., H, W] on the host; None where there is none to read, as inside `jax.jit`."""
    given = [mask for mask in masks if mask is not None]
    if not given or not all(
        not isinstance(mask, jax.core.Tracer) and getattr(mask, "is_fully_addressable", True) for mask in given
    ):
        return None
    return np.logical_and(np.asarray(given[0]), np.asarray(given[-1]))


def batched(mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
    """The mask of every image of `shape` [..., H, W, C]: [..., H, W]."""
    return None if mask is None else jnp.broadcast_to(mask, shape[:-1])


def stacked(mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
    """The same with one leading axis: [N, H, W]."""
    return None if mask is None else jnp.broadcast_to(mask, shape[:-1]).reshape(-1, *shape[-3:-1])


def eroded(mask: Mask, reach: int) -> Mask:
    """Where no pixel of [..., H, W] within `reach` rows and columns is masked; none is beyond the border."""
    pad = np.pad if isinstance(mask, np.ndarray) else jnp.pad
    beside: list[tuple[int, int]] = [(0, 0)] * (mask.ndim - 2)
    for _ in range(2):  # Along rows, then, turned, along columns.
        side = mask.shape[-1]
        padded = pad(mask, [*beside, (0, 0), (reach, reach)], constant_values=True)
        mask = reduce(operator.and_, (padded[..., k : k + side] for k in range(2 * reach + 1)))
        mask = mask.swapaxes(-1, -2)
    return mask


def border_mask(image: np.ndarray, value: float | tuple[float, ...] | None = None) -> np.ndarray:
    """Which pixels belong to the picture, if one exact value was put around it, as a rotation or padding does.

    A pixel is masked that has the border's value in every channel and is connected to the image's edge through
    such pixels, by their sides. Black inside the picture stays. A border that JPEG has blurred is not of one value.

    Args:
      image: [H, W] or [H, W, C], of any dtype; a NumPy array, on the host.
      value: that of the border, a number or one a channel. None: that of most corners; where no two corners are
        equal there is no border.

    Returns:
      bool [H, W], False on the border: a mask for `pass_score` and `ecc_align`.

    Raises:
      ValueError: an image of another shape, or values that are not one or one a channel.

    >>> import numpy as np
    >>> padded = np.pad([[7, 0], [5, 6]], 1)
    >>> border_mask(padded).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"image: expected shape [H, W] or [H, W, C], got {pixels.shape}")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if value is None:
        corners, counts = np.unique(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0, return_counts=True)
        if counts.max() == 1:
            return np.ones(pixels.shape[:2], bool)
        border = corners[counts.argmax()]
    else:
        border = np.asarray(value)
        if border.shape not in ((), (1,), pixels.shape[2:]):
            raise ValueError(f"value: expected one number or {pixels.shape[2]}, got {value!r}")
    return ~_reached_from_edge((pixels == border).all(-1))


def _reached_from_edge(candidates: np.ndarray) -> np.ndarray:
    """The candidates connected to the edge: whole runs are reached at a time, along rows and columns in turn."""
    reached = candidates.copy()
    reached[1:-1, 1:-1] = False
    count = -1
    while count != (count := int(np.count_nonzero(reached))):
        reached = _fill_runs(candidates, reached)
        reached = _fill_runs(candidates.T, reached.T).T
    return reached


def _fill_runs(candidates: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """The runs of candidates along a row that hold a reached one."""
    starts = ~candidates
    starts[:, 0] = True
    run = np.cumsum(starts.ravel(), dtype=np.int32).reshape(starts.shape)
    hit = np.zeros(run[-1, -1] + 1, bool)
    hit[run[reached]] = True
    return candidates & hit[run]
