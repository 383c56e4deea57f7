"""PASS beside OpenCV + scikit-image on the same two cores: speed, accuracy, recovery, constant memory.

    python benchmarks/bench_pass.py                            # writes benchmarks/results/pass.md; some 15 minutes
    python benchmarks/bench_pass.py --parts accuracy,recovery  # these anew, the others as they stand in the file

Parts `accuracy` and `recovery` do not depend on how busy the machine is; `speed`, `kernels` and `memory` do.
Needs real MNIST and CIFAR-10 in TFDS_DATA_DIR. Photographs come from ADVJAX_IMAGENET_SAMPLES (a folder of JPEG files)
if it is set, otherwise from scikit-image.
"""

import argparse
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Before JAX starts its threads: both sides get the same two cores.
CORES = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, CORES)
sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2  # noqa: E402
import dm_pix  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from advjax.data import load, to_float  # noqa: E402
from advjax.files import write_text  # noqa: E402
from advjax.scores import border_mask, ecc_align, pass_scores, ssim  # noqa: E402
from benchmarks.pass_pairs import (  # noqa: E402
    Material,
    photograph_pairs,
    shuffled,
    turned_pictures,
    whole_pixel_shifts,
)
from tests.reference import pass_opencv  # noqa: E402


def blocks_of(images: np.ndarray, originals: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images[i : i + size], originals[i : i + size]) for i in range(0, len(images), size)]


def run_ours(images: np.ndarray, originals: np.ndarray, size: int) -> dict[str, np.ndarray]:
    results = list(pass_scores(blocks_of(images[..., None], originals[..., None], size), workers=2))
    return {
        "score": np.concatenate([result.score for result in results]),
        "ssim": np.concatenate([result.ssim for result in results]),
        "warp": np.concatenate([result.alignment.warp for result in results]),
        "iterations": np.concatenate([result.alignment.iterations for result in results]),
    }


