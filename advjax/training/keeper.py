"""Keeps a training in a folder: checkpoints, the metrics so far, and the answer to a signal."""

import contextlib
import math
import pathlib
import sys
import warnings
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from advjax.lock import FolderInUseError, FolderLock
from advjax.training.checkpoint import CheckpointError, Checkpoints, Restored, agree
from advjax.training.history import History, Log
from advjax.training.identity import check_identity
from advjax.training.interrupts import Preempted, stop_requests
from advjax.training.state import TrainState

__all__ = ["Found", "Keeper"]


class Found(NamedTuple):
    """A training as it was kept: its states, the best ones and their score, the rows so far, its data's position."""

    states: TrainState
    best: TrainState | None
    best_score: float
    history: History
    feed: dict[str, Any]


class Keeper:
    """One training's folder, held for this training and open as long as `stack`; signals are held back meanwhile.

    Attributes:
        requested: tells the name of the signal that came, or None.
        saved: the step of the newest checkpoint; None: there is none.
    """

    def __init__(
        self, folder: pathlib.Path, identity: dict[str, Any], tensorboard: bool, stack: contextlib.ExitStack
    ) -> None:
        self._folder, self._identity, self._tensorboard, self._stack = folder, identity, tensorboard, stack
        # First, so that it is freed last, when the write in the background is done. The processes of one job share the
        # folder: process 0 holds it for all.
        agree(lambda: _hold(folder, stack))
        self._checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
        self.requested = stack.enter_context(stop_requests())
        self.saved: int | None = None
        self._log: Log | None = None

    def find(self, template: TrainState) -> Found | None:
        """What the newest whole checkpoint holds, placed like the template; None: a new training.

        Raises:
            ValueError: it is another training's, or of another network or optimizer.
            CheckpointError: there are checkpoints, and all are damaged.
        """
        newest = self._checkpoints.restore(template)
        if newest is None:
            return None
        check_identity(newest.record["identity"], self._identity, self._folder)
        self.saved = newest.step
        history = History(list(newest.record["history"]))
        return Found(newest.arrays, *self._find_best(template, newest, history), history, newest.record["feed"])

    def _find_best(self, template: TrainState, newest: Restored, history: History) -> tuple[TrainState | None, float]:
        top = history.best()
        if top is None:
            return None, -math.inf
        if top[0] == newest.step:
            return jax.tree.map(jnp.copy, newest.arrays), top[1]
        try:
            kept = self._checkpoints.restore(template, "best")
        except CheckpointError as error:
            # The training itself is whole; the next validation is then the best there is.
            if jax.process_index() == 0:
                warnings.warn(f"the best states so far are lost: {error}", stacklevel=2)
            kept = None
        return (None, -math.inf) if kept is None else (kept.arrays, History(kept.record["history"]).score())

    def open_log(self, history: History) -> None:
        """Begins `metrics.csv` with the rows so far; in the first of several processes only."""
        if jax.process_index() == 0:
            self._log = Log(self._folder, history, tensorboard=self._tensorboard)
            self._stack.callback(self._log.close)

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row of the history where it can be watched."""
        if self._log is not None:
            self._log.write(row)

    def save(self, step: int, states: TrainState, history: History, feed: dict[str, Any], score: float | None) -> None:
        """Saves in the background; waits for the write before it."""
        record = {"identity": self._identity, "history": history.rows, "feed": feed}
        self._checkpoints.save(step, states, record, score=score)
        self.saved = step

    def wait(self) -> None:
        """Returns when all is on the disk."""
        self._checkpoints.wait()

    def stop(self, name: str, step: int, end: int) -> NoReturn:
        """Ends the program after signal `name`, with the line that says how to go on."""
        self.wait()
        message = f"stopped by {name} at step {step} of {end}, saved in {self._folder}: the same command goes on"
        if jax.process_index() == 0:
            print(message, file=sys.stderr, flush=True)
        raise Preempted(message)

    def last_good(self) -> str:
        """Which checkpoint a training that went wrong can go back to."""
        if self.saved is None:
            return f"no checkpoint was saved yet in {self._folder}"
        return f"the last good checkpoint, in {self._folder}, is of step {self.saved}"


def _hold(folder: pathlib.Path, stack: contextlib.ExitStack) -> None:
    try:
        stack.enter_context(FolderLock(folder))
    except FolderInUseError:
        raise
    except OSError as error:
        raise CheckpointError(f"the folder {folder} cannot be made or written: {error}") from error
