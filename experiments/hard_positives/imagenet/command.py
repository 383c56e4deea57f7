"""Command line of `python -m experiments.hard_positives --data imagenet`."""

import argparse
import dataclasses
import hashlib
import pathlib

import numpy as np

from advjax.command import command
from advjax.data import ImageSet, image_folder, imagenet
from experiments.hard_positives.imagenet.config import PRESETS, Config
from experiments.hard_positives.imagenet.network import NAMES
from experiments.hard_positives.imagenet.run import run

__all__ = ["configured", "main", "parser"]

_TFDS = "imagenet2012"
_OUTPUTS = 1000  # of every published ImageNet network
_OVERRIDES = ("model", "seed", "classes", "images_per_class", "ranks", "base_steps", "finetune_steps", "attack_batch")


def main(arguments: list[str] | None = None) -> None:
    """Runs the experiment of the command line and prints its summary; a foreseeable error ends it with one line."""
    options = parser().parse_args(arguments)
    out = options.out or f"runs/hard_positives-imagenet-{options.preset}"
    goes_on = f"the finished stages are in {out}, and the same command goes on from there"
    with command("python -m experiments.hard_positives --data imagenet", interrupted=goes_on):
        config, images, validation = configured(options)
        print(run(config, images, validation, out, options.weights))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.hard_positives --data imagenet",
        description="Rozsa et al. 2016, section 5.3 and Fig. 3: hot/cold hard positives for an ImageNet network.",
        epilog="A run that was stopped goes on after its last finished stage when the same command is given again.",
    )
    parser.add_argument("--data", choices=("imagenet",), default="imagenet")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: a small network trained briefly on a few photographs, minutes on a CPU; paper: the whole "
        "experiment (default: quick)",
    )
    parser.add_argument(
        "--images",
        required=True,
        help=f"training photographs: {_TFDS} (TFDS), or a folder with a subfolder for each class or a labels.csv",
    )
    parser.add_argument("--validation", help=f"images to judge by: {_TFDS} or a folder (default: other random crops)")
    parser.add_argument("--data-dir", help=f"where TFDS keeps {_TFDS} (default: TFDS_DATA_DIR)")
    parser.add_argument("--model", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--weights", help="published checkpoint of it (default: random weights)")
    parser.add_argument("--out", help="folder for results (default: runs/hard_positives-imagenet-<preset>)")
    for name in _OVERRIDES[1:]:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="see config.py (default: the preset's)")
    return parser


def configured(options: argparse.Namespace) -> tuple[Config, ImageSet, ImageSet | None]:
    """The configuration with the hashes of what it reads, the photographs, and the validation images if any.

    Raises:
        ValueError, OSError, ImportError: arguments that do not fit together; a file or data set that is not there.
    """
    given = {name: getattr(options, name) for name in _OVERRIDES if getattr(options, name) is not None}
    if options.weights:
        given["weights"] = hashlib.sha256(pathlib.Path(options.weights).read_bytes()).hexdigest()
        given.setdefault("base_steps", 0)
    config = dataclasses.replace(PRESETS[options.preset], **given)
    images = _open(options.images, "train", options)
    validation = None if options.validation is None else _open(options.validation, "validation", options)
    if validation is not None and config.own_labels:
        raise ValueError("--validation needs --weights or --base-steps: a network without either knows no labels")
    if validation is not None and validation.classes != images.classes:
        raise ValueError("--validation must have the classes of --images, in the same order")
    if config.classes:
        drawn = images.draw_classes(config.classes, config.seed)
        if config.weights:
            # The classes keep the numbers by which the published network knows them.
            images = _of_labels(images, drawn.numbers)
            validation = validation and _of_labels(validation, drawn.numbers)
        else:
            images, validation = drawn, validation and validation.of_classes(list(drawn.classes))
    checked = "" if validation is None else f"{validation.name} {validation.digest()}"
    config = dataclasses.replace(config, images=f"{images.name} {images.digest()}", validation=checked)
    return config, images, validation


def _open(name: str, split: str, options: argparse.Namespace) -> ImageSet:
    if name == _TFDS:
        return imagenet(split, data_dir=options.data_dir)
    images = image_folder(name)
    numbered = (pathlib.Path(name) / "labels.csv").exists() and len(images.classes) <= _OUTPUTS
    if options.weights and len(images.classes) != _OUTPUTS and not numbered:
        raise ValueError(
            f"with --weights the labels of {name} must be ImageNet's: {_OUTPUTS} class folders, or a labels.csv with "
            f"their numbers, got {len(images.classes)} classes"
        )
    return images


def _of_labels(images: ImageSet, labels: tuple[int, ...]) -> ImageSet:
    return images.take(np.flatnonzero(np.isin(images.labels, labels)))
