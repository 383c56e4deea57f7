"""Random-sign training, x + eps x l(x), in input and hidden space, beside plain training and training on FGSM images.

python -m experiments random_sign --preset quick          # scikit-learn's digits, LeNet: minutes on two cores
python -m experiments random_sign --preset cpu            # MNIST, LeNet, five seeds: two hours of two cores
python -m experiments random_sign --preset cpu-pixels     # the same without standardization: an hour of two cores
python -m experiments random_sign --preset cpu-capsules   # MNIST, CapsNet, two epochs: an hour of two cores
python -m experiments random_sign --preset cpu-cifar10    # CIFAR-10, ResNet-20, ten epochs: an hour of two cores
python -m experiments random_sign --preset steps          # every row, two steps on random images: half an hour
python -m experiments random_sign --preset paper          # every row: SVHN, CIFAR-100 and ImageNet, many GPUs
"""

from typing import Any

import numpy as np
import scipy.stats

from advjax.evaluate import Share, better_or_worse
from advjax.plots import line_figure
from experiments.page import Page, markdown, mean_std, stand_in
from experiments.random_sign.config import PRESETS, Config
from experiments.random_sign.recipes import RECIPES
from experiments.random_sign.rows import DISTURBED, NOT_BUILT, ROWS, listed
from experiments.random_sign.run import Data, classifiers, load, stages
from experiments.store import Arrays
from experiments.study import Read, Row, Study, accuracy_row, pivot
from experiments.verdicts import NO_VERDICT, NOT_RUN, line

__all__ = ["STUDY"]

NAME = "random_sign"
# The two-sided level of intervals and of verdicts.
_LEVEL = 0.95


def judged(config: Config, read: Read) -> dict[str, Arrays]:
    """By network what it got right; nothing of a run of a few steps."""
    return {} if config.steps else {name: read(f"judged/{name}") for name in config.networks}


def where_from(config: Config, data: Data, network: str) -> str:
    """The test set of a network, for the rows."""
    test = data[RECIPES[ROWS[config.networks[network][0]].recipe].data][1]
    return f"{test.name}/{test.split}"


def rows(config: Config, data: Data, read: Read) -> list[Row]:
    """Every number of the run."""
    lines = []
    for name, found in judged(config, read).items():
        own = where_from(config, data, name)
        for attack, right in found.items():
            if attack == "health":
                continue
            epsilon = None if attack == "right" else float(attack.split()[1])
            under = "" if attack == "right" else attack.split()[0]
            lines += [accuracy_row(NAME, own, name, under, each, epsilon, seed) for seed, each in enumerate(right)]
    for name, (recipe, place, epsilon) in config.swept.items():
        train = data[RECIPES[recipe].data][0]
        for seed, each in enumerate(read(f"sweep/{name}")["right"]):
            network, own = f"{recipe} {place or 'base'}", f"{train.name}/held out"
            lines.append(accuracy_row(NAME, own, network, "random signs in training", each, epsilon, seed))
    if config.steps:
        for name in config.networks:
            loss = read(f"train/{name}")["loss"]
            lines.append(Row(NAME, "random numbers", name, 0, "", None, "loss", 0, float(loss[0, -1])))
    return lines


def interval(values: np.ndarray) -> str:
    """Mean and its 95 % interval over seeds by Student's t; of one the value alone.

    >>> interval(np.array([1.0, 2.0, 3.0])), interval(np.array([2.0]))
    ('2.00 [-0.48, 4.48]', '2.00')
    """
    if len(values) < 2:
        return f"{values[0]:.2f}"
    half = scipy.stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} [{values.mean() - half:.2f}, {values.mean() + half:.2f}]"


def compared(base: np.ndarray, other: np.ndarray) -> str:
    """Whether the other networks [S, N] are better than the base ones, of the same seeds on the same images.

    "better" or "worse" asks two things: the exact sign test over images, of how many seeds get each right, and over
    seeds that the interval of the difference leaves out 0.

    >>> wrong = np.arange(1000) % 10 == 0
    >>> compared(np.stack([~wrong, ~wrong]), np.ones((2, 1000), bool))
    'better'
    """
    differences = other.mean(1) - base.mean(1)
    by_images = better_or_worse(Share.of(base), Share.of(other), error=False)
    if len(differences) < 2 or by_images == "no clear difference":
        return by_images if len(differences) > 1 else f"{by_images} (one seed)"
    half = scipy.stats.t.ppf((1 + _LEVEL) / 2, len(differences) - 1) * scipy.stats.sem(differences)
    return by_images if abs(differences.mean()) > half else "no clear difference"


