"""Command line: `python -m experiments.hard_positives --preset quick|cpu|paper`, or `--data imagenet`."""

import argparse
import dataclasses
import sys

from advjax.command import command
from experiments.hard_positives.config import PRESETS, Config
from experiments.hard_positives.imagenet import command as imagenet_command
from experiments.hard_positives.run import run

__all__ = ["main", "parse"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the experiment of the command line and prints its summary; a foreseeable error ends it with one line."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--data")
    if chosen.parse_known_args(given)[0].data == "imagenet":
        imagenet_command.main(given)
        return
    config, out, data_dir = parse(arguments)
    goes_on = f"the finished stages are in {out}, and the same command goes on from there"
    with command("python -m experiments.hard_positives", interrupted=goes_on):
        print(run(config, out, data_dir))


def parse(arguments: list[str] | None = None) -> tuple[Config, str, str | None]:
    """The configuration, the output folder and the data folder of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.hard_positives",
        description="Rozsa et al. 2016: attack LeNet in fourteen ways, score the images by PASS, fine-tune on them.",
        epilog="A run that was stopped goes on after its last finished stage when the same command is given again.",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: scikit-learn's digits, minutes on a CPU; cpu: MNIST, one base network, about an hour on two "
        "cores; paper: the whole experiment, for one GPU (default: quick)",
    )
    parser.add_argument("--out", help="folder for results (default: runs/hard_positives-<preset>)")
    parser.add_argument(
        "--data",
        choices=("digits", "mnist"),
        help="data set (default: the preset's); imagenet is an experiment of its own: see --data imagenet --help",
    )
    parser.add_argument("--data-dir", help="where TFDS keeps MNIST (default: TFDS_DATA_DIR)")
    parser.add_argument("--seed", type=int, help="decides every draw (default: 0)")
    parser.add_argument(
        "--mix-clean",
        action=argparse.BooleanOptionalAction,
        help="fine-tune on the clean training images too (default: yes)",
    )
    parser.add_argument("--cap-per-type", type=int, help="at most so many training images of a type from a base")
    parser.add_argument("--heldout-source", choices=("train", "test"), help="split the held-out images come from")
    options = vars(parser.parse_args(arguments))
    preset, out, data_dir = (options.pop(name) for name in ("preset", "out", "data_dir"))
    given = {name: value for name, value in options.items() if value is not None}
    try:
        config = dataclasses.replace(PRESETS[preset], **given)
    except ValueError as error:
        parser.error(str(error))
    return config, out or f"runs/hard_positives-{preset}", data_dir


if __name__ == "__main__":
    main()
