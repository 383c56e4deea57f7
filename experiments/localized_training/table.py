"""The 25 losses beside the paper's, the accuracies, and which of its orderings hold."""

import itertools

import numpy as np

from experiments.hard_positives.table import markdown
from experiments.localized_training.config import ADVERSARIAL, INPUTS, MODELS, STRONG, Config
from experiments.localized_training.paper import LOSSES, SCHEDULE
from experiments.store import Arrays
from experiments.verdicts import line

__all__ = ["accuracy_table", "data_name", "loss_table", "losses_of", "orderings", "schedule", "strong_table"]


def data_name(config: Config) -> str:
    """What the data are called in tables and figures; only MNIST is called MNIST."""
    return "MNIST" if config.data == "mnist" else "scikit-learn's digits"


def losses_of(results: dict[str, Arrays]) -> np.ndarray:
    """Mean cross-entropies float64 [models, inputs]; those on natural images as they are, not times 1000."""
    return np.array([[results[model][f"loss_{name}"].mean(dtype=np.float64) for name in INPUTS] for model in MODELS])


def loss_table(results: dict[str, Arrays]) -> str:
    """Fig. 2: each cell this run's loss and the paper's; those on natural images are times 1000."""
    header = ("model", "natural x1000", *(f"{name} attack" for name in ADVERSARIAL))
    lines = []
    for model, losses in zip(MODELS, losses_of(results), strict=True):
        ours = (1000 * losses[0], *losses[1:])
        paper = [f"{number:g}" for number in LOSSES[model]]
        lines.append((model, *(f"{own:.4g} ({other})" for own, other in zip(ours, paper, strict=True))))
    return markdown(header, lines)


def accuracy_table(results: dict[str, Arrays]) -> str:
    """The accuracies in percent of the same 25 cells."""
    lines = []
    for model in MODELS:
        cells = []
        for name in INPUTS:
            right = results[model][f"right_{name}"]
            cells.append(f"{100 * right.mean():.2f}")
        lines.append((model, *cells))
    return markdown(("model", "natural", *(f"{name} attack" for name in ADVERSARIAL)), lines)


def strong_table(results: dict[str, Arrays]) -> str:
    """Accuracies in percent under attacks of the whole image: one by one, and the worst of APGD and Square."""
    header = ("model", "images", "clean", *STRONG, "APGD + Square")
    lines = []
    for model, found in results.items():
        left = worst(found)
        cells = [f"{100 * found[name].mean():.1f}" for name in ("clean", *STRONG)]
        lines.append((model, str(len(left)), *cells, f"{100 * left.mean():.1f}"))
    return markdown(header, lines)


def worst(found: Arrays) -> np.ndarray:
    """bool [N]: right when clean and under every APGD and Square.

    >>> names = ("clean", "apgd-ce", "apgd-dlr", "square")
    >>> worst({name: np.array([True, name != "square"]) for name in names}).tolist()
    [True, False]
    """
    names = ("clean", *(name for name in STRONG if name != "pgd"))
    return np.logical_and.reduce([found[name] for name in names])


def schedule(config: Config, trained_on: int) -> str:
    """What the paper did beside what this run did."""
    ours = {
        "data": f"{data_name(config)}, {trained_on:,} training images",
        "natural model": f"{config.natural_steps:,} steps of {config.batch_size}",
        "adversarial models": f"{config.adversarial_steps:,} steps of {config.batch_size}, "
        f"PGD of {config.train_attack_steps} steps",
        "step of PGD in training": f"{config.train_step_size:g}",
        "optimiser": f"Adam, rate {config.learning_rate:g}, on the sum over the batch",
        "attacks of the evaluation": f"PGD of {config.attack_steps} steps of {config.step_size:g}, epsilon "
        f"{config.epsilon:g}, localized {config.localize} PGD, {config.neighbours} neighbours",
        "test images": f"{config.test_images:,} attacked, all as they are",
    }
    return markdown(("", "paper", "this run"), [(what, SCHEDULE[what], ours[what]) for what in SCHEDULE])


def orderings(losses: np.ndarray) -> list[str]:
    """Each ordering that the paper's table shows, whether it holds here, and by which figures.

    Args:
        losses: from `losses_of`.
    """
    at = {model: dict(zip(INPUTS, row, strict=True)) for model, row in zip(MODELS, losses, strict=True)}
    natural = at["natural"]
    row = [natural[name] for name in ADVERSARIAL]
    own = {name: at[name][name] / natural[name] for name in ADVERSARIAL}
    clean = {model: at[model]["natural"] for model in MODELS}
    worst_of = {model: max(at[model][name] for name in ADVERSARIAL) for model in MODELS}
    robust = [model for model in ADVERSARIAL if worst_of[model] < 1 and clean[model] <= clean["natural"]]
    return [
        line(
            all(first > second for first, second in itertools.pairwise(row)),
            "natural model: standard > background > exact > broad attack",
            " > ".join(f"{loss:.4g}" for loss in row),
        ),
        line(
            all(share < 0.01 for share in own.values()),
            "each adversarial model has less than 1 % of the natural model's loss under its own attack",
            ", ".join(f"{name} {100 * share:.2f} %" for name, share in own.items()),
        ),
        line(
            max(clean, key=lambda model: clean[model]) == "standard",
            "the standard model has the largest loss on natural images",
            ", ".join(f"{model} {1000 * loss:.1f}" for model, loss in clean.items()) + " (times 1000)",
        ),
        line(
            max(clean["background"], clean["broad"]) < clean["natural"],
            "background and broad models lose less than the natural model on natural images",
            f"{1000 * clean['background']:.1f} and {1000 * clean['broad']:.1f} against {1000 * clean['natural']:.1f}",
        ),
        line(
            robust == ["background"],
            "only the background model has both a natural loss no larger than the natural model's and a loss below 1 "
            "under every attack",
            f"so have: {', '.join(robust) or 'none'}; largest losses under attack "
            + ", ".join(f"{model} {loss:.3g}" for model, loss in worst_of.items()),
        ),
        line(
            min(at["exact"]["standard"], at["broad"]["standard"]) > 10 * at["standard"]["standard"],
            "exact and broad models stay open to the standard attack, with more than ten times its own model's loss",
            f"{at['exact']['standard']:.3g} and {at['broad']['standard']:.3g} against {at['standard']['standard']:.3g}",
        ),
    ]
