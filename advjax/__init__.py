"""advjax: an image goes in, a certified perturbation of it comes out, is scored as a person would score it."""

from advjax.attacks import (
    Failure,
    Perturbation,
    apgd,
    fgs,
    fgv,
    hard_positive,
    hot_cold,
    hot_cold_sign,
    lbfgs,
    localized_pgd,
    perturb,
    pgd,
    square,
    stack,
    steepest,
    targeted,
)
from advjax.classifier import Classifier, from_function, from_linen, from_nnx

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Failure",
    "Perturbation",
    "apgd",
    "fgs",
    "fgv",
    "from_function",
    "from_linen",
    "from_nnx",
    "hard_positive",
    "hot_cold",
    "hot_cold_sign",
    "lbfgs",
    "localized_pgd",
    "perturb",
    "pgd",
    "square",
    "stack",
    "steepest",
    "targeted",
]
