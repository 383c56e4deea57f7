"""What a run is: the types of adversarial images, the rows of Table 1, and every choice the paper leaves open."""

import dataclasses
from typing import Any, Literal, NamedTuple

from advjax.attacks import fgs, fgv, hard_positive, hot_cold, hot_cold_sign
from experiments.config import check_fields

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
_SOME_OF_FIGURE4 = ("FGS", "FGV", "HC-D-1", "HC-S-1", "HC-D-5", "HC-D-9", "HC-D-9-1.05")

# Fig. 6, "trained using generated hard positives with different ranges of PASS": the adversarial images of HC-D-9.
BAND_TYPES = ROWS["HC-D-9"].types
Band = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The defaults are the preset `paper`.

    Attributes:
        preset: the name it started from.
        data: digits are scikit-learn's (not MNIST, and never called so).
        seed: decides every draw of the run.
        bases: base networks, each of its own initial weights and order.
        orders: fine-tuned networks for each base, each of its own order of the data.
        batch_size: images a step.
        base_iterations: steps of a base network.
        finetune_iterations: steps of fine-tuning, with a fresh solver.
        rows: the rows of Table 1 to compute.
        figure4: the sets of types that Fig. 4 shows.
        unmixed_rows: those to compute once more with `mix_clean` reversed.
        mix_clean: fine-tune on adversarial and all clean training images in one pool, or on the former alone.
        train_sources: training images whose perturbations may be trained on.
        heldout_sources: others, whose perturbations are held out.
        heldout_source: the split that those others come from.
        heldout_per_type: held-out images of each of the 14 types, in equal parts from each base.
        cap_per_type: at most so many training images of a type from a base (the paper's count of FGV images).
        bands: edges of Fig. 6's bands of PASS; no edges, no Fig. 6.
        band_minimum: a band with fewer images of some base is left out.
        band_iterations: steps of fine-tuning for a band.
        infimnist_images: images of the InfiMNIST-like set.
        infimnist_iterations: steps of its networks, which start anew.
        infimnist_share: share of it that base network 0 gets wrong, which sets its amplitude.
        pass_per_type: at most so many images of a type and base are scored by PASS (and open to the bands).
        same_per_type: so many of them also with the "same" padding of SSIM.
        attack_batch: images attacked at once.
        score_batch: pairs scored at once.
        block: training steps in one call.
    """

    preset: str
    data: Literal["mnist", "digits"] = "mnist"
    seed: int = 0
    bases: int = 3
    orders: int = 3
    batch_size: int = 64
    base_iterations: int = 10_000
    finetune_iterations: int = 20_000
    rows: tuple[str, ...] = tuple(ROWS)
    figure4: tuple[str, ...] = tuple(FIGURE4)
    unmixed_rows: tuple[str, ...] = ("HC-D-9-1.05", "FGV")
    mix_clean: bool = True
    train_sources: int = 40_000
    heldout_sources: int = 20_000
    heldout_source: Literal["train", "test"] = "train"
    heldout_per_type: int = 5_000
    cap_per_type: int = 37_663
    bands: tuple[float, ...] = (0.0, 0.7, 0.8, 0.9, 1.0)
    band_minimum: int = 500
    band_iterations: int = 20_000
    infimnist_images: int = 1_000_000
    infimnist_iterations: int = 30_000
    infimnist_share: float = 0.022
    pass_per_type: int = 37_663
    same_per_type: int = 300
    attack_batch: int = 4_000
    score_batch: int = 4_000
    block: int = 500

    def __post_init__(self) -> None:
        check_fields(self, {"seed": 0})
        tuned = tuple(row for row in ROWS if row not in (BASIC, INFIMNIST))
        for name, known in (("rows", tuple(ROWS)), ("unmixed_rows", tuned), ("figure4", tuple(FIGURE4))):
            if wrong := [row for row in getattr(self, name) if row not in known]:
                raise ValueError(f"{name} must be among {known}, got {wrong}")
        if any(low >= high for low, high in self.pass_bands):
            raise ValueError(f"bands must be rising edges, got {self.bands}")

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


PRESETS = {
    "quick": Config(
        preset="quick",
        data="digits",
        bases=2,
        orders=1,
        base_iterations=400,
        finetune_iterations=300,
        rows=("HC-D-9-1.05", "FGV", "FGS", BASIC),
        figure4=_SOME_OF_FIGURE4,
        unmixed_rows=(),
        train_sources=400,
        heldout_sources=400,
        heldout_per_type=200,
        band_minimum=100,
        band_iterations=150,
        attack_batch=200,
        score_batch=200,
        block=50,
    ),
    "cpu": Config(
        preset="cpu",
        bases=1,
        orders=1,
        rows=tuple(row for row in ROWS if row != "HC-S-5"),
        figure4=_SOME_OF_FIGURE4,
        unmixed_rows=("FGV",),
        train_sources=10_000,
        heldout_sources=5_000,
        heldout_per_type=2_000,
        band_iterations=10_000,
        infimnist_images=200_000,
        attack_batch=500,
        score_batch=500,
        block=250,
    ),
    "cpu3": Config(
        preset="cpu3",
        orders=1,
        train_sources=20_000,
        heldout_sources=6_000,
        band_iterations=10_000,
        attack_batch=500,
        score_batch=500,
        block=250,
    ),
    "paper": Config(preset="paper"),
}
