"""Sweeps: one attack at many epsilons, side by side in one compiled call, or on what the smaller ones left."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from advjax.attacks.attack import Attack, stack
from advjax.classifier import Classifier
from advjax.evaluate.batches import Data, make_batches
from advjax.evaluate.cell import clean_cell, merge_runs, worst_run
from advjax.evaluate.checks import check_attack, check_key, check_models
from advjax.evaluate.findings import model_bits, naming, warn_of_models
from advjax.evaluate.intervals import Accuracy
from advjax.evaluate.measure import Judge, judge_of
from advjax.evaluate.report import Report
from advjax.evaluate.stream import Stream, progress_bar

__all__ = ["Sweep", "accuracy_epsilon_figure", "sweep"]

_DRAWS = 10  # of a random model

_Runs: TypeAlias = dict[str, np.ndarray]


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
    monotone: bool = False,
    progress: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Sweep:
    """Attacks a model at every epsilon at once: the attacks are stacked and run as one batch of E * batch_size.

    Another sweep with as many epsilons, or another model of the same kind, compiles nothing. The attacks draw the
    same random numbers at every epsilon, those of `evaluate` with the same key. A model that draws random numbers is
    judged as there, at ten fresh draws.

    With `monotone` the epsilons are taken from small to large, and an image that an attack got the better of at one is
    not attacked at the larger ones: what fooled the model lies in their balls too. So an attack that happens to miss at
    a larger epsilon what it found at a smaller one does not count, and the accuracies never rise: each is the minimum
    over all epsilons up to it. What a cell tells of an image is told of the worst of the runs at these epsilons (as
    `Cell` says of restarts): the perturbation at a larger epsilon may be that of a smaller one, and mean distances,
    over more images that are near, are shorter. At the smallest epsilon, and for every image at the first that fools
    it, this is what `evaluate` with the same `batch_size` finds there, to the bit. It is another number than that of
    one attack at one epsilon, and so has to be asked for.

    What it costs is one batch for every `batch_size` images that are left, the last one filled up, at each epsilon: on
    a network that the first of E epsilons fools everywhere one E-th, on one that none fools as much as without. All
    epsilons are one program, for one attack, and memory does not grow with their number. Caffe's LeNet, 256 digits,
    PGD-40 at eight epsilons of which the first three fool few: 6.0 s against 9.0 s without, and 1.1 s for one epsilon;
    FGS 0.45 s against 0.73 s and 0.09 s (2026-11-26, two AVX2 cores).

    Args:
      classifier: the model.
      make_attack: epsilon -> attack; the attacks must differ in their numbers alone (not in their steps, say).
      epsilons: distinct numbers of 0 or more.
      data, key, progress, devices: as for `evaluate`.
      batch_size: images at a time; memory grows with it, and without `monotone` with the number of epsilons too.
      monotone: attack only the images that no smaller epsilon fooled, see above. The attack's ball must grow with
        epsilon.

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
        attacks = [make_attack(float(epsilon)) for epsilon in levels]
        check_attack(stack(attacks), {"model": classifier}, batches, batches[0], key)
    judge = judge_of(jax.device_put(classifier, batches.everywhere), batches.images.shape[1:], _DRAWS)
    rounds = 1 + (len(levels) if monotone else 1)
    with progress_bar(progress, rounds * len(batches.labels)) as advance:
        stream = Stream(batches, key, advance=advance)
        clean = stream.clean("clean", judge)
        with naming("make_attack"):
            if monotone:
                runs = _on_those_left(stream, judge, attacks, np.argsort(levels))
            else:
                (runs,) = stream.attack("sweep", stack(attacks), judge.classifier, [judge])
    is_random = judge.draws > 0
    cells = [clean_cell("model", clean, is_random)]
    for index, epsilon in enumerate(levels):
        own = {part: array[index : index + 1] for part, array in runs.items()}
        name, asks = f"epsilon {epsilon:g}", attacks[index].asks
        cells.append(merge_runs("model", name, "model", own, clean["correct"], is_random, asks))
    answers = f"answers are those of most of {_DRAWS} fresh draws"
    warn_of_models({"classifier": model_bits(runs["faults"])}, answers, stacklevel=2)
    return Sweep(levels, Report(tuple(cells)))


def _on_those_left(stream: Stream, judge: Judge, attacks: Sequence[Attack], order: np.ndarray) -> _Runs:
    """The measurements [E, N] of E attacks, made in this order, each on the images that none before it got.

    Those of each attack are of the worst of the runs up to it.
    """
    (kept,) = stream.attack(f"sweep-{order[0]}", attacks[order[0]], judge.classifier, [judge])
    found = {order[0]: kept}
    for place in order[1:]:
        left = stream.batches.chosen[~kept["met"][0]]
        stream.advance(len(stream.batches.chosen) - len(left))
        if len(left):
            of_left = dataclasses.replace(stream, batches=stream.batches.only(left))
            (own,) = of_left.attack(f"sweep-{place}", attacks[place], judge.classifier, [judge])
            kept = _with_worse(kept, own, left)
        found[place] = kept
    return {name: np.concatenate([found[place][name] for place in sorted(found)]) for name in kept}


def _with_worse(kept: _Runs, own: _Runs, rows: np.ndarray) -> _Runs:
    """`kept` [1, N], in which the images `rows` have the numbers of `own` [1, n] where those tell of a worse run."""
    both = {name: np.concatenate([array[:, rows], own[name]]) for name, array in kept.items()}
    worst = worst_run(both)
    taken = {name: np.take_along_axis(array, worst, axis=0) for name, array in both.items()}
    taken["calls"] = both["calls"].sum(axis=0, keepdims=True, dtype=np.int32)
    taken["non_finite"] = np.asarray(both["non_finite"].any(axis=0, keepdims=True))
    merged = {name: array.copy() for name, array in kept.items()}
    for name, array in taken.items():
        merged[name][:, rows] = array
    return merged


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
