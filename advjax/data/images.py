"""Large labeled sets of encoded images, read one by one: subsets by class, and all at once for a few images."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from advjax.data.crops import CenterCrop
from advjax.data.dataset import Dataset
from advjax.fingerprint import fingerprint

__all__ = ["Encoded", "ImageSet"]

# Records read at once.
_BLOCK = 256


class Encoded(Protocol):
    """Where an `ImageSet` gets its images from."""

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The examples in these rows: "image", the encoded bytes; "label"; "name", for errors."""

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """The labels of these rows, int32."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """A labeled set of encoded images: a source for `Stream`, with a `CenterCrop` or `RandomCrop` as its transform.

    Attributes:
        name: what the set is called.
        classes: the name of each label; "" for one that no image has.
        source: where the images come from.
        rows: int64 [N], the rows of the source that the set holds.
        numbers: for each label, the number that this class has in the source; labels are 0..len(classes)-1.
        skipped: what the source left out of a folder: paths by reason.
    """

    name: str
    classes: tuple[str, ...]
    source: Encoded
    rows: np.ndarray
    numbers: tuple[int, ...]
    skipped: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The example at `index`: "image" (the file's bytes), "label", "name"."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        examples = self.source.read([int(self.rows[index]) for index in indices])
        return [{**example, "label": self._label[int(example["label"])]} for example in examples]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """All labels int32 [N]. A set of TFDS reads all its records for them once: minutes for ImageNet."""
        own = self.source.labels(self.rows)
        return np.array([self._label[int(label)] for label in own], np.int32)

    def take(self, indices: np.ndarray) -> "ImageSet":
        """The images at `indices`, in that order; classes and labels stay."""
        return dataclasses.replace(self, rows=self.rows[indices])

    def of_classes(self, chosen: Sequence[int | str]) -> "ImageSet":
        """The images of some classes, given by label or by name, renumbered 0..k-1 in the order given.

        Raises:
            ValueError: an unknown, repeated or empty class.
        """
        labels = [self._find(each) for each in chosen]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"chosen must hold each class once and at least one, got {list(chosen)}")
        empty = [each for each, label in zip(chosen, labels, strict=True) if not (self.labels == label).any()]
        if empty:
            raise ValueError(f"{self.name} has no image of the classes {empty}")
        return dataclasses.replace(
            self,
            classes=tuple(self.classes[label] for label in labels),
            rows=self.rows[np.isin(self.labels, labels)],
            numbers=tuple(self.numbers[label] for label in labels),
        )

    def draw_classes(self, count: int, seed: int) -> "ImageSet":
        """`count` classes that have images, drawn by the seed (ImageNet-10, ImageNet-50), in rising order.

        Raises:
            ValueError: there are not so many.
        """
        there = np.unique(self.labels)
        if not 1 <= count <= len(there):
            raise ValueError(f"count must be in 1..{len(there)}, the classes of {self.name}, got {count}")
        drawn = np.random.default_rng(seed).choice(there, count, replace=False)
        return self.of_classes([int(label) for label in np.sort(drawn)])

    def in_memory(self, crop: CenterCrop) -> Dataset:
        """All images, decoded and cropped: for a set of a few thousand.

        Raises:
            ValueError: an image is not readable; its name is in the message.
        """
        parts = [self.__getitems__(range(i, min(i + _BLOCK, len(self)))) for i in range(0, len(self), _BLOCK)]
        images = np.empty((len(self), *crop.crop, 3), np.uint8)
        labels = np.empty(len(self), np.int32)
        for index, example in enumerate(example for part in parts for example in part):
            images[index], labels[index] = crop(example)["image"], example["label"]
        return Dataset(self.name, "all", images, labels, len(self.classes))

    def digest(self) -> str:
        """The `fingerprint` of the size and of the first, middle and last image: another set has another one."""
        examples = self.__getitems__([0, len(self) // 2, len(self) - 1])
        return fingerprint(len(self), self.numbers, [(example["image"], example["label"]) for example in examples])

    @functools.cached_property
    def _label(self) -> dict[int, int]:
        return {number: label for label, number in enumerate(self.numbers)}

    def _find(self, chosen: int | str) -> int:
        if isinstance(chosen, str):
            if chosen and self.classes.count(chosen) > 1:
                raise ValueError(f"{self.name} has several classes named {chosen!r}: choose by label")
            if chosen and chosen in self.classes:
                return self.classes.index(chosen)
        elif 0 <= chosen < len(self.classes):
            return int(chosen)
        raise ValueError(f"{self.name} has no class {chosen!r}; it has {len(self.classes)}")
