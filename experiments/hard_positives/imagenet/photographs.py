"""Which photographs are attacked, and the mixture of photographs and hard positives that is trained on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from advjax.classifier import Classifier
from advjax.data import CenterCrop, ImageSet
from experiments.batches import NO_ANSWER, answers_of
from experiments.hard_positives.imagenet.config import Config
from experiments.hard_positives.imagenet.network import crop_of
from experiments.store import Arrays

__all__ = ["BLOCK", "Mixture", "rightly_classified"]

# Photographs decoded and classified at once.
BLOCK = 64
_GOLDFISH = ("goldfish", "n01443537")


def rightly_classified(config: Config, images: ImageSet, classifier: Classifier) -> Arrays:
    """The first `images_per_class` photographs of each class that the network gets right, in an order of the seed.

    Reads no more photographs than it needs. A network that has learnt nothing is right by definition. A goldfish, if
    there is one, comes first: photograph 0 is that of Fig. 3.

    Returns:
        row int64 [n], indices into `images`; label int32 [n]; read int64 [], the photographs looked at, and right
        int64 [], how many of them were right.
    """
    order = np.random.default_rng(config.seed).permutation(len(images))
    missing = np.array([config.images_per_class if name else 0 for name in images.classes])
    rows: list[int] = []
    labels: list[int] = []
    truths: list[int] = []
    read = right = 0
    for start in tqdm(range(0, len(order), BLOCK), desc="classify photographs", unit="block", disable=None):
        chunk = order[start : start + BLOCK]
        data = images.take(chunk).in_memory(crop_of(config))
        answers = answers_of(classifier, data.images, BLOCK)
        is_right = answers != NO_ANSWER if config.own_labels else answers == data.labels
        read, right = read + len(chunk), right + int(is_right.sum())
        for row, label, answer in zip(chunk[is_right], data.labels[is_right], answers[is_right], strict=True):
            if missing[label]:
                missing[label] -= 1
                rows.append(int(row))
                labels.append(int(answer))
                truths.append(int(label))
        if not missing.any():
            break
    if not rows:
        raise ValueError(f"the network gets none of {read} photographs right: train it for more than base_steps")
    fish = [place for place, label in enumerate(truths) if images.classes[label] in _GOLDFISH]
    places = [*fish[:1], *(place for place in range(len(rows)) if place not in fish[:1])]
    return {
        "row": np.array(rows, np.int64)[places],
        "label": np.array(labels, np.int32)[places],
        "read": np.array(read),
        "right": np.array(right),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Center crops of photographs, then hard positives: a source for `Stream`.

    Attributes:
        photographs: the clean images.
        crop: how they become inputs.
        labels: int32, of the photographs; None: their own.
        positives: uint8 [M, H, W, 3].
        positive_labels: int32 [M].
    """

    photographs: ImageSet
    crop: CenterCrop
    labels: np.ndarray | None
    positives: np.ndarray
    positive_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.photographs) + len(self.positives)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> dict[str, Any]:
        clean = len(self.photographs)
        if index >= clean:
            return {"image": self.positives[index - clean], "label": self.positive_labels[index - clean]}
        example = self.crop(self.photographs[index])
        label = example["label"] if self.labels is None else self.labels[index]
        return {"image": example["image"], "label": label}
