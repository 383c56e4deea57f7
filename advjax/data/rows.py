"""A data set of any length in batches of one shape, so that one compiled program serves them all."""

from collections.abc import Iterator

import numpy as np

__all__ = ["batches", "filled"]


def batches(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """The rows 0..count-1 in order, `size` at a time: int64 [min(size, count)], and how many of them are meant.

    The last batch is filled up with copies of its last row; what a program says of these is to be cut off.

    Raises:
        ValueError: size below 1.

    >>> [(rows.tolist(), real) for rows, real in batches(5, 3)]
    [([0, 1, 2], 3), ([3, 4, 4], 2)]
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    parts = (np.arange(start, min(start + size, count)) for start in range(0, count, size))
    return ((filled(part, min(size, count)), len(part)) for part in parts)


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """`rows` [n, ...], n > 0, with the last of them repeated until there are `size`.

    >>> filled(np.array([7, 8]), 4).tolist()
    [7, 8, 8, 8]
    """
    return rows if len(rows) == size else rows[np.minimum(np.arange(size), len(rows) - 1)]
