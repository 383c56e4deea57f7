"""Data for an evaluation, cut into batches of one size, padded, and spread over devices."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from advjax.attacks.attack import Attack, Stack, check_count
from advjax.data.rows import filled
from advjax.data.sources import Dataset
from advjax.data.transforms import to_float
from advjax.value import batch_axes

__all__ = ["Batch", "Batches", "Data", "check_data", "make_batches", "slice_attack"]


Data: TypeAlias = Dataset | tuple[np.ndarray | jax.Array, np.ndarray | jax.Array]
"""What evaluations take: images [N, H, W, C] and labels [N], or a `Dataset`."""


AnyAttack = TypeVar("AnyAttack", bound=Attack | Stack)


class Batch(NamedTuple):
    """Padded images [P, H, W, C] and labels [P] on the devices, and which images of the data set they are."""

    images: jax.Array
    labels: jax.Array
    rows: np.ndarray
    """int32 [P]: indices into the data set; the last one is repeated where the batch is padded."""
    valid: int
    """How many of them are not padding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """A data set in batches of one shape, so that one program serves all of them.

    Attributes:
      images: uint8 or float32 [N, H, W, C], on the host (a memory map will do).
      labels: int32 [N].
      size: images of a batch that are not padding, at most.
      padded: rows of a batch: `size`, rounded up to a multiple of the number of devices.
      over_images: the sharding of arrays whose first axis runs over images.
      everywhere: the sharding of arrays that every device needs whole.
      chosen: int32 [n], the images that the batches go through; all of them unless `only` chose some.
    """

    images: np.ndarray
    labels: np.ndarray
    size: int
    padded: int
    over_images: jax.sharding.Sharding
    everywhere: jax.sharding.Sharding
    chosen: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.size)

    def __getitem__(self, index: int) -> Batch:
        meant = self.chosen[index * self.size : (index + 1) * self.size]
        rows = filled(meant, self.padded)
        images, labels = jax.device_put((self.images[rows], self.labels[rows]), self.over_images)
        if images.dtype == jnp.uint8:
            images = _to_float(images)
        return Batch(images, labels, rows, len(meant))

    def only(self, chosen: np.ndarray) -> "Batches":
        """Batches of these images alone, int32 [n], one after the other: of the same shape, so for the same program."""
        return dataclasses.replace(self, chosen=chosen)

    def keys(self, key: jax.Array, rows: np.ndarray) -> jax.Array:
        """`fold_in(key, i)` for each index i of `rows`: what image i draws from, whatever its batch."""
        return jax.device_put(_fold_in(key, rows), self.over_images)


def make_batches(data: Data, batch_size: int, devices: Sequence[jax.Device] | None) -> Batches:
    """`Batches` of `data`, a `Dataset` or (images, labels), over `devices` (default: all of this process)."""
    images, labels = check_data(data)
    check_count("batch_size", batch_size)
    places = list(jax.local_devices() if devices is None else devices)
    if not places:
        raise ValueError("devices must hold at least one device, got none")
    size, everything = min(batch_size, len(labels)), np.arange(len(labels), dtype=np.int32)
    if len(places) == 1:
        one = SingleDeviceSharding(places[0])
        return Batches(images, labels, size, size, one, one, everything)
    mesh = Mesh(np.asarray(places), ("images",), axis_types=(AxisType.Auto,))
    over_images, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("images",), ()))
    padded = -(-size // len(places)) * len(places)
    return Batches(images, labels, size, padded, over_images, everywhere, everything)


def check_data(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 or float32 [N, H, W, C], and labels int32 [N] of `data`; raises for anything else."""
    if isinstance(data, Dataset):
        data = (data.images, data.labels)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"data must be a pair (images, labels) or an advjax.data.Dataset, got {type(data).__name__}")
    images, labels = (np.asarray(array) for array in data)
    if images.dtype not in (np.uint8, np.float32):
        raise TypeError(f"data: images must be uint8, or float32 in [0, 1], got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"data: images must be [N, H, W, C], got shape {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"data: labels must be integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"data: labels must have shape ({len(images)},), one for each image, got {labels.shape}")
    if images.size == 0:
        raise ValueError(f"data must hold at least one image, got images of shape {images.shape}")
    if labels.min() < 0:
        raise ValueError(f"data: labels must be classes from 0, got {labels.min()}")
    return images, labels.astype(np.int32)


def slice_attack(attack: AnyAttack, size: int, rows: np.ndarray) -> AnyAttack:
    """The attack for the images `rows` of a data set of `size` images: numbers given per image are cut like them.

    Raises ValueError where a number is given for each of another count of images than `size`.
    """
    one, extra = (attack.attack, 1) if isinstance(attack, Stack) else (attack, 0)
    axes = batch_axes(one, size, extra=extra)
    leaves, structure = jax.tree.flatten(attack)
    if len(axes) != len(leaves):  # not made of values: `perturb` says what is wrong with it
        return attack
    place = (slice(None),) * extra + (rows,)
    cut = [leaf if axis is None else leaf[place] for leaf, axis in zip(leaves, axes, strict=True)]
    sliced: AnyAttack = jax.tree.unflatten(structure, cut)
    return sliced


_to_float = jax.jit(to_float)
_fold_in = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))
