"""Tables 1 and 2: the accuracies beside the paper's, the two schedules side by side, and what may be concluded."""

import numpy as np

from experiments.hard_positives.table import markdown
from experiments.robust_optimization.config import Part
from experiments.robust_optimization.paper import ADVERSARIAL_IMAGES, SCHEDULE, TABLES
from experiments.store import Arrays
from experiments.verdicts import clearly_apart

__all__ = ["curve_table", "data_name", "network_name", "paper_of", "schedule", "set_table", "table", "verdict"]

_NAMES = {"mnist": "MNIST", "digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}


def data_name(part: Part) -> str:
    """What the data are called in tables and figures; only MNIST is called MNIST."""
    return _NAMES[part.data]


def network_name(name: str) -> str:
    """ "baseline", or "robust l2" for "l2"."""
    return name if name == "baseline" else f"robust {name}"


def paper_of(part: Part) -> str:
    """The data set of the paper that a part stands for or beside."""
    return "cifar10" if part.data == "cifar10" else "mnist"


def table(part: Part, results: dict[str, Arrays]) -> str:
    """The accuracies of each network, in percent, beside the paper's."""
    header = (
        "network",
        "paper: test %",
        "paper: A %",
        f"this run: {data_name(part)} test %",
        "this run: A %",
        *(f"A by {norm} %" for norm in part.norms),
        f"PGD-20, linf {part.radius('linf'):g} %",
    )
    lines = []
    for name in part.networks:
        paper, ours = TABLES[paper_of(part)][name], results[name]
        counts, right = ours["adversarial_count"], ours["adversarial_right"]
        shares = [f"{100 * hit / count:.2f}" if count else "none" for hit, count in zip(right, counts, strict=True)]
        lines.append(
            (
                network_name(name),
                f"{paper.test:.2f}",
                f"{paper.adversarial:.2f}",
                f"{100 * ours['test']:.2f}",
                f"{100 * right.sum() / max(counts.sum(), 1):.2f}",
                *shares,
                f"{100 * ours['pgd']:.1f}",
            )
        )
    return markdown(header, lines)


def schedule(part: Part) -> str:
    """What the paper and its scripts did beside what this run did."""
    decay = f"rate {part.learning_rate:g}/(1 + {part.learning_rate_decay:g} t)"
    every = part.halve_every
    halving = f" halving at epochs {every}, {2 * every}, ..." if every else ""
    side = "32x32" if part.data != "cifar10" else "YUV, contrast-normalised"
    ours = {
        "data": f"{data_name(part)}, {side}",
        "epochs": f"{part.epochs}, every network",
        "batch": f"{part.batch_size}, " + ("shuffled" if part.shuffle else "in the file's order"),
        "SGD": f"{decay}{halving}, momentum {part.momentum:g}, dampening {part.dampening:g}, L2 {part.weight_decay:g}",
        "radii, standardised": ", ".join(f"{norm} {part.radius(norm):g}" for norm in part.norms),
        "adversarial set": f"eq. 11 in {', '.join(part.norms)} at these radii, one after the other, nothing clipped",
        "input batch normalisation": "robust networks" if part.input_norm else "none",
    }
    paper = SCHEDULE[paper_of(part)]
    return markdown(("", "paper and scripts", "this run"), [(what, paper[what], ours[what]) for what in paper])


def set_table(part: Part, found: Arrays) -> str:
    """How many images of the set A each norm gave, and how many of them outlive being stored as 8-bit images."""
    stored = "stored_wrong" in found
    header = ("norm", "radius", "adversarial images", *(["still wrong as 8-bit images in [0, 1]"] if stored else []))
    lines = []
    for name in (*part.norms, "all"):
        own = np.ones(len(found["norm"]), np.bool_) if name == "all" else found["norm"] == part.norms.index(name)
        radius = "" if name == "all" else f"{part.radius(name):g}"
        kept = [f"{found['stored_wrong'][own].sum():,}"] if stored else []
        lines.append((name, radius, f"{own.sum():,}", *kept))
    text = markdown(header, lines)
    return f"{text}\n\nThe paper's set has {ADVERSARIAL_IMAGES[paper_of(part)]:,} images. They are of "\
        f"{len(np.unique(found['source'])):,} different test images here."  # fmt: skip


def curve_table(part: Part, results: dict[str, Arrays], unit: float) -> str:
    """Accuracies of Fig. 3 or 6 in percent: a line for each epsilon, its worth on [0, 1] images beside it."""
    header = ("epsilon", "on [0, 1]", *(network_name(name) for name in part.networks))
    lines = [
        (f"{epsilon:g}", f"{epsilon * unit:.4f}", *(f"{100 * results[n]['sweep'][i]:.2f}" for n in part.networks))
        for i, epsilon in enumerate(part.epsilons)
    ]
    return markdown(header, lines)


def verdict(part: Part, results: dict[str, Arrays], count: int) -> list[str]:
    """Each robust network against the baseline, in the paper's three respects; `count` test images were asked."""
    base, lines = results["baseline"], []
    for name in part.networks[1:]:
        ours = results[name]
        gain = 100 * float(ours["test"] - base["test"])
        apart = clearly_apart(float(ours["test"]), float(base["test"]), count)
        word = "within two standard errors" if not apart else "better" if gain > 0 else "worse"
        asked = ours["adversarial_count"].sum()
        share = 100 * ours["adversarial_right"].sum() / max(asked, 1)
        positive = np.asarray(part.epsilons) > 0
        below = np.asarray(part.epsilons)[positive & (ours["sweep"] <= base["sweep"])]
        above = (
            "above the baseline at every epsilon > 0"
            if not len(below)
            else f"not above the baseline at epsilon {', '.join(f'{epsilon:g}' for epsilon in below)}"
        )
        lines.append(
            f"{network_name(name)}: test accuracy {gain:+.2f} points against the baseline ({word}); "
            f"{share:.1f} % of A right; {above}."
        )
    return lines
