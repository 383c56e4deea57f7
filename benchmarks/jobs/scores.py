"""PASS against OpenCV's ECC alignment and scikit-image's SSIM: speed, and what either gets right."""

import functools
import multiprocessing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from advjax.data import load, to_float
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.target import import_peer

__all__ = ["JOBS"]


def _opencv(images: np.ndarray, originals: np.ndarray) -> Run:
    """OpenCV and scikit-image in two processes, which have started."""
    import_peer("cv2")
    reference, pages = import_peer("tests.reference.pass_opencv"), import_peer("benchmarks.pass_pages")
    pool = multiprocessing.get_context("spawn").Pool(2)
    pool.map(reference.score_block, pages.blocks_of(images[:4], originals[:4], 2))
    chunks = pages.blocks_of(images, originals, max(1, len(images) // 32))
    return lambda: [row for block in pool.map(reference.score_block, chunks, chunksize=1) for row in block]


def _case(kinds: Mapping[str, Any], block: int, notes: str, more: Callable[..., list[str]]) -> Case:
    pages, pairs = import_peer("benchmarks.pass_pages"), import_peer("benchmarks.pass_pairs")
    images, originals, back = pairs.shuffled(kinds)
    theirs = functools.cache(lambda: _opencv(images, originals))

    def judge(result: Any) -> Answers:
        """Where OpenCV raises, PASS and the warp are left out."""
        if isinstance(result, dict):
            return {"PASS": result["score"], "OpenCV raises": 0.0}
        scores = np.array([np.nan if row[0] is None else row[0] for row in result], np.float64)
        return {"PASS": scores, "OpenCV raises": np.isnan(scores).mean()}

    def details() -> list[str]:
        found = {key: values[back] for key, values in pages.scored(images, originals, block).items()}
        reference = theirs()()
        accuracy = pages.accuracy_table(kinds, found, [reference[i] for i in back])
        return [
            *accuracy,
            "",
            *pages.kernel_table(images, originals, min(block, len(images))),
            "",
            *more(images, originals),
        ]

    return Case(
        ours=lambda: pages.scored(images, originals, block),
        peers={"OpenCV + scikit-image": theirs},
        judge=judge,
        bars={"PASS": 0.03, "OpenCV raises": None},
        operations=0.0,
        moved=float(images.nbytes + originals.nbytes),
        counted="the images alone: how many iterations a pair needs is not known beforehand",
        notes=f"{len(images)} pairs: {notes}; ours on two threads scores the unaligned pair too",
        details=details,
    )


def _digits(per_kind: int, shifted: int, streamed: int, smoke: bool) -> Case:
    pages, pairs = import_peer("benchmarks.pass_pages"), import_peer("benchmarks.pass_pairs")
    per_kind, shifted, streamed = (4, 4, 2048) if smoke else (per_kind, shifted, streamed)

    def more(images: np.ndarray, originals: np.ndarray) -> list[str]:
        digits = np.asarray(to_float(load("mnist", "test").images[:shifted]))
        padded = np.pad(digits, ((0, 0), (2, 2), (2, 2), (0, 0)))
        return [*pages.shift_table({"MNIST": padded}), "", pages.constant_memory(images, originals, streamed)]

    return _case(pairs.mnist_pairs(per_kind), 1024, "test digits, adversarial, noisy, rotated and shifted", more)


def _cifar(per_kind: int, shifted: int, smoke: bool) -> Case:
    pages, pairs = import_peer("benchmarks.pass_pages"), import_peer("benchmarks.pass_pairs")
    per_kind, shifted = (4, 4) if smoke else (per_kind, shifted)

    def more(*_: np.ndarray) -> list[str]:
        return pages.shift_table({"CIFAR-10": np.asarray(to_float(load("cifar10", "test").images[:shifted]))})

    return _case(pairs.cifar_pairs(per_kind), 512, "gray CIFAR-10, noisy, rotated and shifted", more)


def _photographs(count: int, smoke: bool) -> Case:
    cv2, pages, pairs = (import_peer(name) for name in ("cv2", "benchmarks.pass_pages", "benchmarks.pass_pairs"))
    pictures, source = pairs.pictures(2 if smoke else count)
    moved, _ = pairs.photograph_pairs(pictures, 0.01, 0.02)

    def more(*_: np.ndarray) -> list[str]:
        sized = {
            f"photographs, {side}": np.stack(
                [cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in pictures]
            )
            for side in (52, 68, 132)
        }
        return [
            "Known homographies, tolerance 1e-7.",
            "",
            *pages.known_motions(pictures),
            "",
            *pages.shift_table({kind: images[..., None] for kind, images in sized.items()}),
            "",
            "Pixels of no picture: photographs turned by 2 degrees about their center, black corners.",
            "",
            *pages.turned_table(pictures[:20]),
        ]

    kinds = {"photographs, corners to 1 %, noise 0.02": (moved, pictures)}
    return _case(kinds, 8, f"{source}, moved by known homographies", more)


JOBS: Mapping[str, Job] = {
    "pass-28": Job("PASS of 4,096 pairs of digits, 28x28", partial(_digits, 512, 512, 340_000)),
    "pass-32": Job("PASS of 1,536 pairs of gray CIFAR-10 images, 32x32", partial(_cifar, 512, 512)),
    "pass-224": Job("PASS of 200 pairs of gray photographs, 224x224", partial(_photographs, 200)),
}
