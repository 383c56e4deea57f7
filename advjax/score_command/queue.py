"""Many pairs through a few programs: read one by one, scored by threads, given out in order, in bounded memory."""

import collections
import dataclasses
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from advjax.score_command.blocks import Settings, block_length, pixels_of_a_block, score_block
from advjax.score_command.loaded import Loaded, load
from advjax.score_command.pairs import Pair

__all__ = ["rows"]

Row = dict[str, Any]
Bucket = tuple[int, int, int]

_IN_FLIGHT = 8
"""Blocks' worth of pixels that are scored at a time at most: it bounds the memory. A larger block goes alone."""
_MOST_BEHIND = 512
"""Pairs that may be read on before one that waits for others of its bucket is scored without them."""


def rows(
    pairs: Sequence[Pair], bucket_of: Mapping[Pair, Bucket], settings: Settings, stopped: Callable[[], bool]
) -> Generator[Row | ValueError, None, None]:
    """The row of each pair, or what is wrong with it, in the order of the pairs.

    Args:
        pairs: the files.
        bucket_of: the shape in which each is scored.
        settings: of the scores.
        stopped: asked before each pair; when it says so, what is being scored is finished and given out, and no more.
    """
    queue = _Queue(collections.Counter(bucket_of[pair] for pair in pairs), settings)
    try:
        for index, pair in enumerate(pairs):
            if stopped():
                break
            try:
                queue.put(index, bucket_of[pair], load(pair, settings.levels, settings.border))
            except ValueError as error:
                queue.done[index] = error
            yield from queue.in_order()
        else:
            queue.flush()
        while queue.flying:
            queue.collect(cancel=stopped())
            yield from queue.in_order()
        yield from (queue.done[index] for index in sorted(queue.done))  # beyond the gaps that a stop leaves
    finally:
        queue.close()


@dataclasses.dataclass
class _Block:
    bucket: Bucket
    indices: list[int]
    pairs: list[Loaded]


class _Queue:
    def __init__(self, counts: Mapping[Bucket, int], settings: Settings) -> None:
        self.done: dict[int, Row | ValueError] = {}
        self.flying: collections.deque[tuple[Future[list[Row | ValueError]], _Block]] = collections.deque()
        self._settings = settings
        self._lengths = {bucket: block_length(bucket, count) for bucket, count in counts.items()}
        self._compiling = {bucket: threading.Lock() for bucket in counts}
        self._compiled: set[Bucket] = set()
        self._waiting: dict[Bucket, _Block] = {}
        self._next = 0
        # Blocks on cores of their own beat blocks that share them; an accelerator computes one while one is copied.
        self._workers = len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 2
        self._pool = ThreadPoolExecutor(self._workers)

    def put(self, index: int, bucket: Bucket, loaded: Loaded) -> None:
        block = self._waiting.setdefault(bucket, _Block(bucket, [], []))
        block.indices.append(index)
        block.pairs.append(loaded)
        full = [block] if len(block.pairs) == self._lengths[bucket] else []
        late = [each for each in self._waiting.values() if index - each.indices[0] > _MOST_BEHIND]
        for each in full or late:
            self._submit(self._waiting.pop(each.bucket))

    def flush(self) -> None:
        while self._waiting:
            self._submit(self._waiting.pop(next(iter(self._waiting))))

    def in_order(self) -> Iterator[Row | ValueError]:
        while self.flying and self.flying[0][0].done():
            self.collect()
        while self._next in self.done:
            yield self.done.pop(self._next)
            self._next += 1

    def collect(self, cancel: bool = False) -> None:
        """Waits for the oldest block; a canceled one that has not begun leaves no rows."""
        future, block = self.flying.popleft()
        if not (cancel and future.cancel()):
            self.done.update(zip(block.indices, future.result(), strict=True))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, block: _Block) -> None:
        pixels = self._pixels(block)
        while self.flying and (
            len(self.flying) > self._workers
            or pixels + sum(self._pixels(each) for _, each in self.flying) > _IN_FLIGHT * pixels_of_a_block()
        ):
            self.collect()
        self.flying.append((self._pool.submit(self._score, block), block))

    def _pixels(self, block: _Block) -> int:
        return self._lengths[block.bucket] * block.bucket[0] * block.bucket[1]

    def _score(self, block: _Block) -> list[Row | ValueError]:
        # The first block of a bucket compiles; a second one at the same time would compile once more.
        if block.bucket not in self._compiled:
            with self._compiling[block.bucket]:
                result = self._rows(block)
                self._compiled.add(block.bucket)
                return result
        return self._rows(block)

    def _rows(self, block: _Block) -> list[Row | ValueError]:
        """The rows; where scoring fails, each pair is scored alone, so that a bad one costs itself only."""
        length = self._lengths[block.bucket]
        try:
            return [*score_block(block.pairs, block.bucket, length, self._settings)]
        except (ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
            if len(block.pairs) == 1:
                return [ValueError(f"{block.pairs[0].pair.changed} cannot be scored: {error or type(error).__name__}")]
        alone = (_Block(block.bucket, [index], [pair]) for index, pair in zip(block.indices, block.pairs, strict=True))
        return [row for each in alone for row in self._rows(each)]
