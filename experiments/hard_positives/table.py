"""`table1.md`: the errors beside the paper's, the two schedules side by side, and what may be concluded."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.hard_positives.config import Config
from experiments.hard_positives.paper import BASIC, INFIMNIST, ROWS, SCHEDULE
from experiments.store import Arrays
from experiments.verdicts import clearly_apart

__all__ = ["Errors", "data_name", "errors_of", "markdown", "mean_std", "schedule", "table1", "verdict"]


@dataclasses.dataclass(frozen=True, eq=False)
class Errors:
    """The errors of a row's networks, as shares.

    Attributes:
        clean, adversarial: float [S], of each network.
        clean_count, adversarial_count: images asked.
        trained_on: adversarial images in the training set, the mean over base networks.
        clean_images: other images in the training set.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    clean_count: int
    adversarial_count: int
    trained_on: int = 0
    clean_images: int = 0


def errors_of(stored: Arrays) -> Errors:
    """From the arrays of a stage "row/..."."""
    clean_count, count = int(stored["clean_count"]), int(stored["adversarial_count"].sum())
    return Errors(
        clean=stored["clean_wrong"] / clean_count,
        adversarial=stored["adversarial_wrong"].sum(axis=1) / count,
        clean_count=clean_count,
        adversarial_count=count,
        trained_on=round(float(stored.get("adversarial_images", np.zeros(1)).mean())),
        clean_images=int(stored.get("clean_images", 0)),
    )


def data_name(config: Config) -> str:
    """What the data are called in tables and figures; only MNIST is called MNIST."""
    return "MNIST" if config.data == "mnist" else "scikit-learn's digits"


def table1(config: Config, rows: dict[str, Errors]) -> str:
    """Table 1: the paper's rows in its order. A row that was not run says so; no number of the paper fills it."""
    header = (
        "method",
        "paper: MNIST error %",
        "paper: adversarial error %",
        f"this run: {data_name(config)} error %",
        "this run: adversarial error %",
        "networks",
        "adversarial + other training images",
    )
    lines = []
    for row, reported in ROWS.items():
        paper = (f"{reported.clean:.3f} ± {reported.clean_std:.3f}", f"{reported.adversarial:.2f}")
        lines.append((row, *paper, *_our_cells(row, rows.get(row))))
        if row == "HC-S-5":
            lines.append(("Goodfellow et al. (quoted by the paper)", "0.782", "17.9", *_our_cells(row, None)))
    return markdown(header, lines)


def schedule(config: Config) -> str:
    """What the paper did beside what this run did."""
    where = "the training split" if config.heldout_source == "train" else "the test split"
    ours = {
        "data": data_name(config),
        "base networks": f"{config.bases}, {config.base_iterations:,} steps of {config.batch_size}",
        "fine-tuned networks a row": f"{config.networks} ({config.bases} bases x {config.orders} orders), "
        f"{config.finetune_iterations:,} steps, fresh solver",
        "images whose perturbations are trained on": f"{config.train_sources:,}, at most {config.cap_per_type:,} "
        "images of a type",
        "clean images in the fine-tuning set": "all" if config.mix_clean else "none",
        "held-out adversarial set": f"14 types x {config.heldout_per_type:,}, from {config.bases} base(s), made of "
        f"{config.heldout_sources:,} other images of {where}",
        "InfiMNIST": f"InfiMNIST-like: {config.infimnist_images:,} images, {config.bases} network(s), "
        f"{config.infimnist_iterations:,} steps"
        if INFIMNIST in config.rows
        else "not run",
        "Fig. 6": f"{config.band_iterations:,} steps, equal numbers from each band" if config.bands else "not run",
    }
    return markdown(("", "paper", "this run"), [(what, SCHEDULE[what], ours[what]) for what in SCHEDULE])


def verdict(config: Config, rows: dict[str, Errors]) -> list[str]:
    """Whether fine-tuning made the network better: one sentence for each row, against the base networks."""
    basic = rows[BASIC]
    lines = []
    for row, ours in rows.items():
        if row == BASIC:
            continue
        adversarial = _compare(basic.adversarial, ours.adversarial, ours.adversarial_count)
        clean = _compare(basic.clean, ours.clean, ours.clean_count)
        lines.append(f"{row}: adversarial error {adversarial}; clean error {clean}.")
    if config.bases == 1:
        lines.append(
            "One base network: the held-out images are its own adversarial images, so that it gets all of them wrong "
            "by construction (the paper's 64 % is a mix over three networks)."
        )
    return lines


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    rule = "|" + "---|" * len(header)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def mean_std(values: np.ndarray, digits: int) -> str:
    """Mean and, of two or more, sample standard deviation.

    >>> mean_std(np.array([1.0, 3.0]), 1), mean_std(np.array([2.0]), 1)
    ('2.0 ± 1.4', '2.0')
    """
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _our_cells(row: str, errors: Errors | None) -> tuple[str, ...]:
    if errors is None:
        return "not run", "not run", "", ""
    images = "" if row == BASIC else f"{errors.trained_on:,} + {errors.clean_images:,}"
    return mean_std(100 * errors.clean, 3), mean_std(100 * errors.adversarial, 2), str(len(errors.clean)), images


def _compare(before: np.ndarray, after: np.ndarray, count: int) -> str:
    """ "4.20 % -> 1.10 % (better)", or no verdict within two standard errors of `count` images."""
    old, new = float(before.mean()), float(after.mean())
    word = "no clear difference" if not clearly_apart(old, new, count) else "better" if new < old else "worse"
    return f"{100 * old:.2f} % -> {100 * new:.2f} % ({word})"
