"""Command line: `python -m experiments.localized_training --preset quick|cpu|paper`."""

import argparse
import dataclasses

from advjax.command import command
from experiments.localized_training.config import PRESETS, Config
from experiments.localized_training.run import run

__all__ = ["main", "parse"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the experiment of the command line and prints its summary; a foreseeable error ends it with one line."""
    config, out, data_dir = parse(arguments)
    goes_on = f"the finished stages are in {out}, and the same command goes on from there"
    with command("python -m experiments.localized_training", interrupted=goes_on):
        print(run(config, out, data_dir))


def parse(arguments: list[str] | None = None) -> tuple[Config, str, str | None]:
    """The configuration, the output folder and the data folder of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.localized_training",
        description="Rothberg et al.: five models trained on natural or locally attacked digits, on five inputs each.",
        epilog="A run that was stopped goes on where it was when the same command is given again.",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: scikit-learn's digits, minutes on a CPU; cpu: MNIST with shortened training, about an hour on "
        "two cores; paper: 100,000 steps of each model, for one GPU (default: quick)",
    )
    parser.add_argument("--out", help="folder for results (default: runs/localized_training-<preset>)")
    parser.add_argument("--data", choices=("digits", "mnist"), help="data set (default: the preset's)")
    parser.add_argument("--data-dir", help="where TFDS keeps MNIST (default: TFDS_DATA_DIR)")
    parser.add_argument("--seed", type=int, help="decides every draw (default: 0)")
    parser.add_argument(
        "--localize", choices=("after", "inside"), help="cut to the region after PGD, or at each of its steps"
    )
    parser.add_argument("--neighbours", type=int, choices=(4, 8), help="of the digit, kept by the broad mask")
    parser.add_argument("--natural-steps", type=int, help="training steps of the natural model")
    parser.add_argument("--adversarial-steps", type=int, help="training steps of each of the other four")
    options = vars(parser.parse_args(arguments))
    preset, out, data_dir = (options.pop(name) for name in ("preset", "out", "data_dir"))
    given = {name: value for name, value in options.items() if value is not None}
    try:
        config = dataclasses.replace(PRESETS[preset], **given)
    except ValueError as error:
        parser.error(str(error))
    return config, out or f"runs/localized_training-{preset}", data_dir


if __name__ == "__main__":
    main()
