"""One training from its newest checkpoint to its end: blocks of steps, and what is due between them."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from advjax.command import ExplainedError
from advjax.data.pipeline import check_set
from advjax.training.block import BlockResult
from advjax.training.faults import DataError, Faults, told
from advjax.training.feed import Feed
from advjax.training.fitted import Fitted
from advjax.training.history import History
from advjax.training.interface import Batch, Metrics, TrainingStep
from advjax.training.keeper import Best, Keeper
from advjax.training.predictions import measure
from advjax.training.sharding import Placement
from advjax.training.state import TrainState

__all__ = ["NonFiniteLossError", "Plan", "Run"]


class NonFiniteLossError(ExplainedError, FloatingPointError):
    """A loss, weight or batch statistic was NaN or infinite.

    The message names the network, the step and the last good checkpoint.
    """


@dataclasses.dataclass(frozen=True)
class Plan:
    """When the training ends, and what is due between blocks (see `Trainer.fit`)."""

    end: int
    block: int
    every: int | None
    validation: tuple[np.ndarray, np.ndarray] | None
    patience: int | None

    def __post_init__(self) -> None:
        if self.validation is not None:
            images, labels = self.validation
            check_set(images, labels, "validation ")
        if self.every is not None and (self.every < 1 or self.every % self.block):
            raise ValueError(f"every must be a multiple of block={self.block}, got {self.every}")
        if self.patience is not None and (self.patience < 1 or self.validation is None or self.every is None):
            raise ValueError(f"patience must be at least 1 and needs validation and every, got {self.patience}")

    def steps_of_block(self, step: int) -> int:
        """The steps of the block after `step`: they end at multiples of `block`, wherever a training began."""
        return min(self.block - step % self.block, self.end - step)

    def due(self, step: int) -> bool:
        """Whether to validate and save after `step`."""
        return step == self.end or (self.every is not None and step % self.every == 0)

    def is_over(self, step: int, history: History) -> bool:
        """Whether no step is left, or validation improves no more."""
        return step == self.end or self.is_early(history)

    def is_early(self, history: History) -> bool:
        """Whether validation improves no more."""
        return self.patience is not None and history.validations_since_best() >= self.patience


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
        step: TrainingStep,
        block: Callable[[TrainState, Batch, jax.Array, int], BlockResult],
        feed: Feed,
        placement: Placement,
        keeper: Keeper,
        advance: Callable[[int, float, float], None],
    ) -> None:
        self._plan, self._step, self._block, self._feed, self._placement = plan, step, block, feed, placement
        self._keeper, self._advance = keeper, advance
        self._history = History(also=step.also, lower_is_better=step.lower_is_better)
        self._best: Best | None = None
        self._running: _Running | None = None

    def train(self, states: TrainState, images_a_step: int) -> Fitted:
        """From the newest checkpoint, or from `states`, to the end."""
        states, begun = self._begin(states)
        self._advance(begun * images_a_step, 0.0, 0.0)
        step = begun
        while not self._plan.is_over(step, self._history):
            self._stop_if_asked(states, step)
            count = self._plan.steps_of_block(step)
            # The host prepares this block while the device still works on the one before, and reads that one's
            # numbers only when the device has this one to work on.
            content, order = self._feed.next(step, count)
            states, metrics, finite = self._block(states, content, order, count)
            if step == begun and self._keeper.requested() == "SIGINT":
                raise KeyboardInterrupt  # it came while the program was compiled: no step is lost
            self._read()
            step += count
            self._running = _Running(step, count, metrics, finite)
            if self._plan.due(step):
                self._read()
                self._save(states, step, self._validate(states))
        self._keeper.wait()
        self._stop_if_asked(states, step)  # a signal that came in the last block
        return Fitted(states, self._best and self._best.states, self._history, self._plan.is_early(self._history))

    def _begin(self, states: TrainState) -> tuple[TrainState, int]:
        if (found := self._keeper.find(states, self._history)) is not None:
            states, self._best, self._history = found.states, found.best, found.history
            self._feed.restore(found.feed)
        self._keeper.open_log(self._history)
        step = int(Placement.to_host(states.step).max())
        if step > self._plan.end:
            raise ValueError(
                f"steps must reach the newest checkpoint, of step {step}, got an end at step {self._plan.end}"
            )
        return states, step

    def _stop_if_asked(self, states: TrainState, step: int) -> None:
        if (signal := self._keeper.requested()) is None:
            return
        self._read()
        if self._keeper.saved != step:
            self._save(states, step, None)
        self._keeper.stop(signal, step, self._plan.end)

    def _read(self) -> None:
        """Adds the row of the block that runs, if one does, when the device is done with it."""
        if self._running is None:
            return
        step, count, *numbers = self._running
        self._running = None
        metrics, finite = jax.device_get(numbers)
        losses, right, seen, faults, also = jax.tree.map(lambda part: part[:, :count], metrics)
        lost, faulty = _first(~np.isfinite(losses)), _first(np.any(np.stack(faults) > 0, axis=0))
        if faulty is not None and (lost is None or faulty <= lost):  # what came first made the rest
            at, network = faulty
            message = told(Faults(*(part[network, at] for part in faults)), seen[network, at])
            raise DataError(
                f"at step {step - count + at}, of network {network}'s batch, {message}{self._keeper.last_good()}"
            )
        if lost is not None:
            at, network = lost
            self._fail(f"the loss of network {network} is {losses[network, at]} at step {step - count + at}")
        if not finite.all():
            self._fail(f"a variable of network {finite.argmin()} is not finite after step {step}")
        total = seen.sum(axis=1)
        loss, accuracy, *others = (part.sum(axis=1) / total for part in (losses, right, *also.values()))
        row = self._history.add(step, loss, accuracy, dict(zip(also, others, strict=True)))
        if (doubt := self._step.doubt(row)) is not None:
            warnings.warn(f"at step {step}: {doubt}", RuntimeWarning, stacklevel=2)
        if not (self._plan.due(step) and self._plan.validation is not None):
            self._keeper.write(row)
        self._advance(int(total.sum()), float(np.mean(row["loss"])), float(np.mean(row["accuracy"])))

    def _fail(self, what: str) -> NoReturn:
        raise NonFiniteLossError(f"{what}: the learning rate may be too high{self._keeper.last_good()}")

    def _validate(self, states: TrainState) -> float | None:
        """The `History.score` of a validation, noted in the last row; None without one."""
        if self._plan.validation is None:
            return None
        score = self._history.validated(measure(states, *self._plan.validation, placement=self._placement))
        if self._best is None or score > self._best.score:
            # A copy: the next block is given the states' own memory.
            self._best = Best(jax.tree.map(jnp.copy, states), score)
        self._keeper.write(self._history.rows[-1])
        return score

    def _save(self, states: TrainState, step: int, score: float | None) -> None:
        self._keeper.save(step, states, self._history, self._feed.state(), score)


def _first(flags: np.ndarray) -> tuple[int, int] | None:
    """The first step, and its first network, of flags [S, steps] that is set."""
    found = np.argwhere(flags.T)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None
