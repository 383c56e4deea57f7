"""What a run is: its rows, its networks, and every choice that the paper leaves open."""

import dataclasses
from typing import Literal

from experiments.config import Settings, presets, setting
from experiments.random_sign.recipes import RECIPES
from experiments.random_sign.rows import ROWS

__all__ = ["PLACES", "PRESETS", "Config"]

PLACES = ("input", "hidden", "both")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run. The defaults are the preset `paper`, as far as the paper says anything."""

    data: Literal["paper", "digits"] = setting("paper", "digits are scikit-learn's, in place of MNIST (not MNIST).")
    rows: tuple[str, ...] = setting(tuple(ROWS), "of Tables 1 to 5; a FGSM- or R- row wants its base.", among=ROWS)
    seeds: int = setting(5, "networks a row, each of its own weights and order, the same in all rows of a network.")
    epochs: int = setting(0, "of every network; 0: its recipe's.", least=0)
    steps: int = setting(0, "so many on random images, and nothing is judged: does the row run at all? 0: no.", least=0)
    batch_size: int = setting(0, "images a step; 0: the recipe's.", least=0)
    where: tuple[str, ...] = setting(("both",), "the places of the random signs, one network each.", among=PLACES)
    epsilon: float = setting(0.1, "of the random signs.")
    p: float = setting(0.5, "probability of the sign of x (the paper's).")
    per: Literal["element", "example", "batch"] = setting("element", "what has a draw of its own.")
    standardize: bool = setting(True, "LeNet subtracts the images' mean and divides by their deviation; or has pixels.")
    sweep: tuple[float, ...] = setting((0.01, 0.05, 0.1, 0.2), "epsilons tried on held-out training images; none: no.")
    sweep_networks: tuple[str, ...] = setting(("mnist/LeNet",), "for these networks.", among=RECIPES)
    sweep_seeds: int = setting(2, "networks for each epsilon and place.")
    heldout: int = setting(5_000, "training images that the sweep does not train on.")
    attacked_images: int = setting(1_000, "first test images, attacked (not in the paper).")
    square_queries: int = setting(1_000, "of the Square attack.")
    attack_batch: int = setting(250, "images attacked at once.")
    block: int = setting(250, "training steps in one call.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.where:
            raise ValueError("where must name at least one place, got none")
        if missing := {ROWS[row].recipe for row in self.rows} - set(self.rows):
            raise ValueError(f"rows must hold the base of each row, got none of {', '.join(sorted(missing))}")

    @property
    def networks(self) -> dict[str, tuple[str, str]]:
        """What is trained: by its name the row and, of random signs, the place."""
        found = {}
        for row in self.rows:
            for place in self.where if ROWS[row].kind == "R" else ("",):
                found[f"{row} {place}".strip()] = row, place
        return found

    @property
    def swept(self) -> dict[str, tuple[str, str, float]]:
        """The sweep: by its name the recipe, the place and the epsilon; 0 is the base network."""
        chosen = [recipe for recipe in self.sweep_networks if recipe in self.rows and self.sweep and not self.steps]
        pairs = [("", 0.0), *((place, epsilon) for place in self.where for epsilon in self.sweep)]
        return {
            f"{recipe} {place or 'base'} {epsilon:g}": (recipe, place, epsilon)
            for recipe in chosen
            for place, epsilon in pairs
        }


PRESETS = presets(
    Config,
    {
        "quick": """
            data=digits rows=mnist/LeNet,mnist/FGSM-LeNet,mnist/R-LeNet
            seeds=3 epochs=15 batch_size=32 where=input,hidden,both sweep=.1 heldout=300
            attacked_images=200 square_queries=200 block=20
        """,
        "cpu": "rows=mnist/LeNet,mnist/FGSM-LeNet,mnist/R-LeNet epochs=12 where=input,hidden,both",
        "cpu-pixels": """
            rows=mnist/LeNet,mnist/FGSM-LeNet,mnist/R-LeNet epochs=12 where=input,hidden,both standardize=false sweep=
        """,
        "cpu-capsules": """
            rows=mnist/CapsNet,mnist/FGSM-CapsNet,mnist/R-CapsNet seeds=1 epochs=2 sweep= attacked_images=200
        """,
        "cpu-cifar10": """
            rows=cifar10/ResNet-20,cifar10/FGSM-ResNet-20,cifar10/R-ResNet-20 seeds=2 epochs=10 sweep=
            attacked_images=500
        """,
        "steps": "steps=2 seeds=1 batch_size=2 where=both",
        "paper": "",
    },
)
