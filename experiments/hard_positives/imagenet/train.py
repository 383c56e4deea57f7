"""Stages "tuned" and "judged": fine-tuning on photographs and hard positives mixed, and the errors before and after."""

import os
from collections.abc import Iterator

import numpy as np

from advjax.classifier import Classifier
from advjax.data import Dataset, ImageSet, RandomCrop, Stream
from advjax.training import Trainer, TrainState, stack, train_step, unstack
from experiments.batches import logits_of
from experiments.hard_positives.imagenet.config import Config
from experiments.hard_positives.imagenet.network import crop_of, quick_solver, with_heads
from experiments.hard_positives.imagenet.photographs import BLOCK, Mixture
from experiments.states import key_of, weights
from experiments.store import Arrays

__all__ = ["finetune", "judge"]

_BLOCKS_A_CHECKPOINT = 20
# More classes above the right one than any top-k allows.
_WRONG = 1000


def finetune(
    config: Config,
    state: TrainState,
    images: ImageSet,
    chosen: Arrays,
    positives: np.ndarray,
    sources: np.ndarray,
    folder: str | os.PathLike[str],
) -> Arrays:
    """Fine-tunes the base network on the center crops of all photographs and all hard positives, in one pool."""
    clean, labels = images, None
    if config.own_labels:
        # Only for the attacked ones are the network's answers known.
        clean, labels = images.take(chosen["row"]), chosen["label"]
    pool = Mixture(clean, crop_of(config), labels, positives, chosen["label"][sources])
    step = train_step(quick_solver(config), loss=with_heads(config.aux_weight))
    fitted = Trainer(step, config.batch_size, config.block).fit(
        stack([state]),
        Stream(pool, config.batch_size, seed=config.seed),
        config.finetune_steps,
        key_of(config.seed, "finetune"),
        folder=folder,
        every=_BLOCKS_A_CHECKPOINT * config.block,
        progress=f"fine-tune {config.model} on {len(clean)} photographs and {len(positives)} hard positives",
    )
    return {**weights(unstack(fitted.states)[0]), "loss": fitted.loss[0], "photographs": np.array(len(clean))}


def judge(
    config: Config,
    classifier: Classifier,
    images: ImageSet,
    validation: ImageSet | None,
    chosen: Arrays,
    positives: np.ndarray,
    sources: np.ndarray,
) -> Arrays:
    """Wrong answers (top-1, top-5) and images asked, int64 [3], of each set of images."""
    attacked = images.take(chosen["row"])
    sets: dict[str, Iterator[tuple[np.ndarray, np.ndarray]]] = {
        "attacked": ((part.images, chosen["label"][rows]) for part, rows in _center_crops(config, attacked)),
        "positives": iter([(positives, chosen["label"][sources])]),
    }
    if validation is None:
        sets["crops"] = _other_crops(config, attacked, chosen["label"])
    else:
        sets["validation"] = ((part.images, part.labels) for part, _ in _center_crops(config, validation))
    return {name: _count(classifier, parts) for name, parts in sets.items()}


def _center_crops(config: Config, images: ImageSet) -> Iterator[tuple[Dataset, np.ndarray]]:
    for start in range(0, len(images), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(images)))
        yield images.take(rows).in_memory(crop_of(config)), rows


def _other_crops(config: Config, images: ImageSet, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`crops` random crops of each photograph, none of which the attacks saw."""
    crop = RandomCrop(crop_of(config).crop, scale=(0.5, 1.0))
    for number in range(config.crops):
        for start in range(0, len(images), BLOCK):
            rows = range(start, min(start + BLOCK, len(images)))
            rngs = [np.random.default_rng([config.seed, number, row]) for row in rows]
            examples = [crop(images[row], rng) for row, rng in zip(rows, rngs, strict=True)]
            yield np.stack([example["image"] for example in examples]), labels[rows]


def _count(classifier: Classifier, parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    found = np.zeros(3, np.int64)
    for pixels, labels in parts:
        if not len(pixels):
            continue
        logits = logits_of(classifier, pixels, BLOCK)
        own = np.take_along_axis(logits, labels[:, None], 1)
        # Not `logits > own`: a logit that is no number is below no other, and would make every answer right.
        above = np.where(np.isnan(logits).any(1), _WRONG, (logits > own).sum(1))
        found += np.array([(above >= 1).sum(), (above >= 5).sum(), len(labels)])
    return found
