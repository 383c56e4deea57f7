"""One training from its newest checkpoint to its end: blocks of steps, and what is due between them."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from advjax.command import ExplainedError
from advjax.training.faults import DataError, Faults, told
from advjax.training.feed import Feed
from advjax.training.history import History
from advjax.training.keeper import Keeper
from advjax.training.predictions import measure
from advjax.training.sharding import Placement
from advjax.training.state import TrainState
from advjax.training.step import Batch, Metrics

__all__ = ["Block", "Fitted", "NonFiniteLossError", "Plan", "Run"]


class NonFiniteLossError(ExplainedError, FloatingPointError):
    """A loss, weight or batch statistic was NaN or infinite.

    The message names the network, the step and the last good checkpoint.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What a training gave.

    Attributes:
        states: the stacked states [S] after the last step.
        best: those after the step of best validation accuracy (the mean over the networks); None without validation.
        history: one row for each block of steps.
        early: whether it stopped before the last step because validation improved no more.
    """

    states: TrainState
    best: TrainState | None
    history: History
    early: bool = False

    @property
    def loss(self) -> np.ndarray:
        """The mean loss of each network over each block of steps, float32 [S, blocks]."""
        return self.history.column("loss", self.states.step.shape[0])

    @property
    def accuracy(self) -> np.ndarray:
        """The share of right answers of each network in each block, for the images it learned on, [S, blocks]."""
        return self.history.column("accuracy", self.states.step.shape[0])


class Plan(NamedTuple):
    """When the training ends, and what is due between blocks (see `Trainer.fit`)."""

    end: int
    block: int
    every: int | None
    validation: tuple[np.ndarray, np.ndarray] | None
    patience: int | None

    def steps_of_block(self, step: int) -> int:
        """The steps of the block after `step`: they end at multiples of `block`, wherever a training began."""
        return min(self.block - step % self.block, self.end - step)

    def due(self, step: int) -> bool:
        """Whether to validate and save after `step`."""
        return step == self.end or (self.every is not None and step % self.every == 0)


# `(states, content, order, number of steps) -> states, metrics [S, block], variables are finite [S]`
Block = Callable[[TrainState, Batch, np.ndarray, np.int32], tuple[TrainState, Metrics, jax.Array]]


class _Running(NamedTuple):
    """A block that the device works on: the step after it, its number of steps, and what it will say."""

    step: int
    steps: int
    metrics: Metrics
    finite: jax.Array


class Run:
    """The state of one training on the host."""

    def __init__(
        self,
        plan: Plan,
        block: Block,
        feed: Feed,
        where: Placement,
        keeper: Keeper | None,
        advance: Callable[[int, float, float], None],
    ) -> None:
        self._plan, self._block, self._feed, self._where = plan, block, feed, where
        self._keeper, self._advance = keeper, advance
        self._history = History()
        self._best: TrainState | None = None
        self._best_score = -math.inf
        self._running: _Running | None = None
        self._compiled = False

    def train(self, states: TrainState, images_a_step: int) -> Fitted:
        """From the newest checkpoint, or from `states`, to the end."""
        states = self._begin(states)
        step = int(np.max(Placement.to_host(states.step)))
        if step > self._plan.end:
            raise ValueError(
                f"steps must reach the newest checkpoint, of step {step}, got an end at step {self._plan.end}"
            )
        self._advance(step * images_a_step, 0.0, 0.0)
        early = self._is_early()
        while step < self._plan.end and not early:
            self._stop_if_asked(states, step)
            count = self._plan.steps_of_block(step)
            # The host prepares this block while the device still works on the one before, and reads that one's
            # numbers only when the device has this one to work on.
            content, order = self._feed.next(step, count)
            states, metrics, finite = self._block(states, content, order, np.int32(count))
            self._leave_if_interrupted()
            self._read()
            step += count
            self._running = _Running(step, count, metrics, finite)
            if self._plan.due(step):
                self._read()
                self._save(states, step, self._validate(states))
                early = self._is_early()
        if self._keeper is not None:
            self._keeper.wait()
        self._stop_if_asked(states, step)  # a signal that came in the last block
        return Fitted(states, self._best, self._history, early)

    def _stop_if_asked(self, states: TrainState, step: int) -> None:
        signal = self._keeper.requested() if self._keeper is not None else None
        if signal is None or self._keeper is None:
            return
        self._read()
        if self._keeper.saved != step:
            self._save(states, step, None)
        self._keeper.stop(signal, step, self._plan.end)

    def _leave_if_interrupted(self) -> None:
        """Ctrl-C while the program was compiled ends it at once: this call has made no step that could be lost."""
        first, self._compiled = not self._compiled, True
        if first and self._keeper is not None and self._keeper.requested() == "SIGINT":
            raise KeyboardInterrupt

    def _begin(self, states: TrainState) -> TrainState:
        if self._keeper is None:
            return states
        found = self._keeper.find(states)
        if found is not None:
            states, self._history = found.states, found.history
            self._best, self._best_score = found.best, found.best_score
            self._feed.restore(found.feed)
        self._keeper.open_log(self._history)
        return states

    def _read(self) -> None:
        """Adds the row of the block that runs, if one does, when the device is done with it."""
        if self._running is None:
            return
        step, count, metrics, finite = self._running
        self._running = None
        losses, right, seen, faults = jax.tree.map(lambda part: np.asarray(part)[:, :count], metrics)
        lost, faulty = _first(~np.isfinite(losses)), _first(np.any(np.stack(faults) > 0, axis=0))
        if faulty is not None and (lost is None or faulty <= lost):  # what came first made the rest
            at, network = faulty
            message = told(Faults(*(part[network, at] for part in faults)), seen[network, at])
            raise DataError(f"at step {step - count + at}, of network {network}'s batch, {message}{self._kept()}")
        if lost is not None:
            at, network = lost
            self._fail(f"the loss of network {network} is {losses[network, at]} at step {step - count + at}")
        if not np.asarray(finite).all():
            self._fail(f"a variable of network {int(np.argmin(np.asarray(finite)))} is not finite after step {step}")
        total = seen.sum(axis=1)
        self._history.add(step, losses.sum(axis=1) / total, right.sum(axis=1) / total)
        row = self._history.rows[-1]
        if self._keeper is not None and not (self._plan.due(step) and self._plan.validation is not None):
            self._keeper.write(row)
        self._advance(int(total.sum()), float(np.mean(row["loss"])), float(np.mean(row["accuracy"])))

    def _fail(self, what: str) -> NoReturn:
        raise NonFiniteLossError(f"{what}: the learning rate may be too high{self._kept()}")

    def _kept(self) -> str:
        return "" if self._keeper is None else f"; {self._keeper.last_good()}"

    def _validate(self, states: TrainState) -> float | None:
        """The mean validation accuracy, noted in the last row; None without validation."""
        if self._plan.validation is None:
            return None
        score = self._history.validated(measure(states, *self._plan.validation, placement=self._where))
        if score > self._best_score:
            # A copy: the next block is given the states' own memory.
            self._best, self._best_score = jax.tree.map(jnp.copy, states), score
        if self._keeper is not None:
            self._keeper.write(self._history.rows[-1])
        return score

    def _save(self, states: TrainState, step: int, score: float | None) -> None:
        if self._keeper is not None:
            self._keeper.save(step, states, self._history, self._feed.state(), score)

    def _is_early(self) -> bool:
        patience = self._plan.patience
        return patience is not None and self._history.validations_since_best() >= patience


def _first(flags: np.ndarray) -> tuple[int, int] | None:
    """The first step, and its first network, of flags [S, steps] that is set."""
    found = np.argwhere(flags.T)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None
