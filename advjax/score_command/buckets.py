"""A few shapes in which pictures of many sizes are scored: one compilation for each, not for each size."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

__all__ = ["MOST_BUCKETS", "buckets"]

Shape = tuple[int, int, int]

MOST_BUCKETS = 8
"""Each is a program to compile, which takes as long as several hundred thousand pixels take to score."""

_WORTH_A_COMPILATION = 1 << 20
"""Padded pixels up to which it is quicker to score them than to compile a program more (CPU)."""
_MOST_SHAPES = 256


def buckets(shapes: Mapping[Shape, int]) -> dict[Shape, Shape]:
    """The bucket [H, W, C] of each shape, at least as high and as wide, with its channels.

    Shapes are joined two by two, those first that need the least padding in all, until there are `MOST_BUCKETS`, and
    on while the padding is worth a compilation.

    Args:
        shapes: the shapes, and how many pictures have each.

    >>> buckets({(300, 400, 3): 90, (301, 400, 3): 5, (28, 28, 1): 1000})
    {(300, 400, 3): (301, 400, 3), (301, 400, 3): (301, 400, 3), (28, 28, 1): (28, 28, 1)}
    """
    rounded = _rounded(shapes)
    counts: Counter[Shape] = Counter()
    for shape, count in shapes.items():
        counts[rounded[shape]] += count
    groups = np.array([(*shape, count) for shape, count in counts.items()], np.int64).reshape(-1, 4)
    members = [[shape] for shape in counts]
    while len(groups) > 1:
        first, second, padding = _nearest(groups)
        if padding > (_WORTH_A_COMPILATION if len(groups) <= MOST_BUCKETS else np.inf):
            break
        joined = [*np.maximum(groups[first, :3], groups[second, :3]), groups[first, 3] + groups[second, 3]]
        groups[first] = joined
        groups = np.delete(groups, second, axis=0)
        members[first] += members.pop(second)
    bucket = {
        shape: (int(group[0]), int(group[1]), int(group[2]))
        for group, own in zip(groups, members, strict=True)
        for shape in own
    }
    return {shape: bucket[rounded[shape]] for shape in shapes}


def _rounded(shapes: Mapping[Shape, int]) -> dict[Shape, Shape]:
    """Sides rounded up to multiples of 1, 2, 4, ...: few enough to compare all with all."""
    step = 1
    while True:
        rounded = {(h, w, c): (-(-h // step) * step, -(-w // step) * step, c) for h, w, c in shapes}
        if len(set(rounded.values())) <= _MOST_SHAPES:
            return rounded
        step *= 2


def _nearest(groups: np.ndarray) -> tuple[int, int, float]:
    """The two groups (first < second) whose union needs the fewest pixels more, and how many."""
    height, width, channels, count = groups.T
    area = height * width * count
    union = np.maximum.outer(height, height) * np.maximum.outer(width, width) * np.add.outer(count, count)
    more = (union - np.add.outer(area, area)).astype(float)
    more[np.not_equal.outer(channels, channels)] = np.inf
    more[np.tril_indices(len(groups))] = np.inf
    first, second = np.unravel_index(np.argmin(more), more.shape)
    return int(first), int(second), float(more[first, second])