def timed(function: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def run_opencv(images: np.ndarray, originals: np.ndarray) -> list[tuple]:
    """What OpenCV and scikit-image make of the pairs, in two processes."""
    chunks = blocks_of(images, originals, max(1, len(images) // 32))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return [row for block in pool.map(pass_opencv.score_block, chunks, chunksize=1) for row in block]


def race(images: np.ndarray, originals: np.ndarray, size: int, rounds: int) -> str:
    """Both sides in turn on the same pairs: a row of medians."""
    run_ours(images, originals, size)
    ours, theirs = [], []
    chunks = blocks_of(images, originals, max(1, len(images) // 32))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(pass_opencv.score_block, blocks_of(images[:4], originals[:4], 2))
        for _ in range(rounds):
            ours.append(len(images) / timed(lambda: run_ours(images, originals, size))[0])
            theirs.append(len(images) / timed(lambda: pool.map(pass_opencv.score_block, chunks, chunksize=1))[0])
    a, b = statistics.median(ours), statistics.median(theirs)
    ratios = [x / y for x, y in zip(ours, theirs, strict=True)]
    return f"{a:.0f} | {b:.0f} | **{a / b:.1f}** ({min(ratios):.1f}-{max(ratios):.1f}) |"


def accuracy(kind: str, images: np.ndarray, originals: np.ndarray, ours: dict, theirs: list) -> str:
    """A row of shares; ECC of both warps by one referee, where OpenCV found one."""
    found = np.array([row[0] is not None for row in theirs])
    gain = np.array([s - row[0] for s, row in zip(ours["score"], theirs, strict=True) if row[0] is not None])
    better: dict[tuple[int, int], list[float]] = {referee: [] for referee in REFEREES}
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


SHIFTS = ((1, 1), (2, 2), (0, 2))
# (border, margin) of the three that judge both sides' warps.
REFEREES = ((cv2.BORDER_REPLICATE, 2), (cv2.BORDER_REPLICATE, 0), (cv2.BORDER_CONSTANT, 0))
ACCURACY_HEAD = [
    "| pairs | OpenCV raises | ECC >= OpenCV's - 1e-3 | the same, mirrored ring too | the same, dark border "
    "| PASS >= OpenCV's - 0.01 | within 0.01 | PASS | OpenCV's PASS | SSIM unaligned | PASS < 0.9 "
    "| PASS below unaligned | NaN | iterations |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
]


def distances(found: np.ndarray, wanted: list[np.ndarray], side: int) -> np.ndarray:
    """Displacement of the four corners between two lists of warps: [N, 4] pixels."""
    corners = [[pass_opencv.corners(w, side, side) for w in warps] for warps in (found, wanted)]
    return np.linalg.norm(np.array(corners[0]) - np.array(corners[1]), axis=-1)


def recovery(pictures: np.ndarray) -> list[str]:
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
        error = distances(np.concatenate(parts), warps, side)
        worst = error.max(1)
        lines.append(
            f"| {displacement:.0%} | {levels} | {np.mean(error.mean(1) < 0.1):.1%} | {np.mean(worst < 0.1):.1%} "
            f"| {np.mean(worst < 0.5):.1%} | {np.median(error.mean(1)):.3f} px |"
        )
    return lines


def median_time(function: Callable[[], object], rounds: int = 5) -> float:
    jax.block_until_ready(function())
    return statistics.median(timed(lambda: jax.block_until_ready(function()))[0] for _ in range(rounds))


def kernels(images: np.ndarray, originals: np.ndarray, count: int) -> list[str]:
    """Interpolation by gather and by product; SSIM with matrix products and with dm-pix's convolutions."""
    pair = [jnp.asarray(a[:count, ..., None]) for a in (images, originals)]
    times = {
        "alignment, gather": median_time(lambda: ecc_align(*pair)),
        "alignment, interpolation by matrix product": median_time(lambda: ecc_align(*pair, interpolation="matmul")),
        "SSIM, banded products (`advjax.scores.ssim`)": median_time(lambda: jax.jit(ssim)(*pair)),
        "SSIM, dm-pix's own convolutions": median_time(lambda: jax.jit(dm_pix.ssim)(*pair)),
    }
    side = images.shape[1]
    return [f"| {name}, {side} x {side} | {seconds / count * 1e6:.0f} us |" for name, seconds in times.items()]


def stream(images: np.ndarray, originals: np.ndarray, total: int) -> str:
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
        if sys.stderr.isatty():
            print(f"\r{done:,} of {total:,} pairs", end="", file=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - start
    return (
        f"{done:,} pairs of 28 x 28 streamed in {seconds:.0f} s ({done / seconds:.0f} a second); peak memory of the "
        f"process {before / 1024:.0f} MiB after the first 20 blocks, {after / 1024:.0f} MiB after the last."
    )


def shift_rows(kind: str, images: np.ndarray) -> list[str]:
    """A row for each shift of images [N, H, W, C]: how far the corners are from where they should be, and PASS."""
    rows = []
    for x, y in SHIFTS:
        moved, original = whole_pixel_shifts(images, (x, y))
        results = list(pass_scores(blocks_of(moved, original, 64), workers=2))
        warps = np.concatenate([result.alignment.warp for result in results])
        score = np.concatenate([result.score for result in results])
        true = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]], np.float64)
        error = np.sqrt((distances(warps, [true] * len(warps), moved.shape[1]) ** 2).mean(1))
        side = moved.shape[1]
        rows.append(
            f"| {kind}, {side} x {side} | ({x}, {y}) | {np.median(error):.4f} px | {np.quantile(error, 0.9):.4f} px "
            f"| {np.mean(error < 0.5):.1%} | {score.mean():.4f} | {np.sum(score < 0.9)} of {len(score)} |"
        )
    return rows


def turned_rows(pictures: np.ndarray, degrees: float = 2.0) -> list[str]:
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
    rows = []
    for name, warps in found.items():
        kept = [np.asarray(warp) for warp in warps if warp is not None]
        worst = distances(kept, [true] * len(kept), side).max(1)
        rows.append(
            f"| {name} | {np.median(worst):.3f} px | {np.quantile(worst, 0.9):.3f} px | {worst.max():.3f} px "
            f"| {np.mean(worst < 0.1):.0%} |"
        )
    return rows


def header() -> str:
    """The versions that measure."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "dm-pix", "numpy", "scikit-image")}
    versions["OpenCV"] = cv2.__version__
    return (
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f'. Homography, 100 iterations, tolerance 1e-6, `padding="valid"`. Written by `{Path(__file__).name}`.\n'
    )


def stamp() -> list[str]:
    """When and where the part above was measured."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    machine = names[0] if names else platform.machine()
    load = f"load average at the end {os.getloadavg()[0]:.1f}"
    return ["", f"Measured {datetime.date.today()}, {machine}, {len(CORES)} cores for either side, {load}.", ""]


def speed_part(material: Material) -> tuple[str, list[str]]:
    rounds, (pictures, source) = material.options.rounds, material.photographs
    images, originals, _ = shuffled(material.digits)
    few = max(1, rounds // 2)
    return f"Speed: medians of {rounds} rounds on MNIST, {few} on photographs, the sides taking turns", [
        "Ours is `pass_scores` on two threads (it scores the unaligned pair too); theirs `findTransformECC`, "
        "`warpPerspective` and scikit-image's SSIM in two processes.",
        "",
        "| pairs | advjax, pairs/s | OpenCV, pairs/s | ratio (over the rounds) |",
        "|---|---|---|---|",
        f"| {len(images)} MNIST, 28 x 28 | {race(images, originals, 1024, rounds)}",
        f"| {len(pictures)} photographs ({source}), 224 x 224 gray | {race(material.moved, pictures, 8, few)}",
    ]


def accuracy_part(material: Material) -> tuple[str, list[str]]:
    kinds, (pictures, _) = material.digits, material.photographs
    images, originals, back = shuffled(kinds)
    mine = {key: values[back] for key, values in run_ours(images, originals, 1024).items()}
    reference = run_opencv(images, originals)
    theirs = [reference[i] for i in back]
    rows, start = [], 0
    for kind, pair in kinds.items():
        part = slice(start, start := start + len(pair[0]))
        rows.append(accuracy(kind, *pair, {key: values[part] for key, values in mine.items()}, theirs[part]))
    rows.append(accuracy("all", images[back], originals[back], mine, theirs))
    mine, theirs = run_ours(material.moved, pictures, 8), run_opencv(material.moved, pictures)
    rows.append(accuracy("photographs, corners to 1 %, noise 0.02", material.moved, pictures, mine, theirs))
    agreed = [k for k, row in enumerate(theirs) if row[0] is not None]
    apart = distances(mine["warp"][agreed], [theirs[k][1] for k in agreed], 224).mean(1)
    return "Accuracy on the same pairs", [
        "Shares of the pairs on which OpenCV finds a warp. ECC of both warps by one referee, with OpenCV's blur and "
        "mask, the border repeated and, of both images, the two outermost rows and columns left out, which OpenCV's "
        "blur makes of mirrored pixels; once with these, as OpenCV itself counts; and once more with OpenCV's "
        "interpolation towards 0 at the border, which puts a dark rim on a bright picture and so prefers other warps "
        "to the true one. On the "
        f"photographs the two warps differ by {np.median(apart):.3f} px at the corners (median).",
        "",
        *ACCURACY_HEAD,
        *rows,
    ]


def recovery_part(material: Material) -> tuple[str, list[str]]:
    pictures, source = material.photographs
    options = material.options
    cifar = np.asarray(to_float(load("cifar10", "test").images[: options.shifted]))
    digits = np.asarray(to_float(load("mnist", "test").images[: options.shifted]))
    padded = np.pad(digits, ((0, 0), (2, 2), (2, 2), (0, 0)))
    sized = {
        side: np.stack([cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in pictures])[..., None]
        for side in (52, 68, 132)
    }
    return "Recovery of known motions", [
        f"Known homographies: {len(pictures)} photographs ({source}), 224 x 224, tolerance 1e-7.",
        "",
        *recovery(pictures),
        "",
        "Whole pixels: two crops of one image, `image[2:, 2:]` against `image[:-2, :-2]` for (2, 2), equal to the bit "
        "where they overlap; root mean square error of the four corners. The digits, padded, go out of the frame.",
        "",
        "| images | shift | median | 90 % below | < 0.5 px | PASS | PASS < 0.9 |",
        "|---|---|---|---|---|---|---|",
        *shift_rows("CIFAR-10", cifar),
        *(row for images in sized.values() for row in shift_rows("photographs", images)),
        *shift_rows("MNIST", padded),
        "",
        f"Pixels of no picture: {min(20, len(pictures))} photographs turned by 2 degrees about their center, black "
        "corners; the worst of the four corners.",
        "",
        "| how | median | 90 % below | worst | < 0.1 px |",
        "|---|---|---|---|---|",
        *turned_rows(pictures[:20]),
    ]


def kernels_part(material: Material) -> tuple[str, list[str]]:
    images, originals, _ = shuffled(material.digits)
    return "Parts: a pair, one call on two cores", [
        "| part | time |",
        "|---|---|",
        *kernels(images, originals, min(512, len(images))),
        *kernels(material.moved, material.photographs[0], 2),
    ]


def memory_part(material: Material) -> tuple[str, list[str]]:
    images, originals, _ = shuffled(material.digits)
    return "Constant memory", [stream(images, originals, material.options.stream)]


PARTS = {
    "speed": speed_part,
    "accuracy": accuracy_part,
    "recovery": recovery_part,
    "kernels": kernels_part,
    "memory": memory_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which to measure; the others stay as they are")
    parser.add_argument("--pairs", type=int, default=4096, help="MNIST pairs, a multiple of 8")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--shifted", type=int, default=512, help="images of each data set under whole-pixel shifts")
    parser.add_argument("--stream", type=int, default=340_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pass.md")
    options = parser.parse_args()
    if unknown := set(options.parts.split(",")) - set(PARTS):
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")

    # The file is a title, what a person wrote about changes, and a section for each part, marked to be found again.
    kept = options.out.read_text().split("\n<!-- ")[1:] if options.out.exists() else []
    sections = {section.split(" -->")[0]: section.split(" -->\n", 1)[1] for section in kept}
    material = Material(options)
    for name in options.parts.split(","):
        title, lines = PARTS[name](material)
        sections[name] = "\n".join([f"## {title}", "", *lines, *stamp()])
        print(sections[name], flush=True)
        body = "".join(f"\n<!-- {part} -->\n{sections[part]}" for part in ("changes", *PARTS) if part in sections)
        write_text(options.out, f"# PASS beside OpenCV + scikit-image\n\n{header()}{body}")


if __name__ == "__main__":
    main()
