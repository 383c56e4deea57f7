"""A pair of pictures in memory: read, checked, and the distances of their pixels."""

import dataclasses
from typing import Any

import numpy as np

from advjax.data.pictures import Picture, peek, read_picture
from advjax.score_command.pairs import Pair
from advjax.scores import border_mask
from advjax.scores.ecc import SMALLEST_SIDE
from advjax.scores.ssim import WINDOW

__all__ = ["Loaded", "distances", "load", "shape_of", "size"]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A pair of one shape.

    Attributes:
        pair: the files.
        original: the picture, and `changed` the other.
        masks: bool [H, W] for each of the two, False on the border that is left out; None: nothing is.
    """

    pair: Pair
    original: Picture
    changed: Picture
    masks: tuple[np.ndarray, np.ndarray] | None


def shape_of(pair: Pair, levels: int) -> tuple[int, int, int]:
    """The shape [H, W, C] of both pictures, from the headers of the files.

    Raises:
        ValueError: a file is not readable, the shapes differ, or a side is too short for SSIM or for the pyramid.
    """
    return _one_shape(pair, peek(pair.original), peek(pair.changed), levels)


def load(pair: Pair, levels: int, border: int | str | None) -> Loaded:
    """Both pictures, if they can be scored.

    Args:
        pair: the files.
        levels: of the pyramid.
        border: the gray level 0 to 255 of the border to leave out, "corner" for that of each picture's corners; None.

    Raises:
        ValueError: as `shape_of`; transparent pixels; 16-bit color that Pillow cuts.
    """
    pictures = original, changed = read_picture(pair.original), read_picture(pair.changed)
    for path, picture in zip((pair.original, pair.changed), pictures, strict=True):
        if picture.transparent:
            raise ValueError(f"{path} has transparent pixels (mode {picture.mode}): put it on a background first")
        if picture.cut:
            raise ValueError(
                f"{path} has 16-bit color (mode {picture.mode}), which Pillow cuts to 8 bits: convert it to binary PPM,"
                " which is read whole, or to 8 bits"
            )
    _one_shape(pair, original.pixels.shape, changed.pixels.shape, levels)
    masks = None if border is None else (_mask(original, border), _mask(changed, border))
    return Loaded(pair, original, changed, masks)


def distances(loaded: Loaded) -> tuple[float, float]:
    """L2 per pixel and linf in gray levels of 255, over the pixels that both pictures have.

    Pairs of one depth are subtracted as the integers that they are: linf of 8-bit pictures is a whole number.
    """
    first, second = loaded.original, loaded.changed
    if first.white == second.white and first.pixels.dtype.kind == "u":
        difference: Any = second.pixels.astype(np.int32) - first.pixels
        level = first.white / 255
    else:
        difference = second.pixels / second.white - first.pixels / first.white
        level = 1 / 255
    if loaded.masks is not None:
        difference = difference[loaded.masks[0] & loaded.masks[1]]
    if not difference.size:
        return 0.0, 0.0
    mean_square = np.square(difference, dtype=np.float64).mean()
    return float(np.sqrt(mean_square) / level), float(np.abs(difference).max() / level)


def size(shape: tuple[int, ...]) -> str:
    """Width, height and channels in words.

    >>> size((24, 20, 3))
    '20x24 with 3 channel(s)'
    """
    return f"{shape[1]}x{shape[0]} with {shape[2]} channel(s)"


def _one_shape(pair: Pair, first: tuple[int, ...], second: tuple[int, ...], levels: int) -> tuple[int, int, int]:
    if first != second:
        raise ValueError(f"{pair.original} is {size(first)} but {pair.changed} is {size(second)}")
    shortest = max(WINDOW, SMALLEST_SIDE << (levels - 1))
    if min(first[:2]) < shortest:
        raise ValueError(f"{pair.original} must have sides of {shortest} pixels or more, got {size(first)}")
    height, width, channels = first
    return height, width, channels


def _mask(picture: Picture, border: int | str) -> np.ndarray:
    value = None if isinstance(border, str) else border * picture.white / 255
    return border_mask(picture.pixels, value)
