"""How far a perturbed image is from its original: norms, structural similarity, alignment, PASS."""

from advjax.scores.ecc import Alignment, ecc_align
from advjax.scores.masks import border_mask
from advjax.scores.norms import l0, l1, l2, l2_per_pixel, linf
from advjax.scores.pass_score import PassScore, pass_score, pass_scores
from advjax.scores.ssim import ssim
from advjax.scores.warp import warp_image

__all__ = [
    "Alignment",
    "PassScore",
    "border_mask",
    "ecc_align",
    "l0",
    "l1",
    "l2",
    "l2_per_pixel",
    "linf",
    "pass_score",
    "pass_scores",
    "ssim",
    "warp_image",
]
