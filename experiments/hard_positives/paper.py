"""What the paper names and what it reports: adversarial types, the rows of Table 1, its schedule."""

import dataclasses
from typing import Any

from advjax.attacks import fgs, fgv, hard_positive, hot_cold, hot_cold_sign

__all__ = ["ATTACKS", "BAND_TYPES", "BASIC", "FIGURE_TYPES", "HELD_OUT_TYPES", "INFIMNIST", "ROWS", "SCHEDULE", "Row"]

_RANKS = range(1, 10)

# Types of one family differ in numbers alone (rank, factor), so that each family is compiled once.
ATTACKS: dict[str, Any] = {
    "FGS": fgs(),
    "FGV": fgv(),
    **{f"HC-{k}": hot_cold(k) for k in _RANKS},
    **{f"HC-{k}x1.05": hard_positive(hot_cold(k), 1.05) for k in _RANKS},
    "HC-1x1.10": hard_positive(hot_cold(1), 1.10),
    **{f"HC-S-{k}": hot_cold_sign(k) for k in _RANKS},
}

HELD_OUT_TYPES = ("FGS", "FGV", *(f"HC-{k}" for k in _RANKS), "HC-1x1.05", "HC-1x1.10", "HC-S-1")

# Figs. 2, 4 and 5 show these, whatever is trained on.
FIGURE_TYPES = ("FGS", "FGV", *(f"HC-{k}" for k in _RANKS), "HC-S-1")

BASIC = "Basic LeNet"
INFIMNIST = "InfiMNIST-like"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 1: the types trained on, and the paper's errors in percent (mean, std; adversarial mean)."""

    types: tuple[str, ...]
    clean: float
    clean_std: float
    adversarial: float


ROWS = {
    "HC-D-9-1.05": Row(tuple(f"HC-{k}x1.05" for k in _RANKS), 0.673, 0.035, 14.85),
    "HC-D-9": Row(tuple(f"HC-{k}" for k in _RANKS), 0.683, 0.057, 21.10),
    INFIMNIST: Row((), 0.697, 0.021, 48.35),
    "FGV": Row(("FGV",), 0.697, 0.031, 29.61),
    "HC-D-5": Row(tuple(f"HC-{k}" for k in range(1, 6)), 0.723, 0.047, 21.52),
    "HC-S-5": Row(tuple(f"HC-S-{k}" for k in range(1, 6)), 0.733, 0.032, 29.29),
    "FGS": Row(("FGS",), 0.790, 0.122, 31.06),
    BASIC: Row((), 0.937, 0.110, 64.21),
}

# Fig. 6, "trained using generated hard positives with different ranges of PASS": the adversarial images of HC-D-9.
BAND_TYPES = ROWS["HC-D-9"].types

# The paper's side of the schedule printed under the table.
SCHEDULE = {
    "data": "MNIST",
    "base networks": "3, 10,000 steps of 64",
    "fine-tuned networks a row": "9 (3 bases x 3 orders), 20,000 steps",
    "images whose perturbations are trained on": "not stated; 37,663 FGV images, about 340,000 HC-D-9 images",
    "clean images in the fine-tuning set": "not stated",
    "held-out adversarial set": "14 types x 5,000, from all three bases",
    "InfiMNIST": "1,000,000 images, 3 networks, 30,000 steps",
    "Fig. 6": "schedule not stated",
}
