"""Which images play which part: E, C, G, V and T, which share none (but where a setting says that G is C)."""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from advjax.data import CenterCrop, Dataset, data_read, imagenet
from advjax.data.crops import resize
from advjax.fingerprint import file_digest
from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD
from experiments.butterfly.config import Config
from experiments.butterfly.rows import SOURCES, STAND_INS
from experiments.networks import key_of
from experiments.provenance import load_both
from experiments.study import Folder, Loaded

__all__ = ["Data", "Parts", "load", "part", "shape_of"]

_SIDE = 224
_CLASSES = {"ImageNet-10": 10, "ImageNet-50": 50}
# torchvision's names, of files in the folder `weights`.
_FILES = {"R50": "resnet50", "R101": "resnet101", "VGG16": "vgg16", "D169": "densenet169"}
_SUFFIXES = (".safetensors", ".pth", ".npz")


class Parts(NamedTuple):
    """The images of one data set, by the part that they play.

    Attributes:
        encoder: E, the external images, with labels: encoders, and networks that classifiers [B] begin as, learn from
            them; None where published weights stand for them.
        classifier: C, what classifiers learn from.
        generator: G, what generators learn from.
        validation: V, held out of the training images: nothing is chosen by it; baselines are matched there.
        test: T, which no network has seen.
        mean, std: of the channels, as all networks normalize them.
        units: pixels per unit of v: `std`, or 1 where the paper does not normalize.
    """

    encoder: Dataset | None
    classifier: Dataset
    generator: Dataset
    validation: Dataset
    test: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    units: tuple[float, ...]


class Data(NamedTuple):
    """What a run reads: its images by data set, and files of published weights by form."""

    parts: dict[str, Parts]
    weights: dict[str, pathlib.Path]


def shape_of(parts: Parts) -> tuple[int, int, int]:
    """[H, W, C] of an image."""
    height, width, channels = parts.test.images.shape[1:]
    return height, width, channels


def load(config: Config, data_dir: Folder | None) -> Loaded[Config, Data]:
    """The images of the rows, each with its part; the configuration then holds digests of weights, and no path.

    Raises:
        FileNotFoundError: a data set or a file of weights is not there.
        ValueError: there are fewer training images than the parts take.
    """
    weights = {}
    if not config.encoder_images:
        weights = {form: _weights(config, form) for _, form in config.pretrained}
        digests = ",".join(f"{_FILES[form]} {file_digest(path)}" for form, path in weights.items())
        config = dataclasses.replace(config, weights=digests)
    parts, read = {}, []
    for name in config.data:
        train, test, words = _sets(config, name, data_dir)
        parts[name] = divided(config, name, train, test)
        read.append(words)
    return Loaded(config, Data(parts, weights), "; ".join(read))


def _weights(config: Config, form: str) -> pathlib.Path:
    name = _FILES[form]
    for suffix in _SUFFIXES:
        if config.weights and (path := pathlib.Path(config.weights, name + suffix)).exists():
            return path
    raise FileNotFoundError(
        f"weights={config.weights!r} must be a folder with {name}.safetensors, .pth or .npz, ImageNet's weights of "
        f"{form}; the stand-ins (presets quick and cpu) need none"
    )


def _sets(config: Config, name: str, data_dir: Folder | None) -> tuple[Dataset, Dataset, str]:
    if name not in _CLASSES:
        train, test, words = load_both(SOURCES[name], data_dir)
        return (train, test, words) if name in STAND_INS else (_enlarged(train), _enlarged(test), words)
    drawn = imagenet("train", data_dir=data_dir).draw_classes(_CLASSES[name], config.seed)
    own = imagenet("validation", data_dir=data_dir).of_classes(drawn.classes)
    crop = CenterCrop((_SIDE, _SIDE), resize=256)
    both = drawn.in_memory(crop), own.in_memory(crop)
    return *both, f"{data_read(*both)} of the classes {', '.join(drawn.classes)}"


def _enlarged(images: Dataset) -> Dataset:
    return dataclasses.replace(images, images=np.stack([resize(image, (_SIDE, _SIDE)) for image in images.images]))


def divided(config: Config, name: str, train: Dataset, test: Dataset) -> Parts:
    """The parts of a data set: disjoint pieces of its training images in an order drawn by the seed, and the test set.

    Raises:
        ValueError: the pieces are more than there are.
    """
    asked = (config.encoder_images, config.generator_images, config.validation_images)
    left = len(train.labels) - sum(asked)
    wanted = config.classifier_images or max(left, 1)
    if wanted > left:
        raise ValueError(
            f"encoder_images, generator_images, validation_images and classifier_images must be {len(train.labels)} "
            f"at most together, the training images of {name}, got {sum(asked) + wanted}"
        )
    order = np.asarray(jax.random.permutation(key_of(config.seed, "parts", name), len(train.labels)))
    external, generator, validation, classifier, _ = np.split(order, np.cumsum([*asked, wanted]))
    known = part(train, classifier)
    whole = np.arange(config.test_images or len(test.labels))[: len(test.labels)]
    mean, std = (
        (IMAGENET_MEAN, IMAGENET_STD) if config.size == "paper" else _statistics(train.images[order[: sum(asked)]])
    )
    return Parts(
        encoder=part(train, external) if len(external) else None,
        classifier=known,
        generator=part(train, generator) if len(generator) else known,
        validation=part(train, validation),
        test=part(test, whole),
        mean=mean,
        std=std,
        units=(1.0,) if name == "STL-10" else std,
    )


def part(images: Dataset, rows: np.ndarray) -> Dataset:
    """Some of the images."""
    return dataclasses.replace(images, images=images.images[rows], labels=images.labels[rows])


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = images.reshape(-1, images.shape[-1]) / 255
    return tuple(map(float, pixels.mean(0))), tuple(map(float, pixels.std(0)))
