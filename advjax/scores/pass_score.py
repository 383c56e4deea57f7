"""PASS: the perceptual similarity of a perturbed image once it is aligned with the original."""

import dataclasses
from functools import partial
from typing import Literal

import jax

from advjax.scores.ecc import Alignment, ecc_align
from advjax.scores.ssim import ssim
from advjax.scores.warp import Motion

__all__ = ["PassScore", "pass_score"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PassScore:
    score: jax.Array
    ssim: jax.Array
    alignment: Alignment
    padding: str = dataclasses.field(metadata={"static": True})


def pass_score(
    perturbed,
    original,
    *,
    padding: Literal["valid", "same"] = "valid",
    motion: Motion = "homography",
    iterations: int = 100,
    tolerance: float = 1e-6,
    levels: int = 1,
) -> PassScore:
    alignment = ecc_align(perturbed, original, motion, iterations=iterations, tolerance=tolerance, levels=levels)
    return PassScore(
        ssim(alignment.image, original, padding=padding), ssim(perturbed, original, padding=padding), alignment, padding
    )
