"""What a run is: every choice the paper leaves open is a field here, and is written beside the results."""

import dataclasses

from experiments.hard_positives.paper import BAND_TYPES, BASIC, INFIMNIST, ROWS

__all__ = ["Config", "PRESETS"]


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The defaults are the preset `paper`.

    Attributes:
        preset: the name it started from.
        data: "mnist" or "digits" (scikit-learn's; not MNIST, and never called so).
        seed: decides every draw of the run.
        bases: base networks, each of its own initial weights and order.
        orders: fine-tuned networks for each base, each of its own order of the data.
        batch_size: images a step.
        base_iterations: steps of a base network.
        finetune_iterations: steps of fine-tuning, with a fresh solver.
        rows: the rows of Table 1 to compute.
        unmixed_rows: those to compute once more with `mix_clean` reversed.
        mix_clean: fine-tune on adversarial and all clean training images in one pool, or on the former alone.
        train_sources: training images whose perturbations may be trained on.
        heldout_sources: others, whose perturbations are held out.
        heldout_source: whether those others come from the "train" or the "test" split.
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
    data: str = "mnist"
    seed: int = 0
    bases: int = 3
    orders: int = 3
    batch_size: int = 64
    base_iterations: int = 10_000
    finetune_iterations: int = 20_000
    rows: tuple[str, ...] = tuple(ROWS)
    unmixed_rows: tuple[str, ...] = ("HC-D-9-1.05", "FGV")
    mix_clean: bool = True
    train_sources: int = 40_000
    heldout_sources: int = 20_000
    heldout_source: str = "train"
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
        known = [row for row in ROWS if row not in (BASIC, INFIMNIST)]
        for name in ("rows", "unmixed_rows"):
            wrong = [row for row in getattr(self, name) if row not in (ROWS if name == "rows" else known)]
            if wrong:
                raise ValueError(f"{name} must be among {tuple(known)}, got {wrong}")
        if self.heldout_source not in ("train", "test"):
            raise ValueError(f'heldout_source must be "train" or "test", got {self.heldout_source!r}')
        if any(low >= high for low, high in zip(self.bands, self.bands[1:], strict=False)):
            raise ValueError(f"bands must be rising edges, got {self.bands}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and field.name != "seed" and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}")

    @property
    def networks(self) -> int:
        """Fine-tuned networks a row."""
        return self.bases * self.orders

    def heldout_share(self, base: int) -> int:
        """How many of a type's held-out images base network `base` contributes."""
        return self.heldout_per_type // self.bases + (base < self.heldout_per_type % self.bases)

    def pool_size(self, train_images: int) -> int:
        """Room for the largest training set of the run, so that all are trained on by one compiled program."""
        sets = [ROWS[row].types for row in (*self.rows, *self.unmixed_rows)] + ([BAND_TYPES] if self.bands else [])
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
    "paper": Config(preset="paper"),
}
