"""What the paper reports: Tables 1 and 2, the sizes of its adversarial sets, its schedule."""

from typing import NamedTuple

__all__ = ["ADVERSARIAL_IMAGES", "FIGURES", "SCHEDULE", "TABLES", "Row"]


class Row(NamedTuple):
    """Accuracies in percent: on the test set, and on the baseline's adversarial images."""

    test: float
    adversarial: float


# The data that each result of the paper is of. Digits stand in for MNIST, and the report says so.
TABLES = {
    "mnist": {
        "baseline": Row(99.09, 0.0),
        "l1": Row(99.16, 33.83),
        "l2": Row(99.28, 76.55),
        "linf": Row(99.33, 79.96),
    },
    "cifar10": {"baseline": Row(90.79, 0.0), "l2": Row(91.04, 59.72), "linf": Row(90.95, 64.06)},
}

ADVERSARIAL_IMAGES = {"mnist": 1203, "cifar10": 1547}

FIGURES = {
    "mnist": {
        "table": "table1.md",
        "pixel": "fig1.png",
        "sample": "fig2.png",
        "epsilon": "fig3.png",
        "epoch": "epochs.png",
    },
    "cifar10": {"table": "table2.md", "sample": "fig4.png", "epoch": "fig5.png", "epsilon": "fig6.png"},
}

SCHEDULE = {
    "mnist": {
        "data": "MNIST, 32x32",
        "epochs": "120 (baseline; the robust scripts give no end)",
        "batch": "100, in the file's order",
        "SGD": "rate 0.01/(1 + 5e-06 t), momentum 0.9, dampening 0.9, L2 0.001 (scripts)",
        "radii, standardised": "l1 2, l2 2, linf 0.2 (scripts; the paper gives none)",
        "adversarial set": "1,203 images; norms l1, l2 and linf, radii and split not stated",
        "input batch normalisation": "robust networks (scripts; not in the paper)",
    },
    "cifar10": {
        "data": "CIFAR-10, YUV, contrast-normalised",
        "epochs": "300",
        "batch": "128, shuffled",
        "SGD": "rate 1/(1 + 1e-07 t) halving at epochs 25, 50, ..., momentum 0.9, dampening 0.9, L2 0.0005 (scripts)",
        "radii, standardised": "l2 0.2 (scripts), linf not stated",
        "adversarial set": "1,547 images; norms l2 and linf, radii and split not stated",
        "input batch normalisation": "none",
    },
}
