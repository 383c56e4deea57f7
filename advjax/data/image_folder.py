"""A folder of images on disk as an `ImageSet`: a subfolder for each class, or a flat folder with a `labels.csv`."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from advjax.data.images import ImageSet

__all__ = ["image_folder"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_TABLE = "labels.csv"


def image_folder(path: str | os.PathLike[str]) -> ImageSet:
    """The images of a folder, in the order of their names.

    With a file `labels.csv` (a header line; columns `file`, `label` and, if it has one, `name`) the images are the
    files that it lists, and the labels are its numbers as they are, so that a part of ImageNet keeps ImageNet's
    numbers; classes without an image are called "". Without it each subfolder is a class, labelled 0, 1, ... in the
    order of their names (torchvision's `ImageFolder`, Imagenette).

    Raises:
        FileNotFoundError: there is no such folder, or a file of `labels.csv` is not in it.
        ValueError: no image; a class without any; a `labels.csv` that is not as above.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         Image.new("RGB", (40, 30)).save(f"{folder}/{name}/1.png")
    ...     images = image_folder(folder)
    >>> len(images), images.classes, images.labels.tolist()
    (2, ('cat', 'dog'), [0, 1])
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: give one with a subfolder of images for each class")
    files, classes = _of_table(root) if (root / _TABLE).is_file() else _of_subfolders(root)
    numbers = tuple(range(len(classes)))
    return ImageSet(root.name, classes, files, np.arange(len(files.paths)), numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    paths: tuple[str, ...]
    numbers: np.ndarray

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {"image": pathlib.Path(self.paths[row]).read_bytes(), "label": self.numbers[row], "name": self.paths[row]}
            for row in rows
        ]

    def labels(self, rows: np.ndarray) -> np.ndarray:
        return self.numbers[rows]


def _of_subfolders(root: pathlib.Path) -> tuple[_Files, tuple[str, ...]]:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} holds neither a subfolder for each class nor a {_TABLE}")
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        own = sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not own:
            raise ValueError(f"the class folder {folder} holds no image ({', '.join(_SUFFIXES)})")
        paths += own
        labels += [label] * len(own)
    return _Files(tuple(paths), np.array(labels, np.int32)), tuple(folder.name for folder in folders)


def _of_table(root: pathlib.Path) -> tuple[_Files, tuple[str, ...]]:
    table = root / _TABLE
    with open(table, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table} must have the columns file and label, got {reader.fieldnames}")
        lines = list(reader)
    if not lines:
        raise ValueError(f"{table} lists no image")
    paths: list[str] = []
    labels: list[int] = []
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=2):
        if not (line["label"] or "").isdecimal():
            raise ValueError(f"{table}, line {number}: label must be a number of 0 or more, got {line['label']!r}")
        if not (root / line["file"]).is_file():
            raise FileNotFoundError(f"{table}, line {number}: {line['file']} is not in {root}")
        paths.append(str(root / line["file"]))
        labels.append(int(line["label"]))
        names[labels[-1]] = line.get("name") or str(labels[-1])
    classes = tuple(names.get(label, "") for label in range(max(labels) + 1))
    return _Files(tuple(paths), np.array(labels, np.int32)), classes
