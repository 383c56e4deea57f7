"""How training reads its images: small sets from the device in a shuffled order, large ones streamed by Grain."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

__all__ = ["Resident", "Stream", "Source", "batch_order", "check_set", "padded"]

Example = Mapping[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]


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

    def order(self, keys: jax.Array, start: int, steps: int, batch_size: int) -> np.ndarray:
        """The images of the batches of steps `start`, `start + 1`, ...: int32 [S, steps, batch_size].

        An epoch's last batch is filled up from the next epoch, as Caffe's data layer does. Nothing depends on
        earlier calls, so a run can go on from any step.

        Args:
            keys: one typed key for each of the S networks; each decides its network's order alone.
            start: the first step, counted from 0.
            steps: how many steps.
            batch_size: images a step, for each network.

        Raises:
            ValueError: not as many keys as `members`.
        """
        count = keys.shape[0]
        if self.members is not None and len(self.members) != count:
            raise ValueError(f"members must hold one index array for each of {count} networks, got {len(self.members)}")
        words = np.asarray(jax.random.key_data(keys))
        members = [np.arange(self.images.shape[0])] * count if self.members is None else self.members
        order = np.empty((count, steps, batch_size), np.int32)
        for network, member in enumerate(members):
            if self.shuffle:
                places = _shuffled(words[network], len(member), start, steps, batch_size)
            else:
                row = np.arange(start * batch_size, (start + steps) * batch_size) % len(member)
                places = row.reshape(steps, batch_size)
            order[network] = member[places]
        return order


def batch_order(key: jax.Array, size: int, step: int, steps: int, batch_size: int) -> np.ndarray:
    """Indices [steps, batch_size] of the batches of steps `step`, `step + 1`, ..., shuffled each epoch.

    Epoch e is a permutation of 0..size-1 drawn from (key, e); the batches cut the endless row of epochs into
    equal parts. Nothing depends on earlier calls, so a run can go on from any step.

    >>> batch_order(jax.random.key(0), 3, 0, 2, 3).sum(axis=1)
    array([3, 3])
    """
    return _shuffled(np.asarray(jax.random.key_data(key)), size, step, steps, batch_size)


def _shuffled(words: np.ndarray, size: int, step: int, steps: int, batch_size: int) -> np.ndarray:
    first, last = step * batch_size, (step + steps) * batch_size
    seed = [int(word) for word in words]
    epochs = [
        np.random.default_rng([*seed, epoch]).permutation(size)
        for epoch in range(first // size, (last - 1) // size + 1)
    ]
    offset = first // size * size
    return np.concatenate(epochs)[first - offset : last - offset].reshape(steps, batch_size)


class Source(Protocol):
    """A random-access data set whose examples hold at least "image" and "label", such as `tfds.data_source`.

    If it has `__getitems__(indices) -> list of examples`, a batch is read in one call of it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Example: ...


