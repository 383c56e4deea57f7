"""Command line: `advjax score original.png changed.png`, or two folders; `advjax train`."""

import argparse
import sys
from collections.abc import Sequence

import advjax
from advjax import score_command, train_command
from advjax.command import command

__all__ = ["main", "parse", "run"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; what its user can mend ends it with one line on stderr and exit code 2."""
    run(parse(arguments))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(prog="advjax", description="Adversarial perturbations and their scores.")
    parser.add_argument("--version", action="version", version=f"advjax {advjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    score_command.add_arguments(commands.add_parser("score", help="how much a changed picture looks like its original"))
    train = commands.add_parser(
        "train",
        help="train a network on what an attack makes of its images",
        description="Adversarial training: perturb the batch, then one descent step. On all devices of all processes.",
        epilog="A run that was stopped or killed goes on when the same command is given again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train_command.add_arguments(train)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Runs the command that the options say."""
    if options.command == "train":
        with command("advjax", interrupted="the same command goes on from the newest checkpoint, if there is one"):
            train_command.train(options)
    else:
        with command("advjax"):
            code = score_command.score(options)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
