"""The stream of a data set through attacks: batch by batch, chunk by chunk on disk, one program for all of them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from advjax.attacks.attack import Attack, Stack
from advjax.attacks.part import parts
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batches, slice_attack
from advjax.evaluate.measure import OF_TARGETS, Judge, measure_attack, measure_clean
from advjax.evaluate.store import Chunks

__all__ = ["Stream", "is_random", "progress_bar"]

Arrays = dict[str, np.ndarray]

# Where the restarts have their numbers: the draws of models that answer have this one.
_ANSWERS = 2**32 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """What all measurements of one evaluation share.

    Attributes:
      batches: the data.
      key: image i draws in restart r from `fold_in(fold_in(key, r), i)`, whatever the attack, model and batch; a
        random model that answers for it, from `fold_in(fold_in(key, 2^32 - 1), i)`.
      chunks: where finished batches are kept.
      pass_scores: whether to measure PASS.
      advance: told of every number of images done.
    """

    batches: Batches
    key: jax.Array
    chunks: Chunks = dataclasses.field(default_factory=lambda: Chunks(None))
    pass_scores: bool = False
    advance: Callable[[int], Any] = lambda count: None

    def clean(self, name: str, judge: Judge) -> Arrays:
        """`Answers` [N] for the clean images; `name` is that of the chunks."""
        found = self._over_batches(name, functools.partial(self._clean_batch, judge))
        return {part: array[0, 0] for part, array in found.items()}

    def attack(
        self, name: str, attack: Attack | Stack, source: Classifier, targets: Sequence[Judge], restarts: int = 1
    ) -> list[Arrays]:
        """For each target the measurements [R, N] over the restarts and the members of a stack: R is their product.

        An attack that draws nothing runs once.
        """
        runs = []
        for restart in range(restarts if is_random(attack) else 1):
            measure = functools.partial(self._attack_batch, attack, source, targets, restart)
            runs.append(self._over_batches(f"{name}-r{restart}", measure))
        found = {part: np.concatenate([run[part] for run in runs], axis=-2) for part in runs[0]}
        shared = {part: array for part, array in found.items() if part not in OF_TARGETS}
        return [shared | {part: found[part][target] for part in OF_TARGETS} for target in range(len(targets))]

    def _clean_batch(self, judge: Judge, index: int) -> Arrays:
        batch = self.batches[index]
        return measure_clean(judge, batch, self._keys(_ANSWERS, batch.rows) if judge.draws else None)

    def _attack_batch(
        self, attack: Attack | Stack, source: Classifier, targets: Sequence[Judge], restart: int, index: int
    ) -> Arrays:
        batch = self.batches[index]
        own = slice_attack(attack, len(self.batches.labels), batch.rows)
        keys = self._keys(restart, batch.rows)
        judge_keys = self._keys(_ANSWERS, batch.rows) if any(target.draws for target in targets) else None
        return measure_attack(own, source, targets, batch, keys, judge_keys, self.pass_scores)

    def _keys(self, number: int, rows: np.ndarray) -> jax.Array:
        return self.batches.keys(jax.random.fold_in(self.key, np.uint32(number)), rows)

    def _over_batches(self, name: str, measure: Callable[[int], Arrays]) -> Arrays:
        parts = []
        for index in range(len(self.batches)):
            parts.append(self.chunks.ensure(f"{name}-{index:06d}", functools.partial(measure, index)))
            self.advance(parts[-1]["correct"].shape[-1])
        return {part: np.concatenate([one[part] for one in parts], axis=-1) for part in parts[0]}


def is_random(attack: Attack | Stack) -> bool:
    """Whether the attack draws random numbers."""
    return any(part.random for part in parts(attack))


@contextlib.contextmanager
def progress_bar(title: str | None, images: int) -> Iterator[Callable[[int], Any]]:
    """A bar over `images` on a terminal, or none where there is no title; gives the function that moves it."""
    if title is None:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=images, desc=title, unit="img", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
        yield bar.update
