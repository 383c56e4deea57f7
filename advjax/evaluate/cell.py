"""Cell: what one attack did to one model, image by image, and the numbers that a table prints of it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.attacks.attack import Asks, Failure
from advjax.evaluate.intervals import Accuracy, accuracy_of
from advjax.evaluate.measure import DISTANCES

__all__ = ["CLEAN", "Cell", "clean_cell", "merge_runs", "worst_run"]

CLEAN = "clean"
"""The name of no attack."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """What one attack, made on one model, did to one model: arrays over the N images, in the order of the data.

    Where an attack was run R times (restarts, members of a stack), everything but `run_correct` and `non_finite` is
    that of the run which hurt the image most: one that reached what the attack is after first, then a wrong answer,
    then the larger loss.

    What an attack is after is a wrong answer, or the target's class for a targeted one (`criterion_of`); whether it
    was reached is asked of the model that answers, on the image as it is.

    A model that draws random numbers answers at several fresh draws, other ones for each image, none of which the
    attack has seen: its answer is right, or what the attack is after, where it is so in more than half of them.

    Attributes:
      model: who answered.
      attack: "clean" for the images as they are.
      source: the model that the attack was made on; another one than `model` where it was transferred.
      run_correct: bool [R, N], whether the answer was right in each run.
      correct: bool [N], in all of them.
      loss: cross-entropy [N]; for a random model its mean over the draws.
      prediction: int32 [N], the class answered; for a random model the most frequent one. None in reports written
        before it was kept (of version 1).
      share: float32 [N], of a random model: the share of draws answered rightly. None for others.
      failure: int8 [N], a `Failure`: why the attack did not get what it is after. None for "clean", as below.
      non_finite: bool [N], whether in some run a gradient of the image held NaN or infinity; such entries count as
        zero, so that the attack was weaker than it looks.
      l0, l1, l2, linf: distances [N] between clean and perturbed image, in units of [0, 1].
      pass_score: PASS [N] of the two; None if it was not asked for.
      calls: int32 [N], evaluations of the model that was attacked, of all runs together. None for "clean", and in
        reports written before it was kept.
      asks: the most that the attack learned from that model, see `Perturbation`. None where `calls` is.
    """

    model: str
    attack: str
    source: str
    run_correct: np.ndarray
    correct: np.ndarray
    loss: np.ndarray
    prediction: np.ndarray | None = None
    share: np.ndarray | None = None
    failure: np.ndarray | None = None
    non_finite: np.ndarray | None = None
    l0: np.ndarray | None = None
    l1: np.ndarray | None = None
    l2: np.ndarray | None = None
    linf: np.ndarray | None = None
    pass_score: np.ndarray | None = None
    calls: np.ndarray | None = None
    asks: Asks | None = None

    @property
    def accuracy(self) -> Accuracy:
        """Share of all images that are answered rightly."""
        return accuracy_of(self.correct)

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy over all images."""
        return float(np.mean(self.loss, dtype=np.float64))

    @property
    def mean_share(self) -> float | None:
        """Of a random model: the accuracy of a single draw, on average."""
        return None if self.share is None else float(np.mean(self.share, dtype=np.float64))

    @property
    def success(self) -> np.ndarray | None:
        """bool [N]: the clean image was answered rightly, and the attack got what it is after."""
        return None if self.failure is None else self.failure == Failure.NONE

    @property
    def success_rate(self) -> float | None:
        """Successes among the images that were answered rightly when clean; None where there is no such image.

        For a targeted attack among those of them that are not of the target's class already.
        """
        if self.failure is None:
            return None
        beside = np.isin(self.failure, (Failure.ALREADY_MISCLASSIFIED, Failure.LABEL_IS_TARGET))
        attacked = int(np.sum(~beside))
        return int(np.sum(self.failure == Failure.NONE)) / attacked if attacked else None

    @property
    def non_finite_share(self) -> float | None:
        """Share of all images at which some gradient was not finite."""
        return None if self.non_finite is None else float(np.mean(self.non_finite))

    @property
    def mean_distances(self) -> dict[str, float | None]:
        """Mean l0, l1, l2, linf, and PASS if asked for, over the successes alone; None where there is none."""
        names = [name for name in (*DISTANCES, "pass_score") if getattr(self, name) is not None]
        hits = self.success
        if hits is None or not hits.any():
            return dict.fromkeys(names)
        return {name: float(np.mean(getattr(self, name)[hits], dtype=np.float64)) for name in names}

    @property
    def mean_calls(self) -> float | None:
        """Evaluations of the model for one image, on average."""
        return None if self.calls is None else float(np.mean(self.calls, dtype=np.float64))

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
            "mean_share": self.mean_share,
            "success_rate": self.success_rate,
            "mean_over_successes": {name: _json_number(mean) for name, mean in self.mean_distances.items()},
            "failures": self.failures,
            "non_finite_share": self.non_finite_share,
            "asks": self.asks,
            "mean_calls": self.mean_calls,
        }


