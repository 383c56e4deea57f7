"""What PASS gets right beside OpenCV + scikit-image: tables of accuracy, recovered motions, parts and memory."""

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from advjax.scores import border_mask, ecc_align, pass_scores, ssim
from benchmarks.harness import timed
from benchmarks.pass_pairs import Pairs, photograph_pairs, turned_pictures, whole_pixel_shifts
from tests.reference import pass_opencv

__all__ = [
    "accuracy_table",
    "blocks_of",
    "constant_memory",
    "kernel_table",
    "known_motions",
    "scored",
    "shift_table",
    "turned_table",
]

Found = dict[str, np.ndarray]
# Of OpenCV, a pair: (PASS, warp, correlation), all None where it raises.
Rows = list[tuple[Any, Any, Any]]

_SHIFTS = ((1, 1), (2, 2), (0, 2))
# (border, margin) of the three that judge both sides' warps.
_REFEREES = ((cv2.BORDER_REPLICATE, 2), (cv2.BORDER_REPLICATE, 0), (cv2.BORDER_CONSTANT, 0))
_ACCURACY_HEAD = [
    "| pairs | OpenCV raises | ECC >= OpenCV's - 1e-3 | the same, mirrored ring too | the same, dark border "
    "| PASS >= OpenCV's - 0.01 | within 0.01 | PASS | OpenCV's PASS | SSIM unaligned | PASS < 0.9 "
    "| PASS below unaligned | NaN | iterations |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
]


