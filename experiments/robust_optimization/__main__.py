"""Command line: `python -m experiments.robust_optimization --preset quick|cpu|paper`."""

import argparse
import dataclasses

from advjax.command import command
from experiments.robust_optimization.config import PRESETS, Config
from experiments.robust_optimization.run import run

__all__ = ["main", "parse"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the experiment of the command line and prints its summary; a foreseeable error ends it with one line."""
    config, out, data_dir = parse(arguments)
    goes_on = f"the finished stages are in {out}, and the same command goes on from there"
    with command("python -m experiments.robust_optimization", interrupted=goes_on):
        print(run(config, out, data_dir))


def parse(arguments: list[str] | None = None) -> tuple[Config, str, str | None]:
    """The configuration, the output folder and the data folder of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.robust_optimization",
        description="Shaham et al. 2015: train a baseline and a robust network for each norm, and attack them.",
        epilog="A run that was stopped goes on where it was when the same command is given again.",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: scikit-learn's digits, minutes on a CPU; cpu: MNIST for 15 epochs, about an hour on two cores; "
        "paper: MNIST for 120 and CIFAR-10 for 300 epochs, for one GPU (default: quick)",
    )
    parser.add_argument("--out", help="folder for results (default: runs/robust_optimization-<preset>)")
    parser.add_argument("--data", choices=("mnist", "digits", "cifar10"), help="only this data set of the preset's")
    parser.add_argument("--data-dir", help="where TFDS keeps the data sets (default: TFDS_DATA_DIR)")
    parser.add_argument("--seed", type=int, help="decides every draw (default: 0)")
    parser.add_argument("--epochs", type=int, help="epochs of every network (default: the preset's)")
    options = parser.parse_args(arguments)
    config = PRESETS[options.preset]
    parts = tuple(part for part in config.parts if options.data in (None, part.data))
    if not parts:
        there = ", ".join(part.data for part in config.parts)
        parser.error(f"--data must be one of the preset's data sets ({there}), got {options.data!r}")
    try:
        if options.epochs is not None:
            parts = tuple(dataclasses.replace(part, epochs=options.epochs) for part in parts)
        seed = config.seed if options.seed is None else options.seed
        config = dataclasses.replace(config, parts=parts, seed=seed)
    except ValueError as error:
        parser.error(str(error))
    return config, options.out or f"runs/robust_optimization-{options.preset}", options.data_dir


if __name__ == "__main__":
    main()
