"""Checkpoints: training states on disk, written in the background, checked byte for byte before they are used.

The arrays of a checkpoint are written by Orbax into its folder `arrays`; advjax/training/checkpoint_files.py says what
lies around them and how a checkpoint becomes finished, whole and old.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import tempfile
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from advjax.command import ExplainedError
from advjax.training import checkpoint_files as files

__all__ = ["Checkpoints", "Restored", "CheckpointError", "agree"]

_ARRAYS = "arrays"
_BARRIER_MS = 20 * 60 * 1000


class CheckpointError(ExplainedError, RuntimeError):
    """A checkpoint could not be written or read; the message says which, why, and what is left."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` read.

    Attributes:
        step: the step it was saved at.
        arrays: a pytree like the template, with the template's shardings.
        record: what was saved along, as JSON gives it back: tuples are lists, the keys of mappings are strings.
    """

    step: int
    arrays: Any
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder.

    With several processes (`jax.distributed`), all of them make this object on one shared folder and make the same
    calls in the same order; process 0 alone names, checks and deletes checkpoints. One run at a time may write to a
    folder (`Trainer.fit` holds a `FolderLock` for that), but others may read it meanwhile.

    Args:
        folder: where the checkpoints lie; made if it is not there.
        keep_last: how many of those written last stay.
        keep_best: how many of those with the highest score stay as well; of equal scores the one written first.

    Raises:
        CheckpointError: the folder cannot be made or written.

    >>> state = {"w": jax.numpy.arange(3.0), "key": jax.random.key(7)}
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
    ...     checkpoints.save(10, state, {"loss": [2.5, 1.25]}, score=0.9)
    ...     restored = checkpoints.restore(state)
    >>> restored.step, restored.record, restored.arrays["w"]
    (10, {'loss': [2.5, 1.25]}, Array([0., 1., 2.], dtype=float32))
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_last: int = 2, keep_best: int = 1) -> None:
        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"keep_last must be at least 1 and keep_best at least 0, got {keep_last} and {keep_best}")
        self.folder = pathlib.Path(folder).absolute()
        self.keep_last, self.keep_best = keep_last, keep_best
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise CheckpointError(f"the checkpoint folder {self.folder} cannot be made or written: {error}") from error
        # Naming the processes makes Orbax meet at the coordinator; its other way, a computation on all devices, would
        # run in the background thread between the training's own collectives, in another order on each process.
        together = ocp.options.MultiprocessingOptions(active_processes=set(range(jax.process_count())))
        with _quiet_orbax():
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=together)
            self._orbax = ocp.Checkpointer(handler, multiprocessing_options=together)
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None

    def save(
        self,
        step: int,
        arrays: Any,
        record: Mapping[str, Any] = types.MappingProxyType({}),
        *,
        score: float | None = None,
    ) -> None:
        """Writes a checkpoint in the background; waits only for an earlier write that is not done yet.

        The arrays are copied to the host's memory first, in the order of the device's work: the next step may be
        given them to overwrite (donation) as soon as this returns. A step may be saved again; the later one counts.

        Args:
            step: the step number, from 0.
            arrays: a pytree of JAX arrays, of any sharding; typed random keys too.
            record: anything JSON can hold: configuration, metric history, position in the data.
            score: higher is better, finite; None: never among the best.

        Raises:
            TypeError, ValueError: an argument cannot be saved; nothing was written.
            CheckpointError: an earlier write failed (disk full, say); this one was not begun.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        if score is not None and not math.isfinite(score):
            raise ValueError(f"score must be finite or None, got {score}")
        described = _describe(arrays, "arrays")
        leaves = jax.tree.leaves(arrays)
        for (path, kind, shape), leaf in zip(described, leaves, strict=True):
            if not isinstance(leaf, jax.Array):
                raise TypeError(f"arrays must hold JAX arrays, got {type(leaf).__name__} at {path}")
            if leaf.size == 0:
                raise ValueError(f"arrays must have at least one element, got {kind}{shape} at {path}")
        contents = json.dumps(
            {
                "step": int(step),
                "score": None if score is None else float(score),
                "arrays": described,
                "keys": {i: str(jax.random.key_impl(leaf)) for i, leaf in enumerate(leaves) if _is_key(leaf)},
                "record": dict(record),
            }
        )
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(int(step), _to_host(leaves), contents), name="advjax-checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Returns when the write in the background is done.

        Raises:
            CheckpointError: it failed. The message says why; it is raised once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def restore(self, template: Any, step: int | Literal["newest", "best"] = "newest") -> Restored | None:
        """Reads a checkpoint, onto any number of devices and processes.

        Every byte is checked first. For "newest" and "best", damaged checkpoints are set aside with one warning that
        names them, and the next one is used.

        Args:
            template: a pytree of arrays or `jax.ShapeDtypeStruct`s: the wanted structure, shapes, types and
                shardings (a `ShapeDtypeStruct` without sharding: the first device of this process).
            step: which one; "newest" is the one written last, "best" the one of the highest score.

        Returns:
            None if there is no checkpoint in the folder at all.

        Raises:
            CheckpointError: all checkpoints are damaged; the step asked for is damaged or is not there; "best", but
                none has a score; or an earlier write failed.
            ValueError: the checkpoint is of another structure than the template; the message lists the differences.
        """
        if isinstance(step, str) and step not in ("newest", "best"):
            raise ValueError(f'step must be a number, "newest" or "best", got {step!r}')
        wanted = _describe(template, "template")
        self.wait()
        chosen = agree(lambda: self._choose(step))
        if chosen is None:
            return None
        path = self.folder / chosen["name"]
        if chosen["warning"] and jax.process_index() == 0:
            warnings.warn(chosen["warning"], stacklevel=2)
        contents = chosen["contents"]
        if contents["arrays"] != wanted:
            raise ValueError(f"the checkpoint {path} does not fit the template: {_difference(contents, wanted)}")
        return Restored(contents["step"], self._read(path / _ARRAYS, template, contents["keys"]), contents["record"])

    def steps(self) -> list[int]:
        """The steps of the finished checkpoints, in rising order."""
        return sorted(files.latest(self.folder))

    def best_step(self) -> int | None:
        """The step with the highest score; None if no checkpoint has a score."""
        best = files.best_first(files.latest(self.folder).values())
        return best[0].step if best else None

    def close(self) -> None:
        """Waits for the write in the background.

        Raises:
            CheckpointError: it failed.
        """
        self.wait()
        with _quiet_orbax():
            self._orbax.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def _write(self, step: int, leaves: Sequence[jax.Array], record: str) -> None:
        """The background thread: all processes write arrays, then process 0 makes a checkpoint of them."""
        first = jax.process_index() == 0
        try:
            if first:
                files.start(self.folder)
            # Orbax refuses arrays that only this process can see; they are the same in all, so process 0 writes them.
            local = jax.process_count() > 1
            named = {str(i): np.asarray(x) if local and x.is_fully_addressable else x for i, x in enumerate(leaves)}
            with _quiet_orbax():
                self._orbax.save(files.unfinished(self.folder) / _ARRAYS, args=ocp.args.PyTreeSave(named))
            try:
                if first:
                    files.publish(self.folder, step, record)
                    files.prune(self.folder, self.keep_last, self.keep_best)
            finally:
                if jax.process_count() > 1:
                    ocp.multihost.get_barrier_sync_fn()(key="advjax_checkpoint", timeout_ms=_BARRIER_MS)
        except Exception as error:
            self._failure = CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}, "
                f"the checkpoints written before it are intact: {type(error).__name__}: {error}"
            )
            self._failure.__cause__ = error
            if first:
                with contextlib.suppress(OSError):  # what is left is deleted at the next write
                    files.discard(self.folder)

    def _choose(self, which: int | str) -> dict[str, Any] | None:
        """Process 0: the name and the record of the checkpoint to read, and a warning about damaged ones."""
        everything = files.finished(self.folder)
        if not everything:
            return None
        if isinstance(which, str):
            use, warning = self._choose_whole(everything, which)
        else:
            if which not in self.steps():
                raise CheckpointError(f"there is no checkpoint of step {which} in {self.folder}, but of {self.steps()}")
            use, warning = files.latest(self.folder)[which], ""
            if damage := files.damage(use.path):
                raise CheckpointError(f"the checkpoint {use.path} is damaged: {damage}")
        return {"name": use.path.name, "contents": use.contents(), "warning": warning}

    def _choose_whole(self, everything: Sequence[files.Saved], which: str) -> tuple[files.Saved, str]:
        whole: list[files.Saved] = []
        damaged: list[tuple[files.Saved, str]] = []
        for saved in reversed(everything):
            if damage := files.damage(saved.path):
                damaged.append((saved, damage))
                continue
            whole.append(saved)
            # The score of a damaged checkpoint cannot be trusted: to find the best, check them all.
            if which == "newest":
                break
        reasons = "; ".join(f"{saved.path}: {damage}" for saved, damage in damaged)
        if not whole:
            raise CheckpointError(f"all checkpoints in {self.folder} are damaged: {reasons}")
        use = whole if which == "newest" else files.best_first(whole)
        for saved, _ in damaged:
            files.set_aside(saved)
        if not use:
            aside = f"; set aside as damaged-*: {reasons}" if damaged else ""
            raise CheckpointError(f"no undamaged checkpoint in {self.folder} has a score, so none is the best{aside}")
        warning = f"damaged checkpoints are set aside as damaged-*, step {use[0].step} is used instead: {reasons}"
        return use[0], warning if damaged else ""

    def _read(self, path: pathlib.Path, template: Any, keys: Mapping[str, str]) -> Any:
        leaves, structure = jax.tree.flatten(template)
        places = [_place(leaf) for leaf in leaves]
        how = {
            str(i): ocp.RestoreArgs(restore_type=np.ndarray) if to_host else ocp.ArrayRestoreArgs(sharding=sharding)
            for i, (to_host, sharding) in enumerate(places)
        }
        with _quiet_orbax():
            stored = self._orbax.restore(path, args=ocp.args.PyTreeRestore(restore_args=how))
        arrays = []
        for i, (to_host, sharding) in enumerate(places):
            array = jax.device_put(stored[str(i)], sharding) if to_host else stored[str(i)]
            arrays.append(jax.random.wrap_key_data(array, impl=keys[str(i)]) if str(i) in keys else array)
        return jax.tree.unflatten(structure, arrays)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax tells absl's logger of each file, some of it as warnings; what goes wrong it raises as well."""

    def is_of_others(entry: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in entry.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_of_others)
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(tree: Any, argument: str) -> list[list[Any]]:
    """The path, type and shape of each array, as JSON gives them back."""
    described = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            raise TypeError(f"{argument} must hold JAX arrays, got {type(leaf).__name__} at {name or 'its root'}")
        described.append([name, str(leaf.dtype), list(leaf.shape)])
    if not described:
        raise ValueError(f"{argument} must hold at least one array, got none")
    return described


