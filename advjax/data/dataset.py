"""A small data set in memory."""

import dataclasses

import numpy as np

__all__ = ["Dataset"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in memory.

    Attributes:
        name: the data set's name.
        split: the split as it was asked for.
        images: uint8 [N, H, W, C]; `to_float` makes them float32 in [0, 1].
        labels: int32 [N], in 0..num_classes-1.
        num_classes: the number of classes.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
