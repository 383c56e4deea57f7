"""Sets that do not fit in memory, streamed by Grain: examples read and transformed in threads or worker processes."""

import dataclasses
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from advjax.command import ExplainedError
from advjax.data.pipeline import check_pixels
from advjax.fingerprint import fingerprint

__all__ = ["ExampleError", "Source", "Stream"]

Example = Mapping[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]


class ExampleError(ExplainedError, RuntimeError):
    """An example could not be read or transformed; the message says which, of which data set, and why.

    What was raised there is its `__cause__`, out of a worker process too where it can be pickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_cause, (str(self), _portable(self.__cause__))


class Source(Protocol):
    """A random-access data set whose examples hold at least "image" and "label", such as `tfds.data_source`.

    Errors name the set by its attribute `name`, if it has one. If it has `__getitems__(indices) -> list of examples`,
    a batch is read in one call of it.
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
            ExampleError: one of the three examples that tell one set from another could not be read.
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
            ExampleError: an example could not be read or transformed (it is named), or a worker died. The position is
                as before.
            TypeError, ValueError: an example holds no image and label as above, or a float image that is not in [0, 1].
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if self._batches is None:
            self._batches = self._open()
        try:
            parts = [next(self._batches) for _ in range(steps)]
            _check_alike([images[0] for images, _ in parts], f"batches {self._step}..{self._step + steps - 1}")
            images, labels = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        except BaseException as error:
            self.close()
            if notes := getattr(error, "__notes__", None):
                error.__notes__ = [note for note in notes if "Grain has removed" not in note]
            if isinstance(error, RuntimeError) and "orker process was terminated" in str(error):
                name = _name(self._read.source)
                raise ExampleError(
                    f"a process that reads examples of {name} died, for want of memory perhaps (fewer workers and a "
                    f"smaller prefetch need less): {error}"
                ) from error
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
        if not hasattr(self.source, "__getitems__"):
            return [_example(self.source, index) for index in indices]
        try:
            return self.source.__getitems__(indices)
        except Exception as error:
            for index in indices:  # which one it is
                _example(self.source, index)
            which = f"one of the examples {indices} of {_name(self.source)}"
            raise ExampleError(f"{which} could not be read: {_said(error)}") from error

    def _finish(self, index: int, place: int, example: Example) -> tuple[np.ndarray, int]:
        which = f"example {index} of {_name(self.source)}"
        if isinstance(example.get("name"), str):
            which += f" ({example['name']})"
        if self.transform is not None:
            try:
                example = self.transform(example, np.random.default_rng([self.seed, place]))
            except Exception as error:
                raise ExampleError(f"the transform failed on {which}: {_said(error)}") from error
        image, label = np.asarray(example["image"]), np.asarray(example["label"])
        wanted = f"{which} must have an image uint8, or float32 in [0, 1], [H, W, C] and one integer label"
        if image.dtype not in (np.uint8, np.float32) or not np.issubdtype(label.dtype, np.integer):
            raise TypeError(f"{wanted}, got an image of {image.dtype} and a label of {label.dtype}")
        if image.ndim != 3 or label.ndim:
            raise ValueError(f"{wanted}, got an image of shape {image.shape} and a label of shape {label.shape}")
        check_pixels(image, wanted)
        if label < 0:
            raise ValueError(f"{wanted}, from 0 up, got {label}")
        return image, int(label)


def _example(source: Source, index: int) -> Example:
    try:
        return source[index]
    except Exception as error:
        raise ExampleError(f"example {index} of {_name(source)} could not be read: {_said(error)}") from error


def _name(source: Source) -> str:
    # TFDS calls its own data sources so.
    named = getattr(source, "name", None) or getattr(getattr(source, "dataset_info", None), "full_name", None)
    return named if isinstance(named, str) else "the source"


def _said(error: BaseException) -> str:
    """Its type and message; its `repr` would leave out the file of an OSError."""
    return f"{type(error).__name__}: {error}"


def _with_cause(message: str, cause: BaseException | None) -> ExampleError:
    error = ExampleError(message)
    error.__cause__ = cause
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    try:
        return pickle.loads(pickle.dumps(cause))
    except Exception:  # whatever a class of someone else's does when it is pickled
        return None


def _check_alike(images: Sequence[np.ndarray], where: str) -> None:
    # NumPy would stack uint8 0..255 with float32 0..1.
    kinds = {f"{image.dtype}{list(image.shape)}" for image in images}
    if len(kinds) > 1:
        raise ValueError(f"images must have one size and type, got {sorted(kinds)} from {where}: see transform")


def _fingerprint(source: Source) -> str:
    """That of the first, middle and last example: another set of the same length has another one."""
    parts = []
    for index in (0, len(source) // 2, len(source) - 1):
        example = _example(source, index)
        for name in ("image", "label"):
            try:
                value = np.asarray(example[name])
            except (KeyError, TypeError, IndexError) as error:
                raise TypeError(f'source[{index}] must be a mapping with "image" and "label"') from error
            if value.dtype == object:
                raise TypeError(f"source[{index}][{name!r}] must be an array, a number, bytes or a string")
            parts.append(value)
    return fingerprint(*parts)


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
