"""Attacks: what to climb, which way, how far, within what.

An `Attack` is a pair of pure functions on one image.  A `Move` is made of an `Objective` to climb, a `Direction` from
its gradient to a ray, a `Search` along the ray, a `Constraint` that every image on it is put under, and a `Criterion`
of success; the others are put around attacks.  `perturb` runs any of them on a batch.
"""

from advjax.attacks.added import Added, added
from advjax.attacks.apgd import apgd
from advjax.attacks.attack import (
    Around,
    Asks,
    Attack,
    BestOf,
    Failure,
    Finish,
    Move,
    Problem,
    RandomStart,
    Repeat,
    Stack,
    State,
    criterion_of,
    made_finite,
    stack,
)
from advjax.attacks.auto_attack import AutoAttack, auto_attack
from advjax.attacks.boundary import BoundaryAttack, boundary_attack
from advjax.attacks.carlini_wagner import carlini_wagner
from advjax.attacks.constraints import All, Ball, Box, Constraint, L1Ball, L2Ball, LinfBall, Quantize, ball
from advjax.attacks.criteria import Criterion, Misclassified, TargetReached
from advjax.attacks.ddn import ddn
from advjax.attacks.deepfool import DeepFool, deepfool
from advjax.attacks.directions import L1, L2, Chain, Direction, Inside, Masked, Sign, Tangent, Value
from advjax.attacks.divergence import Divergence, NormalStart
from advjax.attacks.ead import ead
from advjax.attacks.estimates import Estimated, estimated, straight_through
from advjax.attacks.fab import Boundaries, fab
from advjax.attacks.faults import Fault, image_faults
from advjax.attacks.fmn import fmn
from advjax.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from advjax.attacks.iterative import localized_pgd, pgd, targeted
from advjax.attacks.jsma import JSMA, jsma
from advjax.attacks.lbfgs import lbfgs
from advjax.attacks.momentum import Momentum, Smoothed, VarianceTuned
from advjax.attacks.named import fgs, fgv, hard_positive, hot_cold, hot_cold_sign, steepest
from advjax.attacks.objectives import DLR, CrossEntropy, HotCold, Margin, Objective, Targeted, TargetedDLR
from advjax.attacks.one_pixel import OnePixel, one_pixel
from advjax.attacks.part import Mask, Number, Part
from advjax.attacks.patch import Pasted, UniversalPatch, pasted, patch_masks, universal_patch
from advjax.attacks.perceptual import PassAtLeast, pass_bounded
from advjax.attacks.perturb import perturb
from advjax.attacks.perturbation import Perturbation
from advjax.attacks.random_sign import RandomSign, random_sign
from advjax.attacks.regions import Background, Broad, Exact, Pixels, Region, Standard, Within, named_region
from advjax.attacks.searches import Boundary, Fixed, Found, Search
from advjax.attacks.spatial import SpatialDescent, SpatialSearch, homography, spatial
from advjax.attacks.square import square
from advjax.attacks.transfer import di_fgsm, mi_fgsm, ni_fgsm, si_fgsm, ti_fgsm, vmi_fgsm
from advjax.attacks.universal import UniversalPerturbation, universal_perturbation
from advjax.attacks.views import Diverse, Expectation, Scaled, Seeing, View, expectation_over

__all__ = [
    "perturb", "Perturbation", "Failure", "Fault", "image_faults",
    "fgs", "fgv", "hot_cold", "hot_cold_sign", "hard_positive", "steepest",
    "pgd", "localized_pgd", "targeted", "apgd", "square", "lbfgs", "deepfool", "fab", "auto_attack",
    "ddn", "fmn", "carlini_wagner", "ead", "random_sign",
    "mi_fgsm", "ni_fgsm", "di_fgsm", "si_fgsm", "ti_fgsm", "vmi_fgsm",
    "expectation_over", "estimated", "straight_through",
    "boundary_attack", "hop_skip_jump", "spatial", "homography", "jsma", "one_pixel", "pasted", "pass_bounded",
    "added", "universal_perturbation", "UniversalPerturbation", "universal_patch", "UniversalPatch", "patch_masks",
    "Part", "Number", "Mask", "made_finite",
    "Attack", "Asks", "Problem", "State", "Move", "Around", "Repeat", "RandomStart", "BestOf", "Finish", "RandomSign",
    "Added", "DeepFool", "BoundaryAttack", "HopSkipJump", "SpatialSearch", "SpatialDescent", "JSMA", "OnePixel",
    "Pasted", "Boundaries", "AutoAttack",
    "Stack", "stack",
    "View", "Seeing", "Expectation", "Estimated", "Diverse", "Scaled",
    "Objective", "CrossEntropy", "Margin", "Targeted", "TargetedDLR", "DLR", "HotCold",
    "Criterion", "Misclassified", "TargetReached", "criterion_of",
    "Direction", "Sign", "Value", "L2", "L1", "Masked", "Inside", "Tangent", "Chain",
    "Momentum", "Smoothed", "VarianceTuned",
    "Search", "Found", "Fixed", "Boundary",
    "Constraint", "Box", "Ball", "LinfBall", "L2Ball", "L1Ball", "ball", "Within", "Quantize", "All", "PassAtLeast",
    "Region", "Standard", "Background", "Exact", "Broad", "Pixels", "named_region",
    "NormalStart", "Divergence",
]  # fmt: skip
