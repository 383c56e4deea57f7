"""Smallest perturbations: attacks that look for the boundary, image by image."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from advjax import ddn, fmn, hot_cold, lbfgs, perturb
from advjax.attacks import Attack
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.target import Target

__all__ = ["JOBS"]


def _lbfgs(images: int, steps: int, smoke: bool) -> Case:
    target = Target.of("lenet", 2 if smoke else images)
    steps, attack = (5, lbfgs(steps=2, searches=2)) if smoke else (steps, lbfgs())
    in_box = target.judge()

    def ours(attack: Attack) -> Run:
        return lambda: perturb(attack, target.known.classifier, *target.arrays)

    def judge(result: Any) -> Answers:
        pixels = target.pixels(result)
        distances = np.sqrt(np.square(pixels - target.images).sum((1, 2, 3)))
        fooled = target.answers(result).argmax(-1) != target.labels
        stored = target.answers(np.round(pixels * 255).astype(np.uint8) / np.float32(255)).argmax(-1) != target.labels
        mean = float(distances[fooled].mean()) if fooled.any() else 0.0
        return {"fooled": in_box(result)["fooled"], "mean L2 of those": mean, "fooled in 8 bits": stored.mean()}

    return Case(
        ours=ours(attack),
        peers={
            "advjax, ddn": lambda: ours(ddn(steps=steps)),
            "advjax, fmn": lambda: ours(fmn(steps=steps)),
            "Foolbox, DDN": lambda: target.foolbox("DDNAttack", steps=steps),
            "Foolbox, FMN": lambda: target.foolbox("L2FMNAttack", steps=steps),
            "adv-lib, DDN": lambda: target.adv_lib("ddn", steps=steps),
            "adv-lib, FMN": lambda: target.adv_lib("fmn", norm=2, steps=steps),
        },
        judge=judge,
        # Other algorithms, and ours goes to the second class: what they find is reported, not held equal.
        bars={"fooled": None if smoke else 0.05, "mean L2 of those": None, "fooled in 8 bits": None},
        operations=lambda result: float(np.mean(result.calls)) * target.gradient_operations(),
        moved=target.bytes(1),
        counted="XLA's count of one plain gradient, times the mean number of our calls an image",
        notes=target.known.weights,
    )


def _hot_cold(images: int, smoke: bool) -> Case:
    target = Target.of("lenet", 4 if smoke else images)
    attack = hot_cold(ranks=range(1, 10))
    one = 2 * target.gradient_operations()  # of the two features that a direction is made of

    def judge(result: Any) -> Answers:
        calls, ranks = np.asarray(result.calls), np.asarray(result.success).mean(1)
        by_rank = {f"success of rank {rank}": share for rank, share in enumerate(ranks, 1)}
        return {"success": ranks, "calls, median": np.median(calls), "calls, most": calls.max(), **by_rank}

    return Case(
        ours=lambda: perturb(attack, target.known.classifier, *target.arrays),
        peers={},
        judge=judge,
        bars={},
        operations=lambda result: 9 * (one + float(np.mean(result.calls) - 1) * target.forward_operations()),
        moved=target.bytes(9),
        counted="XLA's count of plain logits, times our calls an image, and of two gradients for each rank",
        notes=f"{target.known.weights}; no other library has it",
    )


JOBS: Mapping[str, Job] = {
    "minimal-lenet": Job(
        "smallest L2 change of 64 images on LeNet: lbfgs (12 x 40 steps), DDN and FMN (300 steps), ours and others'",
        partial(_lbfgs, 64, 300),
    ),
    "hot-cold-lenet": Job(
        "hot/cold of 9 ranks to the boundary, 1,000 images on LeNet in one call", partial(_hot_cold, 1000), alone=True
    ),
}