class Stream:
    """A set that does not fit in memory, read by Grain in background threads or worker processes.

    The examples of all epochs form one endless row, each epoch a permutation of the source drawn from the seed;
    global batch i is examples i B ... (i + 1) B - 1 of it. Process p of P reads rows p B / P ... (p + 1) B / P - 1
    of each batch. So the batches depend on source, transform, seed and batch size alone: not on the number of
    processes, threads or workers, and a state can be restored onto other numbers of them.

    It holds a position, and `take` moves it: one `Stream` feeds one training run.

    Attributes:
        batch_size: images of a global batch, B.
        local_batch_size: the rows of a batch that this process yields, B / P.

    >>> source = [{"image": np.full((2, 2, 1), i, np.uint8), "label": i} for i in range(5)]
    >>> stream = Stream(source, 4, seed=0)
    >>> images, labels = stream.take(2)
    >>> images.shape, labels.dtype
    ((2, 4, 2, 2, 1), dtype('int32'))
    >>> state, after = stream.state(), stream.take(1)[1]
    >>> stream.restore(state)
    >>> bool((stream.take(1)[1] == after).all())
    True
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        seed: int,
        transform: Transform | None = None,
        shuffle: bool = True,
        threads: int = 8,
        workers: int = 0,
        prefetch: int = 16,
        process_index: int | None = None,
        process_count: int | None = None,
    ) -> None:
        """Opens the stream at its first batch; nothing is read ahead before the first `take`.

        Args:
            source: the examples.
            batch_size: images of a global batch.
            seed: decides the orders of the epochs and the transform's draws, 0..2**32-1.
            transform: `(example, rng) -> example` on the host: decode, crop, flip. Its draws come from the NumPy
                generator it is given, which depends on the seed and the example's place in the endless row. The
                result holds "image", uint8 or float32 in [0, 1] [H, W, C] of one size, and "label", an integer.
            shuffle: False: the order of the source, every epoch.
            threads: that read and transform batches, in each worker.
            workers: processes that do so instead of this one, for transforms that hold Python's lock. They are
                spawned: the program needs the `if __name__ == "__main__":` guard.
            prefetch: batches that are read ahead, in each worker; 0: none, and no threads.
            process_index, process_count: which part of each batch to read; default: `jax.process_index()` of
                `jax.process_count()`.

        Raises:
            ImportError: Grain is missing.
            TypeError: an example without "image" or "label".
            ValueError: an empty source, a batch size that the processes do not divide, numbers out of range.
        """
        _import_grain()
        index = jax.process_index() if process_index is None else process_index
        count = jax.process_count() if process_count is None else process_count
        if not len(source):
            raise ValueError("source must hold at least one example, got an empty one")
        if batch_size < 1 or batch_size % count:
            raise ValueError(f"batch_size must be positive and divisible by {count} processes, got {batch_size}")
        if not 0 <= index < count:
            raise ValueError(f"process_index must be in 0..{count - 1}, got {index}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be in 0..2**32-1, got {seed}")
        if threads < 1 or workers < 0 or prefetch < 0:
            raise ValueError(
                "threads must be at least 1, workers and prefetch at least 0, "
                f"got threads={threads}, workers={workers}, prefetch={prefetch}"
            )
        self.batch_size = batch_size
        self.local_batch_size = batch_size // count
        self._read = _ReadBatch(source, transform, seed, self.local_batch_size)
        self._belongs_to: dict[str, int | str | bool] = {
            "length": len(source),
            "fingerprint": _fingerprint(source),
            "seed": seed,
            "shuffle": shuffle,
            "batch_size": batch_size,
        }
        self._part = (index, count)
        self._reading = (threads, workers, prefetch)
        self._step = 0
        self._batches: Any = None

    def take(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's part of the next `steps` batches: images [steps, B / P, H, W, C], labels int32 [steps, B / P].

        Meanwhile and afterwards the next `prefetch` batches are read in the background.

        Raises:
            RuntimeError: an example could not be read or transformed (its index is named), or a worker died. The
                position is as before.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if self._batches is None:
            self._batches = self._open()
        try:
            parts = [next(self._batches) for _ in range(steps)]
            _check_alike([images[0] for images, _ in parts], f"batches {self._step}..{self._step + steps - 1}")
            images, labels = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        except BaseException:
            self.close()
            raise
        self._step += steps
        return images, labels

    def state(self) -> dict[str, int | str | bool]:
        """The position after the batches that `take` returned, for JSON; the same in every process.

        It names the source (its length and a hash of three examples), seed and batch size it belongs to. The
        transform is not part of it: restore with the same one.
        """
        return {"step": self._step, **self._belongs_to}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that `state` gave: the next batches are bit-identical to those that followed it.

        Raises:
            ValueError: the state belongs to another source, seed or batch size.
        """
        wrong = [
            f"{name} is {value!r}, in the state {state.get(name)!r}"
            for name, value in self._belongs_to.items()
            if state.get(name) != value
        ]
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            wrong.append(f"step must be a number of batches, in the state it is {step!r}")
        if wrong:
            raise ValueError(f"state does not belong to this stream: {'; '.join(wrong)}")
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Ends the threads and workers; the next `take` starts them anew at the same position."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()

    def _open(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        grain = _import_grain()
        index, count = self._part
        threads, workers, prefetch = self._reading
        length = int(self._belongs_to["length"])
        rows = grain.MapDataset.range(length).seed(int(self._belongs_to["seed"]))
        rows = rows.shuffle() if self._belongs_to["shuffle"] else rows
        # 2**50 examples are endless; Grain's own endless length overflows in `batch`, which rounds it in floats.
        batches = rows.repeat(2**50 // length + 1).batch(self.local_batch_size).map_with_index(self._read)
        batches = batches[self._step * count + index :: count].to_iter_dataset(
            grain.ReadOptions(num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch)
        )
        if workers:
            _mark_flags_as_parsed()
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(prefetch, 1))
            )
        return iter(batches)


