"""PASS beside OpenCV + scikit-image on the same two cores: speed, accuracy, recovery, constant memory.

    python benchmarks/bench_pass.py            # writes benchmarks/results/pass.md; some 15 minutes

Needs real MNIST in TFDS_DATA_DIR. Photographs come from ADVJAX_IMAGENET_SAMPLES (a folder of JPEG files) if it
is set, otherwise from scikit-image.
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
import optax  # noqa: E402
from flax import nnx  # noqa: E402

from advjax.attacks import fgs, fgv, hot_cold, perturb  # noqa: E402
from advjax.classifier import from_nnx  # noqa: E402
from advjax.data import load, to_float  # noqa: E402
from advjax.models.lenet import LeNet  # noqa: E402
from advjax.scores import ecc_align, pass_scores, ssim  # noqa: E402
from tests.reference import pass_opencv, photographs  # noqa: E402

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # kind -> (perturbed, original), [B, H, W] each


def mnist_pairs(per_kind: int) -> Pairs:
    """Test digits beside their adversarial images (of a LeNet trained here), noisy, rotated and shifted copies."""
    train, test = load("mnist", "train"), load("mnist", "test")
    model = LeNet(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: LeNet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
        def loss(model: LeNet) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    for start in range(0, 32000, 128):
        rows = slice(start, start + 128)
        step(model, optimizer, jnp.asarray(to_float(train.images[rows])), jnp.asarray(train.labels[rows]))
    digits, rng = np.asarray(to_float(test.images[:per_kind])), np.random.default_rng(0)
    attacks = {"FGS": fgs(), "FGV": fgv(), "HC-1": hot_cold(1), "HC-5": hot_cold(5)}
    batch = (from_nnx(model), jnp.asarray(digits), jnp.asarray(test.labels[:per_kind]))
    grey = digits[..., 0]
    changed = {name: np.asarray(perturb(attack, *batch).image)[..., 0] for name, attack in attacks.items()}
    changed["noise, sigma 0.1"] = pass_opencv.on_grid(grey + rng.normal(0, 0.1, grey.shape))
    changed["rotated to 15 deg"] = np.stack([pass_opencv.rotated(x, rng.uniform(-15, 15)) for x in grey])
    changed["shifted to 2 px"] = np.stack([pass_opencv.shifted(x, *rng.uniform(-2, 2, 2)) for x in grey])
    both = (pass_opencv.shifted(pass_opencv.rotated(x, rng.uniform(-8, 8)), *rng.uniform(-1, 1, 2)) for x in grey)
    changed["rotated, shifted, noise"] = pass_opencv.on_grid(np.stack(list(both)) + rng.normal(0, 0.05, grey.shape))
    return {name: (images, grey) for name, images in changed.items()}


def photograph_pairs(pictures: np.ndarray, displacement: float, noise: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """The photographs moved by known homographies, and those."""
    rng, side = np.random.default_rng(1), pictures.shape[1]
    warps = [pass_opencv.random_homography(rng, side, side, displacement) for _ in pictures]
    moved = np.stack([pass_opencv.moved(*pair) for pair in zip(pictures, warps, strict=True)])
    return pass_opencv.on_grid(moved + rng.normal(0, noise, moved.shape)), warps


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


def race(images: np.ndarray, originals: np.ndarray, size: int, rounds: int) -> tuple[dict, list, str]:
    """Both sides in turn on the same pairs; both results and a row of medians."""
    run_ours(images, originals, size)
    ours, theirs = [], []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(pass_opencv.score_block, blocks_of(images[:4], originals[:4], 2))
        for _ in range(rounds):
            seconds, mine = timed(lambda: run_ours(images, originals, size))
            ours.append(len(images) / seconds)
            chunks = blocks_of(images, originals, max(1, len(images) // 32))
            seconds, reference = timed(lambda chunks=chunks: pool.map(pass_opencv.score_block, chunks, chunksize=1))
            theirs.append(len(images) / seconds)
    a, b = statistics.median(ours), statistics.median(theirs)
    spread = f"{min(x / y for x, y in zip(ours, theirs, strict=True)):.1f}-"
    spread += f"{max(x / y for x, y in zip(ours, theirs, strict=True)):.1f}"
    return mine, [row for block in reference for row in block], f"{a:.0f} | {b:.0f} | **{a / b:.1f}** ({spread}) |"


def accuracy(kind: str, images: np.ndarray, originals: np.ndarray, ours: dict, theirs: list) -> str:
    """A row of shares; ECC of both warps by one referee, where OpenCV found one."""
    found = np.array([row[0] is not None for row in theirs])
    gain = np.array([s - row[0] for s, row in zip(ours["score"], theirs, strict=True) if row[0] is not None])
    better: dict[int, list[float]] = {cv2.BORDER_REPLICATE: [], cv2.BORDER_CONSTANT: []}
    for image, original, warp, row in zip(images, originals, ours["warp"], theirs, strict=True):
        if row[0] is not None:
            for border, gains in better.items():
                judge = [pass_opencv.correlation(image, original, w, border) for w in (warp, row[1])]
                gains.append(judge[0] - judge[1])
    scores, unaligned = ours["score"], ours["ssim"]
    shares = [1 - found.mean(), *(np.mean(np.array(gains) >= -1e-3) for gains in better.values())]
    shares += [np.mean(gain >= -0.01), np.mean(np.abs(gain) <= 0.01)]
    means = (scores.mean(), (scores[found] - gain).mean(), unaligned.mean())
    cells = [kind, *(f"{share:.1%}" for share in shares), *(f"{mean:.4f}" for mean in means)]
    cells += [f"{np.mean(scores < unaligned):.1%}", str(np.isnan(scores).sum()), f"{ours['iterations'].mean():.1f}"]
    return f"| {' | '.join(cells)} |"


ACCURACY_HEAD = [
    "| pairs | OpenCV raises | ECC >= OpenCV's - 1e-3 | the same, dark border | PASS >= OpenCV's - 0.01 "
    "| within 0.01 | PASS | OpenCV's PASS | SSIM unaligned | PASS below it | NaN | iterations |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
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


def parts(images: np.ndarray, originals: np.ndarray, count: int) -> list[str]:
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


def header(rounds: int) -> list[str]:
    """What was run, where, and with which versions."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "dm-pix", "numpy", "scikit-image")}
    versions["OpenCV"] = cv2.__version__
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return [
        "# PASS beside OpenCV + scikit-image",
        "",
        f"{datetime.date.today()}, {names[0] if names else platform.machine()}, {len(CORES)} cores for either side, "
        f"load average at the end {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f'. Homography, 100 iterations, tolerance 1e-6, `padding="valid"`. Written by `{Path(__file__).name}`.',
        "",
        f"## Speed: medians of {rounds} rounds on MNIST, {max(1, rounds // 2)} on photographs, the sides taking turns",
        "",
        "Ours is `pass_scores` on two threads (it scores the unaligned pair too); theirs `findTransformECC`, "
        "`warpPerspective` and scikit-image's SSIM in two processes.",
        "",
        "| pairs | advjax, pairs/s | OpenCV, pairs/s | ratio (over the rounds) |",
        "|---|---|---|---|",
    ]


