"""Attacks on networks for photographs at 224x224: seconds and memory."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from advjax import fgv, hot_cold, perturb
from advjax.scores import pass_score
from benchmarks.harness import Answers, Case, Job, timed
from benchmarks.target import Target

__all__ = ["JOBS"]

_ATTACKS = {"FGV": fgv(), "HC-1": hot_cold()}


def _case(name: str, images: int, smoke: bool) -> Case:
    target = Target.of(name, 1 if smoke else images)
    batch = (target.known.classifier, *target.arrays)
    forward = jax.jit(lambda classifier, x: classifier(x))

    def ours() -> dict[str, Any]:
        found = {attack: perturb(made, *batch) for attack, made in _ATTACKS.items()}
        return {attack: (one, pass_score(one.image, batch[1])) for attack, one in found.items()}

    def judge(result: Any) -> Answers:
        return {
            f"{attack}, {what}": value
            for attack, (one, score) in result.items()
            for what, value in {
                "success": np.mean(one.success),
                "most calls": np.max(one.calls),
                "PASS": np.asarray(score.score),
            }.items()
        }

    def details() -> list[str]:
        steps = {"logits": lambda: forward(*batch[:2])}
        for attack, made in _ATTACKS.items():
            image = perturb(made, *batch).image
            steps |= {attack: partial(perturb, made, *batch), f"PASS of {attack}": partial(pass_score, image, batch[1])}
        for run in steps.values():
            timed(run)  # compiles
        return ["| step | s |", "|---|---:|", *(f"| {step} | {timed(run)[0]:.2f} |" for step, run in steps.items())]

    return Case(
        ours=ours,
        peers={},
        judge=judge,
        bars={},
        operations=lambda result: _operations(target, result),
        moved=target.bytes(2),
        counted="XLA's count of plain logits, times our calls, and of one gradient for FGV and two for HC-1",
        notes=f"{target.known.weights}; success and PASS say nothing of a trained network",
        details=details,
    )


def _operations(target: Target, result: Any) -> float:
    calls = sum(float(np.mean(one.calls)) for one, _ in result.values())
    return calls * target.forward_operations() + 3 * target.gradient_operations()


def _job(network: str, name: str) -> Job:
    return Job(f"FGV, HC-1 and PASS of both for 2 photographs on {network}", partial(_case, name, 2), alone=True)


JOBS: Mapping[str, Job] = {
    "photographs-resnet152": _job("ResNet-152", "resnet152"),
    "photographs-googlenet": _job("GoogLeNet", "googlenet"),
}
