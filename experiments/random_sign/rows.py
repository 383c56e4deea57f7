"""The rows of Tables 1 to 5 of Di et al.: their networks, how each is trained, and what the paper measured."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from experiments.random_sign.recipes import RECIPES

__all__ = ["DISTURBED", "KINDS", "NOT_BUILT", "ROWS", "PaperRow", "listed"]

Kind = Literal["base", "FGSM", "R"]
KINDS: tuple[Kind, ...] = ("base", "FGSM", "R")


class PaperRow(NamedTuple):
    """One row.

    Attributes:
        recipe: of its base network.
        kind: trained as the base network is, with FGSM images, or with random signs.
        tables: where it stands; "none" for ours.
        error: its top-1 error in percent; None: not in the paper.
        deviation: what stands behind its error's +-; None: nothing.
    """

    recipe: str
    kind: Kind
    tables: str
    error: float | None
    deviation: float | None = None


# By recipe: tables; the errors of base, FGSM- and R- (None: no such row), and R's deviation.
_ERRORS: dict[str, tuple[str, tuple[float | None, float | None, float | None], float | None]] = {
    "mnist/LeNet": ("4", (0.50, 0.60, 0.28), None),
    "mnist/CapsNet": ("4", (0.35, 0.51, 0.30), None),
    "svhn/S-ResNet": ("4", (1.75, 1.90, 1.70), None),
    "svhn/W-ResNet": ("4", (1.54, 1.71, 1.49), None),
    "cifar10/ResNet-20": ("none", (None, None, None), None),
    "cifar10/W-ResNet": ("5", (3.1, 4.2, 2.7), None),
    "cifar100/InceptionV3": ("5", (22.69, 23.41, 21.80), None),
    "cifar100/W-ResNet": ("5", (17.73, 18.61, 17.18), None),
    "imagenet/CondenseNet(8)": ("1, 3", (29.0, 30.8, 28.6), 0.05),
    "imagenet/CondenseNet(4)": ("1, 3", (26.2, 27.9, 25.8), 0.04),
    "imagenet/NASNet-A": ("2", (17.3, 19.4, 17.0), 0.03),
}
# Rows of networks that stand beside the others: base alone.
_ALONE = {
    "imagenet/SENet": ("2", 17.3),
    "imagenet/Inception V1": ("3", 30.2),
    "imagenet/MobileNet": ("3", 29.4),
    "imagenet/ShuffleNet": ("3", 29.1),
}


def _name(recipe: str, kind: Kind) -> str:
    data, network = recipe.split("/")
    return recipe if kind == "base" else f"{data}/{kind}-{network}"


ROWS: Mapping[str, PaperRow] = MappingProxyType(
    {
        **{
            _name(recipe, kind): PaperRow(recipe, kind, tables, error, deviation if kind == "R" else None)
            for recipe, (tables, errors, deviation) in _ERRORS.items()
            for kind, error in zip(KINDS, errors, strict=True)
        },
        **{recipe: PaperRow(recipe, "base", tables, error) for recipe, (tables, error) in _ALONE.items()},
    }
)

# Table 1, accuracies in percent under a random crop, flip, gray scale, color jitter and one of five crops.
DISTURBED: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "imagenet/FGSM-CondenseNet(8)": (68.27, 69.42, 68.03, 69.21, 58.17),
        "imagenet/CondenseNet(8)": (70.04, 71.00, 69.79, 71.05, 60.03),
        "imagenet/R-CondenseNet(8)": (70.38, 71.29, 70.06, 71.25, 60.45),
        "imagenet/FGSM-CondenseNet(4)": (70.34, 71.48, 70.72, 71.39, 60.04),
        "imagenet/CondenseNet(4)": (72.92, 73.78, 72.74, 73.76, 62.52),
        "imagenet/R-CondenseNet(4)": (73.34, 74.12, 73.05, 74.07, 63.26),
    }
)

# Of Table 3, with the errors there: their cells are not built.
NOT_BUILT: Mapping[str, float] = MappingProxyType({"imagenet/NASNet-B": 27.2, "imagenet/NASNet-C": 27.5})


def listed() -> list[str]:
    """A line for each row: its table and error, its schedule, what a run needs.

    >>> listed()[0]
    'mnist/LeNet (Table 4: 0.5 %): 50 epochs of batch 128; MNIST; two CPU cores, ...'
    """
    lines = []
    for name, row in ROWS.items():
        recipe = RECIPES[row.recipe]
        told = "not in the paper" if row.error is None else f"Table {row.tables}: {row.error:g} %"
        lines.append(f"{name} ({told}): {recipe.epochs} epochs of batch {recipe.batch_size}; {recipe.time}")
    return [*lines, *(f"{name} (Table 3: {error:g} %): not built" for name, error in NOT_BUILT.items())]
