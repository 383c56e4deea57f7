"""Attacks: what to climb, which way, how far, within what; see "The algebra" in the README."""

from advjax.attacks.apgd import apgd
from advjax.attacks.attack import BestOf, Failure, Finish, Move, RandomStart, Repeat, Stack, stack
from advjax.attacks.constraints import All, Box, L1Ball, L2Ball, LinfBall, Quantize, ball
from advjax.attacks.criteria import Criterion, Misclassified, TargetReached, criterion_of
from advjax.attacks.directions import L1, L2, Chain, Inside, Masked, Sign, Tangent, Value
from advjax.attacks.faults import Fault, image_faults
from advjax.attacks.iterative import localized_pgd, pgd, targeted
from advjax.attacks.lbfgs import lbfgs
from advjax.attacks.named import fgs, fgv, hard_positive, hot_cold, hot_cold_sign, steepest
from advjax.attacks.objectives import CrossEntropy, HotCold, Margin, Targeted, TargetedDLR
from advjax.attacks.perceptual import PassAtLeast
from advjax.attacks.perturb import perturb
from advjax.attacks.perturbation import Perturbation
from advjax.attacks.regions import Background, Broad, Exact, Pixels, Standard, Within, named_region
from advjax.attacks.searches import Boundary, Fixed
from advjax.attacks.square import square

__all__ = [
    "perturb", "Perturbation", "Failure", "Fault", "image_faults",
    "fgs", "fgv", "hot_cold", "hot_cold_sign", "hard_positive", "steepest",
    "pgd", "localized_pgd", "targeted", "apgd", "square", "lbfgs",
    "Move", "Repeat", "RandomStart", "BestOf", "Finish", "Stack", "stack",
    "CrossEntropy", "Margin", "Targeted", "TargetedDLR", "HotCold",
    "Criterion", "Misclassified", "TargetReached", "criterion_of",
    "Sign", "Value", "L2", "L1", "Masked", "Inside", "Tangent", "Chain",
    "Fixed", "Boundary",
    "Box", "LinfBall", "L2Ball", "L1Ball", "ball", "Within", "Quantize", "All", "PassAtLeast",
    "Standard", "Background", "Exact", "Broad", "Pixels", "named_region",
]  # fmt: skip
