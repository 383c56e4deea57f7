"""Data sets by name, in memory or (ImageNet) image by image; the only file that knows TensorFlow Datasets (TFDS)."""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from advjax.data.dataset import Dataset
from advjax.data.digits import load_digits
from advjax.data.images import ImageSet
from advjax.data.prepared import newest_version, problem_of_json, problem_of_shard, problem_of_shards

__all__ = ["imagenet", "load"]

_TFDS_NAMES = ("mnist", "cifar10", "cifar100", "svhn_cropped", "stl10")
_IMAGENET = "imagenet2012"
# Splits whose labels are all -1.
_UNLABELED = (("stl10", "unlabelled"), (_IMAGENET, "test"))
_BLOCK = 2000  # records per read: about four times faster than one by one


def load(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads one split of a data set, in its stored order.

    Args:
        name: "digits" (scikit-learn's, resized to 28x28: see `load_digits`), "mnist", "cifar10", "cifar100",
            "svhn_cropped" or "stl10" (as TFDS prepared them; read without TensorFlow and without a network).
        split: "train", "test", "extra" (SVHN), or a slice of one by position, as in "train[:1000]" or "test[-500:]".
        data_dir: where TFDS keeps its data sets. Default: the environment variable `TFDS_DATA_DIR`, read now,
            or else TFDS's own `~/tensorflow_datasets`. "digits" does not use it. Of several versions the newest is
            read; only folders called x.y.z count as versions.

    Returns:
        A `Dataset`; another data set or split never stands in for the one that was asked for.

    Raises:
        ValueError: for an unknown name or split, or an empty slice.
        FileNotFoundError: if the data set is not there, with the way to prepare it.
        OSError: if a file of it is missing, cut, a pointer of Git LFS or otherwise damaged, with its name and the way
            to prepare the data set again.
        ImportError: if the package that reads it is missing.

    >>> digits = load("digits", "train[:100]")
    >>> digits.images.shape, digits.labels.dtype, digits.num_classes
    ((100, 28, 28, 1), dtype('int32'), 10)
    """
    whole, window = _parse_split(split)
    if name == "digits":
        images, labels = load_digits(whole)
        images, labels, num_classes = images[window], labels[window], 10
    elif name in _TFDS_NAMES:
        images, labels, num_classes = _load_tfds(name, whole, window, data_dir)
    else:
        hint = "; imagenet() reads it, image by image" if name == _IMAGENET else ""
        raise ValueError(f"name must be one of {('digits', *_TFDS_NAMES)}, got {name!r}{hint}")
    if not len(labels):
        raise ValueError(f"split {split!r} of {name} holds no example")
    return Dataset(name, split, images, labels, num_classes)


def imagenet(split: str, *, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
    """ImageNet (ILSVRC 2012) as TFDS prepared it, its JPEG files read one by one, without TensorFlow.

    Args:
        split: "train", "validation", or a slice of one by position, as in "train[:1000]".
        data_dir: as for `load`.

    Returns:
        An `ImageSet` of 1000 classes, named by their WordNet numbers ("n01440764"): a source for `Stream`, with a
        `CenterCrop` or `RandomCrop` to decode and crop.

    Raises:
        ValueError, FileNotFoundError, OSError, ImportError: as for `load`; a damaged record is found when it is read.

    >>> imagenet("train", data_dir="nowhere")
    Traceback (most recent call last):
    ...
    FileNotFoundError: data set 'imagenet2012' is not there: looked for nowhere/imagenet2012/<version> ...
    """
    whole, window = _parse_split(split)
    builder = _builder_with(_IMAGENET, whole, data_dir)
    # Its thousand files are not opened now: it may take minutes where they lie on a network.
    for path in _shards(builder, whole):
        if (problem := problem_of_shard(path)) is not None:
            raise _damaged(builder, path, problem)
    rows = np.arange(builder.info.splits[whole].num_examples)[window]
    if not len(rows):
        raise ValueError(f"split {split!r} of {_IMAGENET} holds no example")
    classes = tuple(builder.info.features["label"].names)
    return ImageSet(f"{_IMAGENET} {split}", classes, _Records(builder, whole), rows, tuple(range(len(classes))))


@dataclasses.dataclass(frozen=True, eq=False)
class _Records:
    """The encoded images of one split: an `Encoded`."""

    builder: Any
    split: str

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        with _reading(self.builder, self.split, rows):
            records = self._source.__getitems__(list(rows))
        return [
            {"image": bytes(record["image"]), "label": int(record["label"]), "name": _text(record["file_name"])}
            for record in records
        ]

    def labels(self, rows: np.ndarray) -> np.ndarray:
        parts = [rows[start : start + _BLOCK].tolist() for start in range(0, len(rows), _BLOCK)]
        return np.array([example["label"] for part in parts for example in self.read(part)], np.int32)

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds

        return self.builder.as_data_source(self.split, decoders={"image": tfds.decode.SkipDecoding()})


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _parse_split(split: str) -> tuple[str, slice]:
    """ "train[10:20]" -> ("train", slice(10, 20))."""
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?", split)
    if match is None:
        raise ValueError(f'split must look like "train", "test" or "train[:1000]", got {split!r}')
    start, stop = (None if bound is None else int(bound) for bound in match.groups()[1:])
    return match[1], slice(start, stop)


def _load_tfds(
    name: str, split: str, window: slice, data_dir: str | os.PathLike[str] | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Images, labels and the number of classes of `split[window]` from an ArrayRecord data set."""
    builder = _builder_with(name, split, data_dir)
    rows = range(builder.info.splits[split].num_examples)[window]
    features = builder.info.features
    if (found := problem_of_shards(_shards(builder, split), builder.info.splits[split].shard_lengths)) is not None:
        raise _damaged(builder, *found)
    images = np.empty((len(rows), *features["image"].shape), np.uint8)
    labels = np.empty(len(rows), np.int32)
    source = builder.as_data_source(split)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        with _reading(builder, split, part):
            records = source.__getitems__(list(part))
            images[start : start + _BLOCK] = [record["image"] for record in records]
            labels[start : start + _BLOCK] = [record["label"] for record in records]
    return images, labels, features["label"].num_classes


def _builder_with(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The builder of a prepared data set that has this split, with labels."""
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    builder = _prepared_builder(name, root)
    splits = sorted(own for own in builder.info.splits if (name, own) not in _UNLABELED)
    if split not in splits:
        raise ValueError(f"split must be one of {splits} for {name}, got {split!r}")
    return builder


def _prepared_builder(name: str, root: pathlib.Path) -> Any:
    """The newest prepared version of `name` under `root`, if it can be read without TensorFlow."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f'"{name}" needs tensorflow-datasets: pip install "advjax[data]"') from error
    newest, others = newest_version(root / name)
    if newest is None:
        beside = f" ({', '.join(others[:5])}: no version)" if others else ""
        raise FileNotFoundError(_how_to_prepare(name, root, f"is not there{beside}"))
    for path in (newest / "dataset_info.json", newest / "features.json"):
        if (problem := problem_of_json(path)) is not None:
            raise OSError(_how_to_prepare_again(name, newest, path, problem))
    try:
        builder = tfds.builder_from_directory(newest)
        missing = {"image", "label"} - set(builder.info.features)
    except Exception as error:  # of many libraries: protobuf's, TFDS's own
        problem = f"is not what TFDS writes ({type(error).__name__}: {error})"
        raise OSError(_how_to_prepare_again(name, newest, newest / "dataset_info.json", problem)) from error
    if missing:
        problem = f"names no feature {' and no feature '.join(sorted(missing))}"
        raise OSError(_how_to_prepare_again(name, newest, newest / "features.json", problem))
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        found = f"is stored as {builder.info.file_format.value}, which only TensorFlow reads"
        raise FileNotFoundError(_how_to_prepare(name, root, found))
    return builder


def _how_to_prepare(name: str, root: pathlib.Path, problem: str) -> str:
    by_hand = (
        f" First put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from image-net.org after registration, into"
        f" {root / 'downloads' / 'manual'}."
        if name == _IMAGENET
        else ""
    )
    return (
        f"data set {name!r} {problem}: looked for {root / name}/<version> in ArrayRecord format."
        " Pass data_dir or set TFDS_DATA_DIR if it is elsewhere."
        f" To prepare it there, once (needs TensorFlow and a network):{by_hand}\n{_commands(name, root)}"
    )


def _how_to_prepare_again(name: str, folder: pathlib.Path, path: pathlib.Path, problem: str) -> str:
    return (
        f"data set {name!r} is damaged: {path} {problem}."
        f" Copy it once more, or to prepare it again (needs TensorFlow and a network) remove {folder}, then\n"
        f"{_commands(name, folder.parent.parent)}"
    )


def _commands(name: str, root: pathlib.Path) -> str:
    return (
        '    pip install "advjax[prepare]"\n'
        f"    python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{root}',"
        " file_format='array_record').download_and_prepare()\""
    )


def _shards(builder: Any, split: str) -> list[pathlib.Path]:
    return [pathlib.Path(path) for path in builder.info.splits[split].filepaths]


def _damaged(builder: Any, path: pathlib.Path, problem: str) -> OSError:
    folder = pathlib.Path(builder.data_path)
    return OSError(_how_to_prepare_again(folder.parent.name, folder, path, problem))


@contextlib.contextmanager
def _reading(builder: Any, split: str, rows: Sequence[int]) -> Iterator[None]:
    """Turns what the libraries below say of damaged records into an error that names the data set and the file."""
    try:
        with _without_group_size_warning():
            yield
    except MemoryError:
        raise
    except Exception as error:  # ArrayRecord's, protobuf's, the decoders'
        lengths = builder.info.splits[split].shard_lengths
        ends, paths = np.cumsum(lengths), _shards(builder, split)
        used = sorted({int(np.searchsorted(ends, row, "right")) for row in rows})
        found = problem_of_shards([paths[each] for each in used], [lengths[each] for each in used])
        path, problem = found or (paths[used[0]], f"is damaged ({type(error).__name__}: {error})")
        raise _damaged(builder, path, problem) from error


@contextlib.contextmanager
def _without_group_size_warning() -> Iterator[None]:
    """Hides array_record's complaint about several records in a chunk: they are only slower to read."""

    def keep(record: logging.LogRecord) -> bool:
        return "group size" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
