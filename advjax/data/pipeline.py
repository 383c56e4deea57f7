"""Sets of images that fit in memory: in which order a training reads them, and what their arrays must be."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

__all__ = ["Resident", "batch_order", "check_pixels", "check_set"]

# What float32 arithmetic may leave outside [0, 1], as for `perturb`.
_SLACK = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Resident:
    """A set of images that fits on the device, and which of them each network of an ensemble trains on.

    Attributes:
        images: uint8, or float32 in [0, 1], [N, H, W, C]; NumPy or `jax.Array`.
        labels: int32 [N]; NumPy or `jax.Array`.
        members: for each network, the indices into the N images of its training set; None: all images for all.
        shuffle: a new order each epoch; False: the order of the members, every epoch.

    >>> data = Resident(np.zeros((6, 2, 2, 1), np.uint8), np.zeros(6, np.int32), members=[np.arange(3), np.arange(6)])
    >>> data.order(jax.random.split(jax.random.key(0), 2), start=0, steps=4, batch_size=3).shape
    (2, 4, 3)
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    members: Sequence[np.ndarray] | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        check_set(self.images, self.labels)
        size = self.images.shape[0]
        for index, member in enumerate(self.members if self.members is not None else ()):
            wanted = f"members[{index}] must hold indices in 0..{size - 1} and not be empty"
            if not isinstance(member, np.ndarray) or member.ndim != 1 or not np.issubdtype(member.dtype, np.integer):
                raise TypeError(f"{wanted}, as an integer NumPy array of one axis, got {member!r}")
            if len(member) == 0 or member.min() < 0 or member.max() >= size:
                raise ValueError(f"{wanted}, got {member}")

    def order(self, keys: jax.Array | np.ndarray, start: int, steps: int, batch_size: int) -> np.ndarray:
        """The images of the batches of steps `start`, `start + 1`, ...: int32 [S, steps, batch_size].

        An epoch's last batch is filled up from the next epoch, as Caffe's data layer does. Nothing depends on
        earlier calls, so a run can go on from any step.

        Args:
            keys: one typed key for each of the S networks, or their data; each decides its network's order alone.
            start: the first step, counted from 0.
            steps: how many steps.
            batch_size: images a step, for each network.

        Raises:
            ValueError: not as many keys as `members`.
        """
        count = keys.shape[0]
        if self.members is not None and len(self.members) != count:
            raise ValueError(f"members must hold one index array for each of {count} networks, got {len(self.members)}")
        words = keys if isinstance(keys, np.ndarray) else jax.device_get(jax.random.key_data(keys))
        members = [np.arange(self.images.shape[0])] * count if self.members is None else self.members
        order = np.empty((count, steps, batch_size), np.int32)
        for network, member in enumerate(members):
            if self.shuffle:
                places = batch_order(words[network], len(member), start, steps, batch_size)
            else:
                row = np.arange(start * batch_size, (start + steps) * batch_size) % len(member)
                places = row.reshape(steps, batch_size)
            order[network] = member[places]
        return order


def batch_order(words: np.ndarray, size: int, step: int, steps: int, batch_size: int) -> np.ndarray:
    """Indices [steps, batch_size] of the batches of steps `step`, `step + 1`, ..., shuffled each epoch.

    Epoch e is a permutation of 0..size-1 drawn from (words, e), a key's data; the batches cut the endless row of
    epochs into equal parts. Nothing depends on earlier calls, so a run can go on from any step.

    >>> batch_order(jax.random.key_data(jax.random.key(0)), 3, 0, 2, 3).sum(axis=1)
    array([3, 3])
    """
    first, last = step * batch_size, (step + steps) * batch_size
    seed = [int(word) for word in words]
    epochs = [
        np.random.default_rng([*seed, epoch]).permutation(size)
        for epoch in range(first // size, (last - 1) // size + 1)
    ]
    offset = first // size * size
    return np.concatenate(epochs)[first - offset : last - offset].reshape(steps, batch_size)


def check_set(images: Any, labels: Any, prefix: str = "") -> None:
    """Raises what is wrong with images and labels as for `Resident`; `prefix` goes before their names.

    >>> check_set(np.zeros((2, 2, 2, 1), np.uint8), np.array([0, -1], np.int32), "validation ")
    Traceback (most recent call last):
    ...
    ValueError: validation labels must be int32 [2], one class from 0 up for each image, got -1
    """
    wanted = f"{prefix}images must be uint8, or float32 in [0, 1], [N, H, W, C]"
    if not isinstance(images, np.ndarray | jax.Array) or images.dtype not in (np.uint8, np.float32):
        raise TypeError(f"{wanted}, got {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim != 4 or not images.size:
        raise ValueError(f"{wanted}, got shape {images.shape}")
    if images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 4:
        raise ValueError(f"{wanted}, got shape {images.shape}, which looks like NCHW: transpose to NHWC")
    check_pixels(images, wanted)
    wanted = f"{prefix}labels must be int32 [{images.shape[0]}], one class from 0 up for each image"
    if not isinstance(labels, np.ndarray | jax.Array) or labels.dtype != np.int32:
        raise TypeError(f"{wanted}, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.ndim == 2:
        raise ValueError(f"{wanted}, got shape {labels.shape}, which looks one-hot: use labels.argmax(-1)")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{wanted}, got shape {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"{wanted}, got {labels.min()}")


def check_pixels(images: Any, wanted: str) -> None:
    """Raises ValueError, which begins with `wanted`, for floats [...] that are not in [0, 1]; NaN is not.

    >>> check_pixels(np.float32([[-1.5, 0.25]]), "images must be in [0, 1]")
    Traceback (most recent call last):
    ...
    ValueError: images must be in [0, 1], got values in [-1.5, 0.25]: what a network is to see otherwise, such as a
    difference from a mean, it computes inside itself
    """
    if images.dtype == np.uint8 or not images.size:
        return
    low, high = float(images.min()), float(images.max())
    if low >= -_SLACK and high <= 1 + _SLACK:
        return
    hint = ""
    if low >= 0 and 2 < high <= 255:
        hint = ": divide by 255"
    elif np.isfinite([low, high]).all():
        hint = ": what a network is to see otherwise, such as a difference from a mean, it computes inside itself"
    raise ValueError(f"{wanted}, got values in [{low:g}, {high:g}]{hint}")
