"""Attacks: what to climb, which way, how far, within what; see DESIGN in the README."""

from advjax.attacks.attack import BestOf, Failure, Finish, Move, RandomStart, Repeat, Stack, stack
from advjax.attacks.constraints import Both, Box, L1Ball, L2Ball, LinfBall, Quantise, Region, ball
from advjax.attacks.directions import L1, L2, Chain, Masked, Sign, Value
from advjax.attacks.named import fgs, fgv, hard_positive, hot_cold, hot_cold_sign, pgd
from advjax.attacks.objectives import CrossEntropy, HotCold, Margin, Targeted
from advjax.attacks.perceptual import PassAtLeast
from advjax.attacks.perturb import perturb
from advjax.attacks.perturbation import Perturbation
from advjax.attacks.searches import Boundary, Fixed

__all__ = [
    "perturb", "Perturbation", "Failure",
    "fgs", "fgv", "hot_cold", "hot_cold_sign", "hard_positive", "pgd",
    "Move", "Repeat", "RandomStart", "BestOf", "Finish", "Stack", "stack",
    "CrossEntropy", "Margin", "Targeted", "HotCold",
    "Sign", "Value", "L2", "L1", "Masked", "Chain",
    "Fixed", "Boundary",
    "Box", "LinfBall", "L2Ball", "L1Ball", "ball", "Region", "Quantise", "Both", "PassAtLeast",
]  # fmt: skip
