"""Pairs of a bucket together: filled up to one shape, scored, and their rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.pictures import Picture
from advjax.score_command.loaded import Loaded
from advjax.score_command.table import Scored, row
from advjax.scores import pass_score

__all__ = ["Settings", "block_length", "floats", "pass_of", "pixels_of_a_block", "score_block"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `pass_score` is told: windows of SSIM and levels of the pyramid; and the border to leave out, if any."""

    padding: Literal["valid", "same"]
    levels: int
    border: int | str | None


def pixels_of_a_block() -> int:
    """Pixels to score together: what a core, or an accelerator, is busy with for a while."""
    return 1 << 18 if jax.default_backend() == "cpu" else 1 << 22


def block_length(bucket: tuple[int, int, int], count: int) -> int:
    """Pairs to score together, of `count` in a bucket: a power of 2, which a compilation cache may know."""
    most = max(1, pixels_of_a_block() // (bucket[0] * bucket[1]))
    return min(1 << (most.bit_length() - 1), 1 << (count - 1).bit_length())


def score_block(
    pairs: Sequence[Loaded], bucket: tuple[int, int, int], length: int, settings: Settings
) -> list[dict[str, Any]]:
    """The rows of some pairs, scored as `length` pairs of the shape `bucket`: one program for all such blocks.

    Each picture lies in the upper left corner and is scored as if the array ended where it ends.
    """
    images = np.zeros((2, length, *bucket), np.float32)
    sizes = np.tile(np.array(bucket[:2], np.int32), (length, 1))
    masks = None if settings.border is None else np.ones((2, length, *bucket[:2]), bool)
    for i, pair in enumerate(pairs):
        height, width, _ = pair.original.pixels.shape
        sizes[i] = height, width
        images[:, i, :height, :width] = floats(pair.changed), floats(pair.original)
        if masks is not None and pair.masks is not None:
            masks[:, i, :height, :width] = pair.masks[1], pair.masks[0]
    found = pass_of(images, masks, settings, sizes)[0]
    return [row(pair, Scored(*(leaf[i] for leaf in found)), settings.padding) for i, pair in enumerate(pairs)]


def pass_of(
    images: np.ndarray, masks: np.ndarray | None, settings: Settings, sizes: np.ndarray | None = None
) -> tuple[Scored, jax.Array]:
    """What the table holds of PASS, on the host, and the changed pictures aligned, where they were computed.

    Args:
        images: the changed pictures and the originals, float32 [2, ..., H, W, C].
        masks: theirs, bool [2, ..., H, W], or None.
        settings: of the scores.
        sizes: height and width of each picture inside its array, int32 [..., 2]; None: all of it.
    """
    image_mask, template_mask = (None, None) if masks is None else (jnp.asarray(mask) for mask in masks)
    result = pass_score(
        jnp.asarray(images[0]),
        jnp.asarray(images[1]),
        padding=settings.padding,
        levels=settings.levels,
        sizes=None if sizes is None else jnp.asarray(sizes),
        image_mask=image_mask,
        template_mask=template_mask,
    )
    alignment = result.alignment
    return Scored(*jax.device_get((result.score, result.ssim, alignment.warp, alignment.converged))), alignment.image


def floats(picture: Picture) -> np.ndarray:
    """The pixels as float32 in [0, 1]."""
    return picture.pixels.astype(np.float32) / np.float32(picture.white)
