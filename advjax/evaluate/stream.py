"""The stream of a data set through attacks: batch by batch, chunk by chunk on disk, one program for all of them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from advjax.classifier import Classifier
from advjax.evaluate.batches import Batches, slice_attack
from advjax.evaluate.measure import measure_attack, measure_clean
from advjax.evaluate.store import Chunks
from advjax.value import walk

__all__ = ["Stream", "is_random", "progress_bar"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """What all measurements of one evaluation share.

    Attributes:
      batches: the data.
      key: image i draws in restart r from `fold_in(fold_in(key, r), i)`, whatever the attack, model and batch.
      chunks: where finished batches are kept.
      pass_scores: whether to measure PASS.
      advance: told of every number of images done.
    """

    batches: Batches
    key: jax.Array
    chunks: Chunks = dataclasses.field(default_factory=lambda: Chunks(None))
    pass_scores: bool = False
    advance: Callable[[int], Any] = lambda count: None

    def clean(self, name: str, classifier: Classifier) -> Arrays:
        """`correct` and `loss` [N] of the clean images; `name` is that of the chunks."""
        found = self._over_batches(name, lambda index: measure_clean(classifier, self.batches[index]))
        return {part: array[0, 0] for part, array in found.items()}

    def attack(
        self, name: str, attack: Any, source: Classifier, targets: Sequence[Classifier], restarts: int = 1
    ) -> list[Arrays]:
        """For each target the measurements [R, N] over the restarts and the members of a stack: R is their product.

        An attack that draws nothing runs once.
        """
        runs = []
        for restart in range(restarts if is_random(attack) else 1):
            measure = functools.partial(self._batch, attack, source, targets, restart)
            runs.append(self._over_batches(f"{name}-r{restart}", measure))
        found = {part: np.concatenate([run[part] for run in runs], axis=-2) for part in runs[0]}
        shared = {part: array for part, array in found.items() if part not in ("correct", "loss")}
        return [
            {**shared, "correct": correct, "loss": loss}
            for correct, loss in zip(found["correct"], found["loss"], strict=True)
        ]

    def _batch(
        self, attack: Any, source: Classifier, targets: Sequence[Classifier], restart: int, index: int
    ) -> Arrays:
        batch = self.batches[index]
        keys = self.batches.keys(jax.random.fold_in(self.key, restart), batch.rows)
        own = slice_attack(attack, len(self.batches.labels), batch.rows)
        return measure_attack(own, source, targets, batch, keys, self.pass_scores)

    def _over_batches(self, name: str, measure: Callable[[int], Arrays]) -> Arrays:
        parts = []
        for index in range(len(self.batches)):
            parts.append(self.chunks.ensure(f"{name}-{index:06d}", functools.partial(measure, index)))
            self.advance(parts[-1]["correct"].shape[-1])
        return {part: np.concatenate([one[part] for one in parts], axis=-1) for part in parts[0]}


def is_random(attack: Any) -> bool:
    """Whether the attack draws random numbers."""
    return any(getattr(part, "random", False) for part in walk(attack))


@contextlib.contextmanager
def progress_bar(title: str | None, images: int) -> Iterator[Callable[[int], Any]]:
    """A bar over `images` on a terminal, or none where there is no title; gives the function that moves it."""
    if title is None:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=images, desc=title, unit="img", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
        yield bar.update