def on_mnist(count: int, rounds: int) -> tuple[np.ndarray, np.ndarray, str, list[str]]:
    """The pairs in a random order, the row of speeds, the rows of accuracy."""
    kinds = mnist_pairs(count // 8)
    images, originals = (np.concatenate([pair[k] for pair in kinds.values()]) for k in range(2))
    order = np.random.default_rng(0).permutation(len(images))  # hard and easy pairs side by side
    mine, theirs, speed = race(images[order], originals[order], 1024, rounds)
    back = np.argsort(order)
    mine, theirs = {key: value[back] for key, value in mine.items()}, [theirs[i] for i in back]
    rows = []
    for k, (kind, pair) in enumerate(kinds.items()):
        part = slice(k * len(pair[0]), (k + 1) * len(pair[0]))
        rows.append(accuracy(kind, *pair, {key: value[part] for key, value in mine.items()}, theirs[part]))
    rows.append(accuracy("all", images, originals, mine, theirs))
    return images[order], originals[order], f"| {len(images)} MNIST, 28 x 28 | {speed}", rows


def on_photographs(pictures: np.ndarray, moved: np.ndarray, source: str, rounds: int) -> tuple[str, str, str]:
    """The row of speeds, the row of accuracy, and how far the two sides' warps are apart."""
    mine, theirs, speed = race(moved, pictures, 8, rounds)
    agreed = [k for k, row in enumerate(theirs) if row[0] is not None]
    apart = distances(mine["warp"][agreed], [theirs[k][1] for k in agreed], 224).mean(1)
    row = accuracy("photographs, corners to 1 %, noise 0.02", moved, pictures, mine, theirs)
    note = f"On the photographs the two warps differ by {np.median(apart):.3f} px at the corners (median)."
    return f"| {len(pictures)} photographs ({source}), 224 x 224 grey | {speed}", row, note


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096, help="MNIST pairs, a multiple of 8")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--stream", type=int, default=340_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pass.md")
    args = parser.parse_args()

    images, originals, digits_speed, digits_rows = on_mnist(args.pairs, args.rounds)
    pictures, source = photographs.from_folder(args.photographs, 224), "ImageNet samples"
    if pictures is None:
        pictures, source = photographs.bundled(224), "scikit-image's own"
    moved, _ = photograph_pairs(pictures, 0.01, 0.02)
    photos_speed, photos_row, note = on_photographs(pictures, moved, source, max(1, args.rounds // 2))
    body = [
        digits_speed,
        photos_speed,
        "",
        "On a GPU: not measured, there was none.",
        "",
        "## Accuracy on the same pairs",
        "",
        "Shares of the pairs on which OpenCV finds a warp. ECC of both warps by one referee, with OpenCV's blur and "
        "mask and the border repeated; and once more with OpenCV's interpolation towards 0 at the border, which puts a "
        f"dark rim on a bright picture and so prefers other warps to the true one. {note}",
        "",
        *ACCURACY_HEAD,
        *digits_rows,
        photos_row,
        "",
        f"## Recovery of known homographies, {len(pictures)} photographs ({source}), 224 x 224, tolerance 1e-7",
        "",
        *recovery(pictures),
        "",
        "## Parts: a pair, one call on two cores",
        "",
        "| part | time |",
        "|---|---|",
        *parts(images, originals, min(512, len(images))),
        *parts(moved, pictures, 2),
        "",
        "## Constant memory",
        "",
        stream(images, originals, args.stream),
        "",
    ]
    text = "\n".join([*header(args.rounds), *body])
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