def page(config: Config, data: Data, read: Read) -> Page:
    """All rows with the paper's errors, what was run of them, the sweep, and accuracies under attack."""
    found, table, verdicts = judged(config, read), [], {}
    for name, row in ROWS.items():
        runs = [network for network, (own, _) in config.networks.items() if own == name]
        paper = "" if row.error is None else f"{row.error:g}" + (f" ± {row.deviation:g}" if row.deviation else "")
        if not runs or config.steps:
            told = f"not run ({RECIPES[row.recipe].time})" if not runs else f"not run; {config.steps} steps ran"
            table.append((name, row.tables, paper, told, "", ""))
        for network in runs if found else ():
            right, base = found[network]["right"], found.get(row.recipe)
            if network != row.recipe and base is not None:
                verdicts[network] = compared(base["right"], right)
            errors = 100 * (1 - right.mean(1))
            table.append((network, row.tables, paper, mean_std(errors, 2), interval(errors), verdicts.get(network, "")))
    table += [(name, "3", f"{error:g}", "not built", "", "") for name, error in NOT_BUILT.items()]
    header = ("row", "Table", "paper: error %", "this run: error %", "95 % interval over seeds", "than its base")
    return Page(
        note="\n\n".join(filter(None, [stand_in("digits") if config.data == "digits" else "", _note(config)])),
        table=markdown(header, table),
        paper={
            "random signs": "p = 0.5, in input and/or hidden space; epsilon, layers, what has its own draw: not given",
            "FGSM rows": "not given",
            "networks a row": "not given; some errors have a ± without a number of runs",
            "schedules": "those of the base rows' sources",
        },
        run={
            "random signs": f"p = {config.p:g}, {', '.join(config.where)}, epsilon {config.epsilon:g} per {config.per}",
            "FGSM rows": "half clean, half FGSM images: epsilon 0.1 on MNIST, 8/255 on the others",
            "networks a row": str(config.seeds),
            "schedules": _schedule(config),
        },
        claims=claims(config, found, verdicts),
        summary=[f"{len(config.networks)} row(s) ran {config.steps} steps on random images"]
        if config.steps
        else [f"{row[0]}: error {row[3]} %, paper {row[2] or 'none'}" for row in table if row[0] in config.networks],
        sections=sections(config, data, read, found),
        counted="Better and worse are of the same seeds on the same images: the exact two-sided sign test over images, "
        "of how many seeds get each right, at 5 %, and the 95 % interval over seeds of the difference (Student's t) "
        "without 0; of one seed the first alone.",
    )


def _schedule(config: Config) -> str:
    length = f"{config.steps} steps" if config.steps else f"{config.epochs} epochs" if config.epochs else "the same"
    return length + ("" if config.standardize else "; LeNet on pixels, without standardization")


def _note(config: Config) -> str:
    if config.steps:
        return "**Nothing was trained here**: each row ran a few steps on random images, to show that it runs."
    return ""


def claims(config: Config, found: dict[str, Arrays], verdicts: dict[str, str]) -> list[str]:
    """The two claims of the paper on each network: random signs lower the clean error, FGSM training raises it."""
    lines = []
    for kind, wanted, claim in (("R", "better", "random signs lower the error"), ("FGSM", "worse", "FGSM raises it")):
        for network, (row, _) in config.networks.items():
            if ROWS[row].kind != kind or ROWS[row].error is None:
                continue
            verdict = verdicts.get(network, "")
            status = NOT_RUN if not verdict else NO_VERDICT if "no clear" in verdict else verdict.startswith(wanted)
            lines.append(line(status, f"{network}: {claim} on clean images", verdict or "not judged"))
    return lines


def sections(config: Config, data: Data, read: Read, found: dict[str, Arrays]) -> dict[str, str]:
    """The sweep, accuracies under attack, the health checks, and Table 1, of which nothing can be run here."""
    told = {}
    if config.swept:
        lines = []
        for name, (recipe, place, epsilon) in config.swept.items():
            errors = 100 * (1 - read(f"sweep/{name}")["right"].mean(1))
            lines.append((recipe, place or "base", f"{epsilon:g}", mean_std(errors, 2)))
        told["Epsilon on held-out training images"] = markdown(("network", "place", "epsilon", "error %"), lines) + (
            f"\n\n{config.heldout:,} images that these networks were not trained on; {config.sweep_seeds} seeds. The "
            "table above keeps the epsilon that was set before."
        )
    if found:
        told["Accuracy in percent, clean and attacked (not in the paper)"] = (
            pivot([row for row in rows(config, data, read) if "held out" not in row.data], "accuracy")
            + f"\n\nThe attacks on the first {config.attacked_images:,} test images, each network through its gradient."
        )
        warned = {name: "; ".join(map(str, each["health"])) for name, each in found.items()}
        told["Health checks"] = "\n".join(f"- {name}: {each or 'nothing found'}" for name, each in warned.items())
    accuracies = [(name, *(f"{value:g}" for value in values), "not run") for name, values in DISTURBED.items()]
    header = ("Table 1: accuracy %", "random crop", "flip", "gray", "color", "one of five crops", "this run")
    told["Table 1"] = markdown(header, accuracies) + "\n\nImageNet is not here. The disturbances are `advjax.disturb`."
    return told


def figures(config: Config, data: Data, read: Read) -> dict[str, Any]:
    """Held-out errors by epsilon, a line for each place; bars are sample standard deviations over seeds."""
    drawn = {}
    for recipe in dict.fromkeys(recipe for recipe, _, _ in config.swept.values()):
        errors = {
            (place, epsilon): 100 * (1 - read(f"sweep/{name}")["right"].mean(1))
            for name, (own, place, epsilon) in config.swept.items()
            if own == recipe
        }
        found = {
            place: np.stack([errors["", 0.0], *(errors[place, epsilon] for epsilon in config.sweep)])
            for place in config.where
        }
        drawn[f"sweep-{recipe.split('/')[1].lower()}.png"] = line_figure(
            [0.0, *config.sweep],
            {place: each.mean(1) for place, each in found.items()},
            spread={place: each.std(1, ddof=1) for place, each in found.items()} if config.sweep_seeds > 1 else None,
            xlabel="epsilon of the random signs",
            ylabel="held-out error, %",
            title=f"{recipe}, {config.sweep_seeds} seed(s)",
        )
    return drawn


TITLE = "Di, Yu, Tian 2018, Tables 1 to 5"
STUDY = Study(NAME, TITLE, __doc__ or "", PRESETS, load, stages, classifiers, rows, page, figures, listed)
