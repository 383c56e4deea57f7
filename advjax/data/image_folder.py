"""A folder of images on disk as an `ImageSet`: a subfolder for each class, or a flat folder with a `labels.csv`."""

import csv
import dataclasses
import io
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.data.images import ImageSet
from advjax.data.picture_files import HIDDEN, LOOP, OTHER, SUFFIXES, picture_files, told

__all__ = ["image_folder"]

_TABLE = "labels.csv"
_BESIDE = "pictures beside the class folders"


def image_folder(path: str | os.PathLike[str]) -> ImageSet:
    """The images of a folder, in the order of their names.

    With a file `labels.csv` (a header line; columns `file`, `label` and, if it has one, `name`) the images are the
    files that it lists, and the labels are its numbers as they are, so that a part of ImageNet keeps ImageNet's
    numbers; classes without an image are called "". Without it each subfolder is a class, labeled 0, 1, ... in the
    order of their names (torchvision's `ImageFolder`, Imagenette): links are followed, files of all depths and of the
    suffixes .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff and .webp taken. What is left out (hidden files and
    folders, other suffixes, broken links, links that lead back, pictures beside the class folders) is in `skipped` of
    the result by its reason; a warning says so where it may have been pictures.

    Raises:
        FileNotFoundError: there is no such folder, or a file of `labels.csv` is not in it.
        ValueError: no image; a class without any; a `labels.csv` that is not as above, or not in UTF-8.

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
    skipped: dict[str, tuple[str, ...]] = {}
    files, classes = _of_table(root) if (root / _TABLE).is_file() else _of_subfolders(root, skipped)
    numbers = tuple(range(len(classes)))
    return ImageSet(root.name, classes, files, np.arange(len(files.paths)), numbers, skipped)


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


def _of_subfolders(root: pathlib.Path, skipped: dict[str, tuple[str, ...]]) -> tuple[_Files, tuple[str, ...]]:
    found = picture_files(root)
    beside = tuple(path for path in found.paths if "/" not in path)
    skipped.update(found.skipped)
    if beside:
        skipped[_BESIDE] = beside
    no_class = {HIDDEN, LOOP} & found.skipped.keys()
    left_out = {path for reason in no_class for path in found.skipped[reason]}
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name not in left_out)
    if not classes:
        raise ValueError(f"{root} holds neither a subfolder for each class nor a {_TABLE}")
    label_of = {name: label for label, name in enumerate(classes)}
    paths = [path for path in found.paths if "/" in path]  # the classes one after the other
    labels = np.array([label_of[path.split("/", 1)[0]] for path in paths], np.int32)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(empty):
        raise ValueError(f"the class folder {root / classes[empty[0]]} holds no image ({', '.join(SUFFIXES)})")
    _say(root, skipped)
    return _Files(tuple(str(root / path) for path in paths), labels), tuple(classes)


def _say(root: pathlib.Path, skipped: Mapping[str, tuple[str, ...]]) -> None:
    """Warns of what may be pictures: not of hidden files, nor of suffixes that no picture has."""
    from PIL import Image

    Image.init()
    kinds = tuple(Image.registered_extensions())
    doubtful = {reason: paths for reason, paths in skipped.items() if reason not in (HIDDEN, OTHER)}
    pictures = tuple(path for path in skipped.get(OTHER, ()) if path.lower().endswith(kinds))
    words = told({**doubtful, OTHER: pictures})
    if words:
        warnings.warn(f"{root}: left out {words}; all of them are in `skipped` of the image set", stacklevel=4)


def _of_table(root: pathlib.Path) -> tuple[_Files, tuple[str, ...]]:
    table = root / _TABLE
    try:
        text = table.read_bytes().decode("utf-8-sig")  # programs of Windows write a mark before the header
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} must be UTF-8 text: {error}; save it in that encoding") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
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
