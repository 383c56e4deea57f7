"""What a run on ImageNet is: every choice is a field here, and is written beside the results."""

import dataclasses
from typing import Literal

from experiments.hard_positives.imagenet.network import NAMES

__all__ = ["PRESETS", "Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The defaults are the preset `paper`: section 5.3, and BVLC's quick_solver where the paper is silent.

    Attributes:
        preset: the name it started from.
        model: "resnet-small" or a name of `python -m advjax.models` whose images are 224x224 or larger.
        weights: SHA-256 of the checkpoint; "": random weights.
        images: name and digest of the training images.
        validation: those of the validation images; "": none, other crops of the attacked photographs instead.
        seed: decides every draw of the run.
        classes: so many classes of the images, drawn by the seed; 0: all.
        images_per_class: at most so many rightly classified images of a class are attacked.
        ranks: HC-1 ... HC-`ranks`.
        compared: so many of these images (up to whole batches) are attacked by FGS and FGV too, to compare.
        threshold: hard positives of a PASS above it are kept.
        base_steps: of training before all else, from random crops of the images; 0: none. Without weights and
            training there are no right answers, and the network's own ones stand in for the labels.
        base_batch: images a step of it.
        base_rate: learning rate of it (Adam).
        finetune_steps: steps of fine-tuning, a fresh solver.
        batch_size, learning_rate, momentum, weight_decay: of fine-tuning.
        aux_weight: of the losses of auxiliary heads, where the network has them.
        crops: random crops of each attacked photograph that stand in for validation images.
        attack_batch: images attacked at once, by all ranks.
        block: training steps in one call.
    """

    preset: str
    model: str = "googlenet"
    weights: str = ""
    images: str = ""
    validation: str = ""
    seed: int = 0
    classes: int = 0
    images_per_class: int = 15
    ranks: int = 20
    compared: int = 1_000
    threshold: float = 0.99
    base_steps: int = 0
    base_batch: int = 16
    base_rate: float = 1e-3
    finetune_steps: int = 500_000
    batch_size: int = 80
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 2e-4
    aux_weight: float = 0.3
    crops: int = 10
    attack_batch: int = 16
    block: int = 500

    def __post_init__(self) -> None:
        if self.model not in NAMES:
            raise ValueError(f"model must be one of {', '.join(NAMES)}, got {self.model!r}")
        least = {"seed": 0, "classes": 0, "base_steps": 0}
        for field in dataclasses.fields(self):
            value, minimum = getattr(self, field.name), least.get(field.name, 1)
            if type(value) is int and value < minimum:
                raise ValueError(f"{field.name} must be at least {minimum}, got {value}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {self.threshold}")
        if self.weights and self.base_steps:
            raise ValueError(f"base_steps must be 0 with weights from a file, got {self.base_steps}")

    @property
    def own_labels(self) -> bool:
        """Whether the network's own answers stand in for the labels: it has learnt none."""
        return not self.weights and not self.base_steps

    @property
    def cold(self) -> Literal["paper", "abs"]:
        """The cold value: eq. 7's -h_y, which heats the class if h_y < 0, as it often is where nothing was learnt."""
        return "abs" if self.own_labels else "paper"

    @property
    def headline(self) -> str:
        """`provenance`, as the beginning of a sentence."""
        return self.provenance[0].upper() + self.provenance[1:]

    @property
    def provenance(self) -> str:
        """Where the weights come from, in words that every table and figure carries."""
        if self.weights:
            return f"weights from a file (SHA-256 {self.weights[:12]}...)"
        if self.own_labels:
            return "random weights, never trained: not the paper's; the network's own answers stand in for the labels"
        return f"trained here for {self.base_steps:,} steps on these few photographs: not the paper's weights"


PRESETS = {
    "quick": Config(
        preset="quick",
        model="resnet-small",
        classes=24,
        base_steps=100,
        finetune_steps=60,
        batch_size=16,
        learning_rate=0.001,
        attack_batch=8,
        block=20,
    ),
    "paper": Config(preset="paper"),
}
