"""What the networks are judged by: the clean test set and the held-out adversarial images of all bases."""

import dataclasses

import numpy as np

from advjax.data import Dataset
from advjax.training import TrainState, predict
from experiments.hard_positives.adversaries import stage_name
from experiments.hard_positives.config import Config
from experiments.hard_positives.paper import HELD_OUT_TYPES
from experiments.store import Arrays, Store

__all__ = ["HeldOut", "judge", "load_held_out"]


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """The images that no network was trained on.

    Attributes:
        test: the clean test set.
        image, label: the adversarial images uint8 [M, H, W, C] and their true classes int32 [M].
        kind: int32 [M], index into `HELD_OUT_TYPES`.
    """

    test: Dataset
    image: np.ndarray
    label: np.ndarray
    kind: np.ndarray


def load_held_out(config: Config, store: Store, heldout_from: Dataset, test: Dataset) -> HeldOut:
    """The held-out images of all types, each a mix of all bases'."""
    images, sources, kinds = [], [], []
    for number, kind in enumerate(HELD_OUT_TYPES):
        for base in range(config.bases):
            stored = store.read(stage_name("heldout", base, kind), "image", "source")
            images.append(stored["image"])
            sources.append(stored["source"])
            kinds.append(np.full(len(stored["source"]), number, np.int32))
    label = heldout_from.labels[np.concatenate(sources)]
    return HeldOut(test, np.concatenate(images), label, np.concatenate(kinds))


def judge(states: TrainState, held_out: HeldOut) -> Arrays:
    """Wrong answers of each of S networks and the images asked.

    Returns:
        clean_wrong int [S] of clean_count []; adversarial_wrong int [S, 14], by type, of adversarial_count [14].
    """
    clean = predict(states, held_out.test.images) != held_out.test.labels[None]
    adversarial = predict(states, held_out.image) != held_out.label[None]
    kinds = range(len(HELD_OUT_TYPES))
    return {
        "clean_wrong": clean.sum(axis=1),
        "clean_count": np.array(clean.shape[1]),
        "adversarial_wrong": np.stack([adversarial[:, held_out.kind == kind].sum(axis=1) for kind in kinds], axis=1),
        "adversarial_count": np.bincount(held_out.kind, minlength=len(kinds)),
    }