def padded(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches (images [B, H, W, C], labels [B], valid bool [B]) of one size, in order, each image once.

    The last batch is filled up with zeros that are not valid: one shape, so that an evaluation is compiled once.

    Raises:
        ValueError: batch_size below 1, or not one label for each image.

    >>> parts = padded(np.ones((5, 2, 2, 1), np.uint8), np.arange(5), 4)
    >>> [(image.shape, label.tolist(), int(valid.sum())) for image, label, valid in parts]
    [((4, 2, 2, 1), [0, 1, 2, 3], 4), ((4, 2, 2, 1), [4, 0, 0, 0], 1)]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) != len(labels):
        raise ValueError(f"labels must hold one class for each of {len(images)} images, got {len(labels)}")
    return _padded(images, labels, batch_size)


def _padded(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for start in range(0, len(images), batch_size):
        image, label = images[start : start + batch_size], labels[start : start + batch_size]
        missing = batch_size - len(image)
        valid = np.arange(batch_size) < len(image)
        yield _fill(image, missing), _fill(label, missing), valid


def _fill(rows: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)]) if missing else rows


@dataclasses.dataclass(frozen=True, eq=False)
class _ReadBatch:
    """Batch number k of the endless row, from its rows of the source; sent to the worker processes."""

    source: Source
    transform: Transform | None
    seed: int
    size: int

    def __call__(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = [int(row) for row in rows]
        examples = self._read(indices)
        places = range(number * self.size, (number + 1) * self.size)
        pairs = [self._finish(*each) for each in zip(indices, places, examples, strict=True)]
        _check_alike([image for image, _ in pairs], f"examples {indices}")
        return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs], np.int32)

    def _read(self, indices: list[int]) -> Sequence[Example]:
        try:
            if hasattr(self.source, "__getitems__"):
                return self.source.__getitems__(indices)
            return [self.source[index] for index in indices]
        except Exception as error:
            raise RuntimeError(f"source failed to give one of the examples {indices}: {error!r}") from error

    def _finish(self, index: int, place: int, example: Example) -> tuple[np.ndarray, int]:
        if self.transform is not None:
            try:
                example = self.transform(example, np.random.default_rng([self.seed, place]))
            except Exception as error:
                raise RuntimeError(f"transform failed on example {index} of the source: {error!r}") from error
        image, label = np.asarray(example["image"]), np.asarray(example["label"])
        wanted = f"example {index} must have an image uint8 or float32 [H, W, C] and one integer label"
        if image.dtype not in (np.uint8, np.float32) or not np.issubdtype(label.dtype, np.integer):
            raise TypeError(f"{wanted}, got an image of {image.dtype} and a label of {label.dtype}")
        if image.ndim != 3 or label.ndim:
            raise ValueError(f"{wanted}, got an image of shape {image.shape} and a label of shape {label.shape}")
        if label < 0:
            raise ValueError(f"{wanted}, from 0 up, got {label}")
        return image, int(label)


def _check_alike(images: Sequence[np.ndarray], where: str) -> None:
    # NumPy would stack uint8 0..255 with float32 0..1.
    kinds = {f"{image.dtype}{list(image.shape)}" for image in images}
    if len(kinds) > 1:
        raise ValueError(f"images must have one size and type, got {sorted(kinds)} from {where}: see transform")


def _fingerprint(source: Source) -> str:
    """A hash of the first, middle and last example: another set of the same length has another one."""
    digest = hashlib.sha256()
    for index in (0, len(source) // 2, len(source) - 1):
        for name in ("image", "label"):
            try:
                value = np.asarray(source[index][name])
            except (KeyError, TypeError) as error:
                raise TypeError(f'source[{index}] must be a mapping with "image" and "label"') from error
            if value.dtype == object:
                raise TypeError(f"source[{index}][{name!r}] must be an array, a number, bytes or a string")
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


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
    # Written so that NaN is refused.
    if images.dtype == np.float32 and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"{wanted}, got values in [{images.min()}, {images.max()}]")
    wanted = f"{prefix}labels must be int32 [{images.shape[0]}], one class from 0 up for each image"
    if not isinstance(labels, np.ndarray | jax.Array) or labels.dtype != np.int32:
        raise TypeError(f"{wanted}, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.ndim == 2:
        raise ValueError(f"{wanted}, got shape {labels.shape}, which looks one-hot: use labels.argmax(-1)")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{wanted}, got shape {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"{wanted}, got {labels.min()}")


def _mark_flags_as_parsed() -> None:
    # Grain's workers read absl flags, which absl refuses in a program that does not parse its command line by absl.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _import_grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ImportError('Stream needs grain: pip install "advjax[data]"') from error
    return grain
