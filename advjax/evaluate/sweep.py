"""Sweeps: one attack at many epsilons, side by side in one compiled call."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.attacks.attack import Attack, stack
from advjax.classifier import Classifier
from advjax.evaluate.batches import Data, make_batches
from advjax.evaluate.cell import clean_cell, merge_runs
from advjax.evaluate.checks import check_attack, check_key, check_models
from advjax.evaluate.findings import model_bits, naming, warn_of_models
from advjax.evaluate.intervals import Accuracy
from advjax.evaluate.measure import judge_of
from advjax.evaluate.report import Report
from advjax.evaluate.stream import Stream, progress_bar

__all__ = ["Sweep", "accuracy_epsilon_figure", "sweep"]

_DRAWS = 10  # of a random model


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """What is left of a model's accuracy at each epsilon.

    Attributes:
      epsilons: the E epsilons, float64 [E].
      report: the cells: "clean", then one for each epsilon.
    """

    epsilons: np.ndarray
    report: Report

    @property
    def accuracies(self) -> list[Accuracy]:
        """Accuracy with its interval at each epsilon, [E]."""
        return [cell.accuracy for cell in self.report.cells[1:]]


def sweep(
    classifier: Classifier,
    make_attack: Callable[[float], Attack],
    epsilons: Sequence[float],
    data: Data,
    *,
    key: jax.Array,
    batch_size: int = 64,
    progress: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Sweep:
    """Attacks a model at every epsilon at once: the attacks are stacked and run as one batch of E * batch_size.

    Another sweep with as many epsilons, or another model of the same kind, compiles nothing. The attacks draw the
    same random numbers at every epsilon, those of `evaluate` with the same key. A model that draws random numbers is
    judged as there, at ten fresh draws.

    Args:
      classifier: the model.
      make_attack: epsilon -> attack; the attacks must differ in their numbers alone (not in their steps, say).
      epsilons: distinct numbers of 0 or more.
      data, key, progress, devices: as for `evaluate`.
      batch_size: images at a time; memory grows with it times the number of epsilons.

    Raises:
      TypeError, ValueError: an argument is not as above; the message names it.

    Example:
      >>> import jax, numpy as np
      >>> from advjax import fgs, from_function
      >>> from advjax.evaluate import sweep
      >>> def model(weights, images):
      ...     return (images - 0.5).reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(model, np.float32([[1, -1]] * 4))
      >>> images = np.uint8([51, 102, 153, 204, 255])[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
      >>> data = images, np.array([1, 1, 0, 0, 0])
      >>> found = sweep(classifier, fgs, [0.0, 0.2, 0.4], data, key=jax.random.key(0))
      >>> [round(accuracy.value, 2) for accuracy in found.accuracies]
      [1.0, 0.6, 0.2]
    """
    wanted = "epsilons must be distinct finite numbers of 0 or more, at least one"
    levels = np.asarray(epsilons, np.float64)
    if levels.ndim != 1 or not levels.size or not np.isfinite(levels).all() or (levels < 0).any():
        raise ValueError(f"{wanted}, got {epsilons!r}")
    if len(np.unique(levels)) < len(levels):
        raise ValueError(f"{wanted}, got duplicates in {epsilons!r}")
    if not callable(make_attack):
        raise TypeError(f"make_attack must be a function from epsilon to an attack, got {make_attack!r}")
    batches = make_batches(data, batch_size, devices)
    check_key(key)
    check_models({"model": classifier}, batches)
    with naming("make_attack"):
        attack = stack([make_attack(float(epsilon)) for epsilon in levels])
        check_attack(attack, {"model": classifier}, batches, batches[0], key)
    judge = judge_of(jax.device_put(classifier, batches.everywhere), batches.images.shape[1:], _DRAWS)
    with progress_bar(progress, 2 * len(batches.labels)) as advance:
        stream = Stream(batches, key, advance=advance)
        clean = stream.clean("clean", judge)
        with naming("make_attack"):
            (runs,) = stream.attack("sweep", attack, judge.classifier, [judge])
    is_random = judge.draws > 0
    cells = [clean_cell("model", clean, is_random)]
    for index, epsilon in enumerate(levels):
        own = {name: array[index : index + 1] for name, array in runs.items()}
        cells.append(merge_runs("model", f"epsilon {epsilon:g}", "model", own, clean["correct"], is_random))
    answers = f"answers are those of most of {_DRAWS} fresh draws"
    warn_of_models({"classifier": model_bits(runs["faults"])}, answers, stacklevel=2)
    return Sweep(levels, Report(tuple(cells)))


def accuracy_epsilon_figure(sweeps: Mapping[str, Sweep], *, xlabel: str = "epsilon", title: str = "") -> Any:
    """Accuracy against epsilon, one curve with its 95 % band for each sweep (a `matplotlib` figure).

    Raises:
      ImportError: matplotlib is missing.
    """
    from advjax.plots import curve_figure

    curves = {}
    for name, one in sweeps.items():
        order = np.argsort(one.epsilons)
        curves[name] = (one.epsilons[order], 100 * np.asarray(one.accuracies)[order])
    return curve_figure(curves, xlabel=xlabel, ylabel="accuracy, %", title=title)