def blocks_of(images: np.ndarray, originals: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs, `size` at a time."""
    return [(images[i : i + size], originals[i : i + size]) for i in range(0, len(images), size)]


def scored(images: np.ndarray, originals: np.ndarray, size: int) -> Found:
    """Our scores, warps and iterations of pairs [B, H, W], `size` at a time on two threads."""
    results = list(pass_scores(blocks_of(images[..., None], originals[..., None], size), workers=2))
    return {
        "score": np.concatenate([result.score for result in results]),
        "ssim": np.concatenate([result.ssim for result in results]),
        "warp": np.concatenate([result.alignment.warp for result in results]),
        "iterations": np.concatenate([result.alignment.iterations for result in results]),
    }


def accuracy_table(kinds: Pairs, ours: Found, theirs: Rows) -> list[str]:
    """Shares of the pairs, kind after kind, on which OpenCV finds a warp."""
    rows, start = [], 0
    for kind, pair in kinds.items():
        part = slice(start, start := start + len(pair[0]))
        rows.append(_accuracy(kind, *pair, {key: values[part] for key, values in ours.items()}, theirs[part]))
    if len(kinds) > 1:
        images, originals = (np.concatenate([pair[k] for pair in kinds.values()]) for k in range(2))
        rows.append(_accuracy("all", images, originals, ours, theirs))
    agreed = [k for k, row in enumerate(theirs) if row[0] is not None]
    side = next(iter(kinds.values()))[0].shape[1]
    apart = _distances(ours["warp"][agreed], [theirs[k][1] for k in agreed], side).mean(1)
    return [
        "Shares of the pairs on which OpenCV finds a warp. ECC of both warps by one referee, with OpenCV's blur and "
        "mask, the border repeated and, of both images, the two outermost rows and columns left out, which OpenCV's "
        "blur makes of mirrored pixels; once with these, as OpenCV itself counts; and once more with OpenCV's "
        "interpolation towards 0 at the border, which puts a dark rim on a bright picture and so prefers other warps "
        f"to the true one. The two warps differ by {np.median(apart):.3f} px at the corners (median).",
        "",
        *_ACCURACY_HEAD,
        *rows,
    ]


def _accuracy(kind: str, images: np.ndarray, originals: np.ndarray, ours: Found, theirs: Rows) -> str:
    """A row of shares; ECC of both warps by one referee, where OpenCV found one."""
    found = np.array([row[0] is not None for row in theirs])
    gain = np.array([s - row[0] for s, row in zip(ours["score"], theirs, strict=True) if row[0] is not None])
    better: dict[tuple[int, int], list[float]] = {referee: [] for referee in _REFEREES}
    for image, original, warp, row in zip(images, originals, ours["warp"], theirs, strict=True):
        if row[0] is not None:
            for referee, gains in better.items():
                judge = [pass_opencv.correlation(image, original, w, *referee) for w in (warp, row[1])]
                gains.append(judge[0] - judge[1])
    scores, unaligned = ours["score"], ours["ssim"]
    shares = [1 - found.mean(), *(np.mean(np.array(gains) >= -1e-3) for gains in better.values())]
    shares += [np.mean(gain >= -0.01), np.mean(np.abs(gain) <= 0.01)]
    means = (scores.mean(), (scores[found] - gain).mean(), unaligned.mean())
    cells = [kind, *(f"{share:.1%}" for share in shares), *(f"{mean:.4f}" for mean in means)]
    cells += [
        str(np.sum(scores < 0.9)),
        f"{np.mean(scores < unaligned):.1%}",
        str(np.isnan(scores).sum()),
        f"{ours['iterations'].mean():.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _distances(found: np.ndarray, wanted: list[np.ndarray], side: int) -> np.ndarray:
    """Displacement of the four corners between two lists of warps: [N, 4] pixels."""
    corners = [[pass_opencv.corners(w, side, side) for w in warps] for warps in (found, wanted)]
    return np.linalg.norm(np.array(corners[0]) - np.array(corners[1]), axis=-1)


def known_motions(pictures: np.ndarray) -> list[str]:
    """How far the corners are off, for photographs moved by known homographies."""
    lines = [
        "| corners moved up to | levels | mean corner error < 0.1 px | worst corner < 0.1 px | < 0.5 px | median |",
        "|---|---|---|---|---|---|",
    ]
    side = pictures.shape[1]
    for displacement, levels in ((0.01, 1), (0.05, 1), (0.05, 4), (0.10, 1), (0.10, 4)):
        moved, warps = photograph_pairs(pictures, displacement, 0.0)
        parts = [
            ecc_align(jnp.asarray(a[..., None]), jnp.asarray(b[..., None]), levels=levels, tolerance=1e-7).warp
            for a, b in blocks_of(moved, pictures, 20)
        ]
        error = _distances(np.concatenate(parts), warps, side)
        worst = error.max(1)
        lines.append(
            f"| {displacement:.0%} | {levels} | {np.mean(error.mean(1) < 0.1):.1%} | {np.mean(worst < 0.1):.1%} "
            f"| {np.mean(worst < 0.5):.1%} | {np.median(error.mean(1)):.3f} px |"
        )
    return lines


def _median_time(function: Callable[[], object], rounds: int = 5) -> float:
    jax.block_until_ready(function())
    return statistics.median(timed(function)[0] for _ in range(rounds))


def kernel_table(images: np.ndarray, originals: np.ndarray, count: int) -> list[str]:
    """Interpolation by gather and by product; SSIM with matrix products and with dm-pix's convolutions."""
    pair = [jnp.asarray(a[:count, ..., None]) for a in (images, originals)]
    times: dict[str, float] = {
        "alignment, gather": _median_time(lambda: ecc_align(*pair)),
        "alignment, interpolation by matrix product": _median_time(lambda: ecc_align(*pair, interpolation="matmul")),
        "SSIM, banded products (`advjax.scores.ssim`)": _median_time(lambda: jax.jit(ssim)(*pair)),
        "SSIM, dm-pix's own convolutions": _median_time(lambda: jax.jit(dm_pix.ssim)(*pair)),
    }
    side = images.shape[1]
    rows = [f"| {name}, {side} x {side} | {seconds / count * 1e6:.0f} us |" for name, seconds in times.items()]
    return ["| part, a pair | time |", "|---|---:|", *rows]


def constant_memory(images: np.ndarray, originals: np.ndarray, total: int) -> str:
    """Scores `total` pairs in blocks that are made as they are asked for."""
    size = 1024
    done, before, start = 0, 0, time.perf_counter()

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        for first in range(0, total, size):
            rows = rng.integers(0, len(images), min(size, total - first))
            yield images[rows][..., None], originals[rows][..., None]

    for result in pass_scores(blocks()):
        done += len(result.score)
        if done <= 20 * size:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - start
    return (
        f"{done:,} pairs of 28 x 28 streamed in {seconds:.0f} s ({done / seconds:.0f} a second); peak memory of the "
        f"process {before / 1024:.0f} MiB after the first 20 blocks, {after / 1024:.0f} MiB after the last."
    )


def shift_table(kinds: dict[str, np.ndarray]) -> list[str]:
    """Whole pixels: two crops of one image, equal to the bit where they overlap."""
    return [
        "Whole pixels: two crops of one image, `image[2:, 2:]` against `image[:-2, :-2]` for (2, 2), equal to the bit "
        "where they overlap; root mean square error of the four corners.",
        "",
        "| images | shift | median | 90 % below | < 0.5 px | PASS | PASS < 0.9 |",
        "|---|---|---|---|---|---|---|",
        *(row for kind, images in kinds.items() for row in _shift_rows(kind, images)),
    ]


def _shift_rows(kind: str, images: np.ndarray) -> list[str]:
    """A row for each shift of images [N, H, W, C]: how far the corners are from where they should be, and PASS."""
    rows = []
    for x, y in _SHIFTS:
        moved, original = whole_pixel_shifts(images, (x, y))
        results = list(pass_scores(blocks_of(moved, original, 64), workers=2))
        warps = np.concatenate([result.alignment.warp for result in results])
        score = np.concatenate([result.score for result in results])
        true = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]], np.float64)
        error = np.sqrt((_distances(warps, [true] * len(warps), moved.shape[1]) ** 2).mean(1))
        side = moved.shape[1]
        rows.append(
            f"| {kind}, {side} x {side} | ({x}, {y}) | {np.median(error):.4f} px | {np.quantile(error, 0.9):.4f} px "
            f"| {np.mean(error < 0.5):.1%} | {score.mean():.4f} | {np.sum(score < 0.9)} of {len(score)} |"
        )
    return rows


