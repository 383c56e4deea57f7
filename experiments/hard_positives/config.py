"""What a run is: the types of adversarial images, the rows of Table 1, and every choice the paper leaves open."""

import dataclasses
from typing import Any, Literal, NamedTuple

from advjax.attacks import fgs, fgv, hard_positive, hot_cold, hot_cold_sign
from experiments.config import Settings, presets, setting

__all__ = [
    "ATTACKS",
    "BAND_TYPES",
    "BASIC",
    "FIGURE4",
    "HELD_OUT_TYPES",
    "INFIMNIST",
    "PRESETS",
    "ROWS",
    "Band",
    "Config",
]

_RANKS = range(1, 10)

# Types of one family differ in numbers alone (rank, factor), so that each family is compiled once.
ATTACKS: dict[str, Any] = {
    "FGS": fgs(),
    "FGV": fgv(),
    **{f"HC-{k}": hot_cold(k) for k in _RANKS},
    **{f"HC-{k}x1.05": hard_positive(hot_cold(k), 1.05) for k in _RANKS},
    **{f"HC-{k}x1.10": hard_positive(hot_cold(k), 1.10) for k in _RANKS},
    **{f"HC-S-{k}": hot_cold_sign(k) for k in _RANKS},
}
HELD_OUT_TYPES = ("FGS", "FGV", *(f"HC-{k}" for k in _RANKS), "HC-1x1.05", "HC-1x1.10", "HC-S-1")
# Figs. 2 and 5 show these, whatever is trained on.
_FIGURE_TYPES = ("FGS", "FGV", *(f"HC-{k}" for k in _RANKS), "HC-S-1")

BASIC = "Basic LeNet"
INFIMNIST = "InfiMNIST-like"


class Reported(NamedTuple):
    """A row of Table 1: the types trained on, and the paper's errors in percent (mean, std; adversarial mean)."""

    types: tuple[str, ...]
    clean: float
    clean_std: float
    adversarial: float


ROWS = {
    "HC-D-9-1.05": Reported(tuple(f"HC-{k}x1.05" for k in _RANKS), 0.673, 0.035, 14.85),
    "HC-D-9": Reported(tuple(f"HC-{k}" for k in _RANKS), 0.683, 0.057, 21.10),
    INFIMNIST: Reported((), 0.697, 0.021, 48.35),
    "FGV": Reported(("FGV",), 0.697, 0.031, 29.61),
    "HC-D-5": Reported(tuple(f"HC-{k}" for k in range(1, 6)), 0.723, 0.047, 21.52),
    "HC-S-5": Reported(tuple(f"HC-S-{k}" for k in range(1, 6)), 0.733, 0.032, 29.29),
    "FGS": Reported(("FGS",), 0.790, 0.122, 31.06),
    BASIC: Reported((), 0.937, 0.110, 64.21),
}

FIGURE4 = {
    "FGS": ROWS["FGS"].types,
    "FGV": ROWS["FGV"].types,
    "HC-D-1": ("HC-1",),
    "HC-S-1": ("HC-S-1",),
    "HC-D-5": ROWS["HC-D-5"].types,
    "HC-S-5": ROWS["HC-S-5"].types,
    "HC-D-9": ROWS["HC-D-9"].types,
    "HC-S-9": tuple(f"HC-S-{k}" for k in _RANKS),
    "HC-D-9-1.05": ROWS["HC-D-9-1.05"].types,
    "HC-D-9-1.10": tuple(f"HC-{k}x1.10" for k in _RANKS),
}
# Those that most rows of Table 1 need anyway.
_SOME_OF_FIGURE4 = "FGS,FGV,HC-D-1,HC-S-1,HC-D-5,HC-D-9,HC-D-9-1.05"

# The rows whose networks are tuned on adversarial images.
_TUNED = tuple(row for row in ROWS if row not in (BASIC, INFIMNIST))

