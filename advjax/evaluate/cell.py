"""Cell: what one attack did to one model, image by image, and the numbers that a table prints of it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.attacks.attack import Failure
from advjax.evaluate.intervals import Accuracy, accuracy_of
from advjax.evaluate.measure import DISTANCES

__all__ = ["CLEAN", "Cell", "merge_runs"]

CLEAN = "clean"
"""The name of no attack."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """What one attack, made on one model, did to one model: arrays over the N images, in the order of the data.

    Where an attack was run R times (restarts, members of a stack), everything but `run_correct` is that of the run
    which hurt the image most: a wrong answer before a right one, then the larger loss.

    Attributes:
      model: who answered.
      attack: "clean" for the images as they are.
      source: the model that the attack was made on; another one than `model` where it was transferred.
      run_correct: bool [R, N], whether the answer was right in each run.
      correct: bool [N], in all of them.
      loss: cross-entropy [N].
      failure: int8 [N], a `Failure`: why a right answer did not become a wrong one. None for "clean", as below.
      l0, l1, l2, linf: distances [N] between clean and perturbed image, in units of [0, 1].
      pass_score: PASS [N] of the two; None if it was not asked for.
    """

    model: str
    attack: str
    source: str
    run_correct: np.ndarray
    correct: np.ndarray
    loss: np.ndarray
    failure: np.ndarray | None = None
    l0: np.ndarray | None = None
    l1: np.ndarray | None = None
    l2: np.ndarray | None = None
    linf: np.ndarray | None = None
    pass_score: np.ndarray | None = None

    @property
    def accuracy(self) -> Accuracy:
        """Share of all images that are answered rightly."""
        return accuracy_of(self.correct)

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy over all images."""
        return float(np.mean(self.loss, dtype=np.float64))

    @property
    def success(self) -> np.ndarray | None:
        """bool [N]: the clean image was answered rightly, the perturbed one wrongly."""
        return None if self.failure is None else self.failure == Failure.NONE

    @property
    def success_rate(self) -> float | None:
        """Successes among the images that were answered rightly when clean; None where there is no such image."""
        if self.failure is None:
            return None
        attacked = int(np.sum(self.failure != Failure.ALREADY_MISCLASSIFIED))
        return int(np.sum(self.failure == Failure.NONE)) / attacked if attacked else None

    @property
    def mean_distances(self) -> dict[str, float | None]:
        """Mean l0, l1, l2, linf, and PASS if asked for, over the successes alone; None where there is none."""
        names = [name for name in (*DISTANCES, "pass_score") if getattr(self, name) is not None]
        hits = self.success
        if hits is None or not hits.any():
            return dict.fromkeys(names)
        return {name: float(np.mean(getattr(self, name)[hits], dtype=np.float64)) for name in names}

    @property
    def failures(self) -> dict[str, int]:
        """How many images did not become successes, by the name of the `Failure`."""
        if self.failure is None:
            return {}
        counts = {reason.name: int(np.sum(self.failure == reason)) for reason in Failure if reason}
        return {name: count for name, count in counts.items() if count}

    def summary(self) -> dict[str, Any]:
        """The numbers above as JSON takes them: one that is not finite is a word."""
        return {
            "accuracy": self.accuracy._asdict(),
            "run_accuracies": [float(share) for share in self.run_correct.mean(axis=1)],
            "mean_loss": _json_number(self.mean_loss),
            "success_rate": self.success_rate,
            "mean_over_successes": {name: _json_number(mean) for name, mean in self.mean_distances.items()},
            "failures": self.failures,
        }


def merge_runs(model: str, attack: str, source: str, runs: Mapping[str, np.ndarray], clean_correct: np.ndarray) -> Cell:
    """The cell of arrays [R, N] by name, each image's numbers taken from the run that hurt it most.

    Args:
      model, attack, source: see `Cell`.
      runs: `correct`, `loss`, distances, PASS if asked for, and `failure`: what the attack said of its own model.
      clean_correct: bool [N], whether `model` answers the clean images rightly.
    """
    # Of the attack's own reasons those that are about the image alone hold for another model too.
    told = np.isin(runs["failure"], (Failure.NO_DIRECTION, Failure.NO_BOUNDARY))
    failure = np.where(told, runs["failure"], Failure.NOT_FOOLED)
    failure = np.where(runs["correct"], failure, Failure.NONE)
    failure = np.where(clean_correct[None], failure, Failure.ALREADY_MISCLASSIFIED).astype(np.int8)
    # A loss that is NaN is no small one.
    loss = np.where(np.isnan(runs["loss"]), np.inf, runs["loss"])
    worst = np.lexsort((loss, ~runs["correct"]), axis=0)[-1:]
    arrays = {**runs, "failure": failure}
    taken = {name: np.take_along_axis(array, worst, axis=0)[0] for name, array in arrays.items()}
    return Cell(model, attack, source, runs["correct"], **taken)


def _json_number(number: float | None) -> float | str | None:
    return number if number is None or math.isfinite(number) else str(number)
