"""Photographs from disk and images in memory as one source, so that training draws from both alike."""

import dataclasses
from typing import Any

import numpy as np

from advjax.data.crops import CenterCrop
from advjax.data.images import ImageSet

__all__ = ["Mixture"]


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Center crops of photographs, then images in memory: a source for `Stream`, to fine-tune on hard positives, say.

    Attributes:
        photographs: the clean images, read when they are asked for.
        crop: how they become inputs.
        labels: int32, of the photographs; None: their own.
        images: uint8 [M, H, W, 3], of the size that `crop` gives.
        image_labels: int32 [M].

    >>> from PIL import Image
    >>> import pathlib, tempfile
    >>> from advjax.data import image_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("ant", "bee"):
    ...         (pathlib.Path(folder) / name).mkdir()
    ...         Image.new("RGB", (6, 4)).save(f"{folder}/{name}/0.png")
    ...     made = np.full((1, 4, 4, 3), 7, np.uint8)
    ...     pool = Mixture(image_folder(folder), CenterCrop((4, 4), 4), None, made, np.array([1]))
    ...     [(example["image"].shape, int(example["label"])) for example in map(pool.__getitem__, range(len(pool)))]
    [((4, 4, 3), 0), ((4, 4, 3), 1), ((4, 4, 3), 1)]
    """

    photographs: ImageSet
    crop: CenterCrop
    labels: np.ndarray | None
    images: np.ndarray
    image_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.photographs) + len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clean = len(self.photographs)
        if index >= clean:
            return {"image": self.images[index - clean], "label": self.image_labels[index - clean]}
        example = self.crop(self.photographs[index])
        return {"image": example["image"], "label": example["label"] if self.labels is None else self.labels[index]}
