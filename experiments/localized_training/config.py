"""What a run is: every choice the paper leaves open is a field here, and is written beside the results."""

import dataclasses
from typing import Any, Literal

from advjax.attacks import localized_pgd
from advjax.attacks.regions import Background, Broad, Exact, Standard

__all__ = ["ADVERSARIAL", "INPUTS", "MODELS", "PRESETS", "STRONG", "Config", "attack", "region"]

ADVERSARIAL = ("standard", "background", "exact", "broad")
INPUTS = ("natural", *ADVERSARIAL)
MODELS = ("natural", *ADVERSARIAL)
STRONG = ("pgd", "apgd-ce", "apgd-dlr", "square")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The defaults are the preset `paper`.

    Attributes:
        preset: the name it started from.
        data: "mnist" or "digits" (scikit-learn's; not MNIST, and never called so).
        seed: decides every draw of the run.
        held_back: training images, the first, that are not trained on; TensorFlow's reader kept 5,000 for validation.
        batch_size: images a step.
        learning_rate: of Adam, on the sum of the cross-entropies of a batch.
        natural_steps, adversarial_steps: training steps of the natural model, and of each of the four others.
        epsilon: of every attack, in linf.
        train_attack_steps, train_step_size: of PGD in training (paper: 100 steps; their size is Madry's).
        attack_steps, step_size: of PGD in the evaluation.
        localize: "after" PGD, as Algorithm 1 is written, or "inside" each step of it.
        threshold: a pixel above it belongs to the digit (the paper does not say).
        neighbours: of a digit's pixel that the broad mask protects: 8, or 4 (the paper: "directly adjacent").
        test_images: so many test images are attacked, the first; all of them are asked as they are.
        strong_models: the models that APGD and Square are run on too, which the paper does not do.
        strong_images: so many test images for these, the first.
        apgd_steps: of each run of APGD.
        square_queries: of Square, for each image.
        attack_batch: images attacked at once.
        block: training steps in one call.
        checkpoint_every: training steps between two checkpoints.
    """

    preset: str
    data: Literal["mnist", "digits"] = "mnist"
    seed: int = 0
    held_back: int = 5_000
    batch_size: int = 50
    learning_rate: float = 1e-4
    natural_steps: int = 100_000
    adversarial_steps: int = 100_000
    epsilon: float = 0.3
    train_attack_steps: int = 100
    train_step_size: float = 0.01
    attack_steps: int = 100
    step_size: float = 0.01
    localize: Literal["after", "inside"] = "after"
    threshold: float = 0.0
    neighbours: Literal[4, 8] = 8
    test_images: int = 10_000
    strong_models: tuple[str, ...] = MODELS
    strong_images: int = 1_000
    apgd_steps: int = 100
    square_queries: int = 5_000
    attack_batch: int = 1_000
    block: int = 250
    checkpoint_every: int = 2_500

    def __post_init__(self) -> None:
        for name, allowed in [("data", ("mnist", "digits")), ("localize", ("after", "inside")), ("neighbours", (4, 8))]:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if set(self.strong_models) - set(MODELS):
            raise ValueError(f"strong_models must be among {MODELS}, got {self.strong_models}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must be in (0, 1], got {self.epsilon}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and field.name not in ("seed", "held_back") and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}")
        if self.checkpoint_every % self.block:
            raise ValueError(f"checkpoint_every must be a multiple of block={self.block}, got {self.checkpoint_every}")
        if self.held_back < 0:
            raise ValueError(f"held_back must be at least 0, got {self.held_back}")

    def steps(self, model: str) -> int:
        """Training steps of a model."""
        return self.natural_steps if model == "natural" else self.adversarial_steps


PRESETS = {
    "quick": Config(
        preset="quick",
        data="digits",
        held_back=97,
        natural_steps=240,
        adversarial_steps=240,
        train_attack_steps=3,
        train_step_size=0.25,
        attack_steps=20,
        step_size=0.03,
        test_images=100,
        strong_models=("natural", "standard"),
        strong_images=50,
        apgd_steps=20,
        square_queries=200,
        attack_batch=100,
        block=40,
        checkpoint_every=120,
    ),
    "cpu": Config(
        preset="cpu",
        natural_steps=6_000,
        adversarial_steps=2_500,
        train_attack_steps=5,
        train_step_size=0.15,
        test_images=250,
        strong_models=("natural", "standard"),
        strong_images=200,
        apgd_steps=50,
        square_queries=1_000,
        attack_batch=250,
        block=50,
        checkpoint_every=500,
    ),
    "paper": Config(preset="paper"),
}


def region(config: Config, name: str) -> Any:
    """Which pixels an attack of the paper may change."""
    broad = Broad(threshold=config.threshold, neighbors=config.neighbours)
    regions = {"standard": Standard(), "background": Background(), "exact": Exact(config.threshold), "broad": broad}
    return regions[name]


def attack(config: Config, name: str, *, training: bool = False) -> Any:
    """An attack of the paper, as the evaluation or the training uses it. Images are not rounded to 8 bits."""
    steps = config.train_attack_steps if training else config.attack_steps
    step_size = config.train_step_size if training else config.step_size
    return localized_pgd(
        region(config, name), config.epsilon, step_size=step_size, steps=steps, localize=config.localize, levels=None
    )
