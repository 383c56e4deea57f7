"""What a block of steps reads: the indices into a set on the device, or the next images of a stream."""

from typing import Any, Protocol

import jax
import numpy as np

from advjax.data.pipeline import Resident
from advjax.data.rows import filled
from advjax.data.stream import Stream
from advjax.training.interface import Batch
from advjax.training.sharding import Placement

__all__ = ["Feed", "feed_of"]


class Feed(Protocol):
    """Gives each block of steps its images.

    Attributes:
        resident: whether the content of a block is the whole set [N, ...], and its order the rows [S, block, B] of each
            step; else the content is [block, B, ...], row i for step i, and there is no order.
    """

    resident: bool

    def next(self, step: int, count: int) -> tuple[Batch, jax.Array]:
        """Content and order of the steps `step`, ..., `step + count - 1`, filled up to the size of a block."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on after the blocks given so far, as JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""


def feed_of(data: Resident | Stream, where: Placement, keys: jax.Array, batch_size: int, block: int) -> Feed:
    """The feed of a block's worth of `data` for the networks of `keys` [S].

    >>> from advjax.training.sharding import default_placement
    >>> data = Resident(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32))
    >>> feed = feed_of(data, default_placement(), jax.random.split(jax.random.key(0), 3), batch_size=2, block=5)
    >>> feed.next(0, 5)[1].shape
    (3, 5, 2)
    """
    if isinstance(data, Resident):
        return _ResidentFeed(data, where, keys, batch_size, block)
    networks, mine = where.mesh.shape["network"], where.mesh.size // jax.process_count()
    if mine % networks:
        raise ValueError(
            f"a Stream gives each process its own rows of a batch: the placement's networks must divide the {mine} "
            f"devices of a process, got {networks}"
        )
    return _StreamFeed(data, where, keys.shape[0], block)


class _ResidentFeed:
    resident = True

    def __init__(self, data: Resident, where: Placement, keys: jax.Array, batch_size: int, block: int) -> None:
        self._data, self._where = data, where
        # Read here: asked for later, they would wait for the block that the device then works on.
        self._words = jax.device_get(jax.random.key_data(keys))
        self._shape = (keys.shape[0], block, batch_size)
        self._content = Batch(*where.put((data.images, data.labels), where.replicated))

    def next(self, step: int, count: int) -> tuple[Batch, jax.Array]:
        order = np.zeros(self._shape, np.int32)
        order[:, :count] = self._data.order(self._words, step, count, self._shape[2])
        return self._content, self._where.put(order, self._where.replicated)

    def state(self) -> dict[str, Any]:
        return {}  # the step says it all

    def restore(self, state: dict[str, Any]) -> None:
        pass


class _StreamFeed:
    resident = False

    def __init__(self, data: Stream, where: Placement, networks: int, block: int) -> None:
        self._data, self._where, self._block = data, where, block
        self._no_order = where.put(np.zeros((networks, 0), np.int32), where.replicated)
        self.state, self.restore = data.state, data.restore

    def next(self, step: int, count: int) -> tuple[Batch, jax.Array]:
        arrays = [filled(array, self._block) for array in self._data.take(count)]
        return Batch(*(self._where.from_local(x, self._where.of_batch(1, x.ndim)) for x in arrays)), self._no_order