def clean_cell(model: str, answers: Mapping[str, np.ndarray], is_random: bool) -> Cell:
    """The cell of the clean images, of arrays [N] by name: what `Stream.clean` found."""
    taken: dict[str, Any] = {name: answers[name] for name in ("correct", "loss", "prediction", "share")}
    if not is_random:
        taken["share"] = None
    return Cell(model, CLEAN, model, answers["correct"][None], **taken)


def merge_runs(
    model: str,
    attack: str,
    source: str,
    runs: Mapping[str, np.ndarray],
    clean_correct: np.ndarray,
    is_random: bool,
    asks: Asks,
) -> Cell:
    """The cell of arrays [R, N] by name, each image's numbers taken from the run that hurt it most.

    Args:
      model, attack, source: see `Cell`.
      runs: what `Stream.attack` found for `model`: `correct`, `met`, `possible`, ..., distances, PASS if asked for,
        and `failure`, what the attack said of its own model.
      clean_correct: bool [N], whether `model` answers the clean images rightly.
      is_random: whether it draws random numbers.
      asks: see `Cell`.
    """
    # Of the attack's own reasons those that are about the image alone hold for another model too.
    told = np.isin(runs["failure"], (Failure.NO_DIRECTION, Failure.NO_BOUNDARY))
    failure = np.where(told, runs["failure"], Failure.NOT_FOOLED)
    failure = np.where(runs["met"], Failure.NONE, failure)
    failure = np.where(runs["possible"], failure, Failure.LABEL_IS_TARGET)
    failure = np.where(clean_correct[None], failure, Failure.ALREADY_MISCLASSIFIED).astype(np.int8)
    arrays = {name: array for name, array in runs.items() if name in _TAKEN} | {"failure": failure}
    worst = worst_run(runs)
    taken: dict[str, Any] = {name: np.take_along_axis(array, worst, axis=0)[0] for name, array in arrays.items()}
    if not is_random:
        taken["share"] = None
    taken["non_finite"] = np.any(runs["non_finite"], axis=0)
    return Cell(
        model, attack, source, runs["correct"], **taken, calls=runs["calls"].sum(axis=0, dtype=np.int32), asks=asks
    )


def worst_run(runs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which of R runs hurt each image most, int [1, N], by the order that `Cell` tells; `runs` as for `merge_runs`."""
    # A loss that is NaN is no small one.
    loss = np.where(np.isnan(runs["loss"]), np.inf, runs["loss"])
    worst: np.ndarray = np.lexsort((loss, ~runs["correct"], runs["met"]), axis=0)[-1:]
    return worst


# What a cell has of one run.
_TAKEN = ("correct", "loss", "prediction", "share", *DISTANCES, "pass_score")


def _json_number(number: float | None) -> float | str | None:
    return number if number is None or math.isfinite(number) else str(number)