def turned_table(pictures: np.ndarray, degrees: float = 2.0) -> list[str]:
    """Photographs turned, which leaves black corners: the worst corner without masks, with masks, as OpenCV has it."""
    side = pictures.shape[1]
    turned, true = turned_pictures(pictures, degrees)
    masks = np.stack([border_mask(picture, 0.0) for picture in turned])
    pair = [jnp.asarray(images[..., None]) for images in (turned, pictures)]
    found = {
        "advjax, no mask": ecc_align(*pair).warp,
        "advjax, `image_mask=border_mask(image)`": ecc_align(*pair, image_mask=jnp.asarray(masks)).warp,
    }
    for name, given in (("OpenCV, no mask", [None] * len(masks)), ("OpenCV, the same mask", masks)):
        trios = zip(turned, pictures, given, strict=True)
        found[name] = [pass_opencv.find_warp(image, template, mask=mask)[0] for image, template, mask in trios]
    rows = ["| how | worst corner, median | 90 % below | worst | < 0.1 px |", "|---|---|---|---|---|"]
    for name, warps in found.items():
        kept = [np.asarray(warp) for warp in warps if warp is not None]
        worst = _distances(kept, [true] * len(kept), side).max(1)
        rows.append(
            f"| {name} | {np.median(worst):.3f} px | {np.quantile(worst, 0.9):.3f} px | {worst.max():.3f} px "
            f"| {np.mean(worst < 0.1):.0%} |"
        )
    return rows