# Fig. 6, "trained using generated hard positives with different ranges of PASS": the adversarial images of HC-D-9.
BAND_TYPES = ROWS["HC-D-9"].types
Band = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run. The defaults are the preset `paper`."""

    data: Literal["mnist", "digits"] = setting("mnist", "digits are scikit-learn's (not MNIST, and never called so).")
    bases: int = setting(3, "base networks, each of its own initial weights and order.")
    orders: int = setting(3, "fine-tuned networks for each base, each of its own order of the data.")
    batch_size: int = setting(64, "images a step.")
    base: str = setting(
        "", "file of LeNet's weights, kept as its SHA-256: they are the base network's, and none is trained."
    )
    base_iterations: int = setting(10_000, "steps of a base network.")
    finetune_iterations: int = setting(20_000, "steps of fine-tuning, with a fresh solver.")
    rows: tuple[str, ...] = setting(tuple(ROWS), "the rows of Table 1 to compute.", among=ROWS)
    figure4: tuple[str, ...] = setting(tuple(FIGURE4), "the sets of types in Fig. 4.", among=FIGURE4)
    unmixed_rows: tuple[str, ...] = setting(
        ("HC-D-9-1.05", "FGV"), "those computed once more with `mix_clean` reversed.", among=_TUNED
    )
    mix_clean: bool = setting(True, "fine-tune on all clean training images too, or on adversarial ones alone.")
    train_sources: int = setting(40_000, "training images whose perturbations may be trained on.")
    heldout_sources: int = setting(20_000, "others, whose perturbations are held out.")
    heldout_source: Literal["train", "test"] = setting("train", "the split that those others come from.")
    heldout_per_type: int = setting(5_000, "held-out images of each of the 14 types, in equal parts from each base.")
    cap_per_type: int = setting(37_663, "training images of a type and base, at most (the paper's FGV images).")
    bands: tuple[float, ...] = setting((0.0, 0.7, 0.8, 0.9, 1.0), "edges of Fig. 6's bands of PASS; none: no Fig. 6.")
    band_minimum: int = setting(500, "a band with fewer images of some base is left out.")
    band_iterations: int = setting(20_000, "steps of fine-tuning for a band.")
    infimnist_images: int = setting(1_000_000, "images of the InfiMNIST-like set.")
    infimnist_iterations: int = setting(30_000, "steps of its networks, which start anew.")
    infimnist_share: float = setting(0.022, "share of it that base network 0 gets wrong, which sets its amplitude.")
    pass_per_type: int = setting(37_663, "images of a type and base scored by PASS, at most (and open to the bands).")
    same_per_type: int = setting(300, "so many of them have one with SSIM's 'same' padding too.")
    attack_batch: int = setting(4_000, "images attacked at once.")
    score_batch: int = setting(4_000, "pairs scored at once.")
    block: int = setting(500, "training steps in one call.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(low >= high for low, high in self.pass_bands):
            raise ValueError(f"bands must be rising edges, got {self.bands}")
        if self.base and self.bases > 1:
            raise ValueError(f"base is one network: bases must be 1, got {self.bases}")

    @property
    def networks(self) -> int:
        """Fine-tuned networks a row."""
        return self.bases * self.orders

    @property
    def pass_bands(self) -> list[Band]:
        """The bands of Fig. 6, the lowest first."""
        return list(zip(self.bands, self.bands[1:], strict=False))

    @property
    def _trained_on(self) -> list[tuple[str, ...]]:
        return [ROWS[row].types for row in (*self.rows, *self.unmixed_rows)]

    @property
    def training_types(self) -> tuple[str, ...]:
        """The types attacked on training sources: those trained on, and those of the figures."""
        shown = [FIGURE4[name] for name in self.figure4]
        needed = {*_FIGURE_TYPES, *(kind for types in (*self._trained_on, *shown) for kind in types)}
        return tuple(kind for kind in ATTACKS if kind in needed)

    @property
    def attacked(self) -> list[tuple[str, int, str]]:
        """All attacks of the run: "train" or "heldout", number of the base network, type."""
        both = (("train", self.training_types), ("heldout", HELD_OUT_TYPES))
        return [(split, base, kind) for base in range(self.bases) for split, kinds in both for kind in kinds]

    def heldout_share(self, base: int) -> int:
        """How many of a type's held-out images base network `base` contributes."""
        return self.heldout_per_type // self.bases + (base < self.heldout_per_type % self.bases)

    def pool_size(self, train_images: int) -> int:
        """Room for the largest training set of the run, so that all are trained on by one compiled program."""
        sets = [*self._trained_on, *([BAND_TYPES] if self.bands else [])]
        types = max(map(len, sets), default=0)
        adversarial = self.bases * types * min(self.cap_per_type, self.train_sources)
        infimnist = self.infimnist_images if INFIMNIST in self.rows else 0
        return max(train_images + adversarial, infimnist)


PRESETS = presets(
    Config,
    {
        "quick": f"""
            data=digits bases=2 orders=1 base_iterations=400 finetune_iterations=300
            rows='HC-D-9-1.05,FGV,FGS,Basic LeNet' unmixed_rows= figure4={_SOME_OF_FIGURE4}
            train_sources=400 heldout_sources=400 heldout_per_type=200
            band_minimum=100 band_iterations=150 attack_batch=200 score_batch=200 block=50
        """,
        "cpu": f"""
            bases=1 orders=1
            rows='HC-D-9-1.05,HC-D-9,InfiMNIST-like,FGV,HC-D-5,FGS,Basic LeNet' unmixed_rows=FGV
            figure4={_SOME_OF_FIGURE4} train_sources=10_000 heldout_sources=5_000 heldout_per_type=2_000
            band_iterations=10_000 infimnist_images=200_000 attack_batch=500 score_batch=500 block=250
        """,
        "cpu3": """
            orders=1 train_sources=20_000 heldout_sources=6_000 unmixed_rows= bands=
            attack_batch=500 score_batch=500 block=250
        """,
        "figures": """
            bases=1 orders=1 rows='Basic LeNet' unmixed_rows= bands= train_sources=5_000
            heldout_source=test heldout_sources=410 heldout_per_type=400 attack_batch=500 score_batch=500 block=250
        """,
        "paper": "",
    },
)