def _difference(contents: Mapping[str, Any], wanted: Sequence[Sequence[Any]]) -> str:
    saved, asked = ({path: f"{kind}{shape}" for path, kind, shape in rows} for rows in (contents["arrays"], wanted))
    lines = [
        f"{path}: {saved.get(path, 'nothing')} in the checkpoint, {asked.get(path, 'nothing')} in the template"
        for path in [*saved, *(path for path in asked if path not in saved)]
        if saved.get(path) != asked.get(path)
    ]
    return "\n  ".join(["", *lines]) if lines else "the same arrays in another order"


def _to_host(leaves: Sequence[jax.Array]) -> list[jax.Array]:
    data = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
    return jax.device_put(data, [x.sharding.with_memory_kind("pinned_host") for x in data], may_alias=False)


def _place(leaf: Any) -> tuple[bool, jax.sharding.Sharding | None]:
    """Whether to read an array through the host, and its sharding; None: uncommitted, JAX may move it."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return isinstance(sharding, jax.sharding.SingleDeviceSharding), sharding
    if isinstance(leaf.sharding, jax.sharding.SingleDeviceSharding):
        return True, leaf.sharding if leaf.committed else None
    return False, leaf.sharding


def agree(choose: Callable[[], Any]) -> Any:
    """What `choose` returns or raises in process 0, in all processes."""
    if jax.process_count() == 1:
        return choose()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"chosen": choose()}
        except (CheckpointError, OSError, ValueError) as error:
            answer = {"error": str(error)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = multihost_utils.broadcast_one_to_all(text if jax.process_index() == 0 else np.zeros(size, np.uint8))
    answer = json.loads(np.asarray(text).tobytes())
    if "error" in answer:
        raise CheckpointError(answer["error"])
    return answer["chosen"]
