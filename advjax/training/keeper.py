"""Keeps a training in a folder: checkpoints, the metrics so far, and the answer to a signal."""

import contextlib
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from advjax.fingerprint import differences
from advjax.lock import FolderInUseError, FolderLock
from advjax.training.checkpoint import CheckpointError, Checkpoints, Restored, agree
from advjax.training.history import History, Log
from advjax.training.interrupts import Preempted, stop_requests
from advjax.training.state import TrainState

__all__ = ["Best", "Found", "Keeper"]


class Best(NamedTuple):
    """The states of the best validation so far, and its `History.score`."""

    states: TrainState
    score: float


class Found(NamedTuple):
    """A training as it was kept: its states, the best ones, the rows so far, its data's position."""

    states: TrainState
    best: Best | None
    history: History
    feed: dict[str, Any]


class Keeper:
    """One training's folder, held for this training and open as long as `stack`; signals are held back meanwhile.

    Without a folder nothing is kept, and signals do what they always do.

    Attributes:
        requested: tells the name of the signal that came, or None.
        saved: the step of the newest checkpoint; None: there is none.
    """

    def __init__(
        self, folder: pathlib.Path | None, identity: dict[str, Any], tensorboard: bool, stack: contextlib.ExitStack
    ) -> None:
        self._folder, self._identity, self._tensorboard, self._stack = folder, identity, tensorboard, stack
        self._checkpoints: Checkpoints | None = None
        self._log: Log | None = None
        self.requested: Callable[[], str | None] = lambda: None
        self.saved: int | None = None
        if folder is not None:
            # First, so that it is freed last, when the write in the background is done. The processes of one job share
            # the folder: process 0 holds it for all.
            agree(lambda: _hold(folder, stack))
            self._checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
            self.requested = stack.enter_context(stop_requests())

    def find(self, template: TrainState, history: History) -> Found | None:
        """What the newest whole checkpoint holds, placed like the template; None: a new training.

        Args:
            template: states of the same kind.
            history: one of the same kind, without rows.

        Raises:
            ValueError: it is another training's, or of another network or optimizer.
            CheckpointError: there are checkpoints, and all are damaged.
        """
        if self._checkpoints is None or (newest := self._checkpoints.restore(template)) is None:
            return None
        if changed := differences(newest.record["identity"], self._identity):
            raise ValueError(
                f"the folder {self._folder} holds another training ({changed}): choose another folder, "
                "or remove that one"
            )
        self.saved = newest.step
        history = history.with_rows(newest.record["history"])
        best = _find_best(self._checkpoints, template, newest, history)
        return Found(newest.arrays, best, history, newest.record["feed"])

    def open_log(self, history: History) -> None:
        """Begins `metrics.csv` with the rows so far; in the first of several processes only."""
        if self._folder is not None and jax.process_index() == 0:
            self._log = Log(self._folder, history, tensorboard=self._tensorboard)
            self._stack.callback(self._log.close)

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row of the history where it can be watched."""
        if self._log is not None:
            self._log.write(row)

    def save(self, step: int, states: TrainState, history: History, feed: dict[str, Any], score: float | None) -> None:
        """Saves in the background; waits for the write before it."""
        if self._checkpoints is not None:
            record = {"identity": self._identity, "history": history.rows, "feed": feed}
            self._checkpoints.save(step, states, record, score=score)
            self.saved = step

    def wait(self) -> None:
        """Returns when all is on the disk."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def stop(self, name: str, step: int, end: int) -> NoReturn:
        """Ends the program after signal `name`, with the line that says how to go on."""
        self.wait()
        message = f"stopped by {name} at step {step} of {end}, saved in {self._folder}: the same command goes on"
        if jax.process_index() == 0:
            print(message, file=sys.stderr, flush=True)
        raise Preempted(message)

    def last_good(self) -> str:
        """The end of a message: which checkpoint a training that went wrong can go back to."""
        if self._folder is None:
            return ""
        if self.saved is None:
            return f"; no checkpoint was saved yet in {self._folder}"
        return f"; the last good checkpoint, in {self._folder}, is of step {self.saved}"


def _find_best(checkpoints: Checkpoints, template: TrainState, newest: Restored, history: History) -> Best | None:
    if (top := history.best()) is None:
        return None
    if top[0] == newest.step:
        return Best(jax.tree.map(jnp.copy, newest.arrays), top[1])
    try:
        kept = checkpoints.restore(template, "best")
    except CheckpointError as error:
        # The training itself is whole; the next validation is then the best there is.
        if jax.process_index() == 0:
            warnings.warn(f"the best states so far are lost: {error}", stacklevel=2)
        return None
    return None if kept is None else Best(kept.arrays, history.with_rows(kept.record["history"]).score())


def _hold(folder: pathlib.Path, stack: contextlib.ExitStack) -> None:
    try:
        stack.enter_context(FolderLock(folder))
    except FolderInUseError:
        raise
    except OSError as error:
        raise CheckpointError(f"the folder {folder} cannot be made or written: {error}") from error
