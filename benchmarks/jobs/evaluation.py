"""Evaluations: a sweep over epsilons, and a network for photographs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from advjax import fgs, pgd
from advjax.evaluate import Report, Sweep, evaluate, sweep
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.jobs.attacks import fgs_loop
from benchmarks.target import Target, torch_with_all_cores

__all__ = ["JOBS"]


def _sweep(images: int, steps: int, smoke: bool) -> Case:
    target, steps = Target.of("lenet", 4 if smoke else images), 2 if smoke else steps
    epsilons = [0.04 * k for k in range(1, 9)]
    data, key, size = (target.images, target.labels), jax.random.key(0), 0.01
    options: dict[str, Any] = {"key": key, "batch_size": len(target.images)}

    def ours(monotone: bool = False) -> Sweep:
        make = partial(pgd, step_size=size, steps=steps)
        return sweep(target.known.classifier, make, epsilons, data, monotone=monotone, **options)

    def torchattacks() -> Run:
        runs = [target.torchattacks("PGD", eps=e, alpha=size, steps=steps, random_start=True) for e in epsilons]
        return lambda: [run() for run in runs]

    def judge(result: Any) -> Answers:
        if isinstance(result, Sweep):
            return {"accuracy": np.array([accuracy.value for accuracy in result.accuracies])}
        return {
            "accuracy": np.array([1 - target.judge(e)(one)["fooled"] for e, one in zip(epsilons, result, strict=True)])
        }

    budget = {"abs_stepsize": size, "steps": steps, "random_start": True}
    return Case(
        ours=ours,
        peers={
            "advjax, monotone": lambda: partial(ours, monotone=True),
            "Foolbox, PyTorch": lambda: target.foolbox("LinfPGD", epsilon=epsilons, **budget),
            "torchattacks": torchattacks,
        },
        judge=judge,
        bars={"accuracy": None if smoke else 0.1},
        operations=len(epsilons) * steps * target.gradient_operations(),
        moved=target.bytes(len(epsilons) * steps),
        counted=f"XLA's count of one plain gradient, times {steps} steps and {len(epsilons)} epsilons",
        notes=target.known.weights,
    )


def _resnet50(images: int, smoke: bool) -> Case:
    target, epsilon = Target.of("resnet50", 1 if smoke else images), 4 / 255
    models, attacks = {"resnet50": target.known.classifier}, {"fgs": fgs(epsilon)}
    options: dict[str, Any] = {"key": jax.random.key(0), "batch_size": len(target.images)}

    def counted(attack: Run) -> Run:
        """The answers before, and after the attack."""
        torch, (x, y) = torch_with_all_cores(), target.tensors

        def run() -> list[float]:
            with torch.no_grad():
                clean = target.copy(x).argmax(-1) == y
            moved = attack()
            with torch.no_grad():
                return [float(clean.double().mean()), float((target.copy(moved).argmax(-1) == y).double().mean())]

        return run

    def judge(result: Any) -> Answers:
        if isinstance(result, Report):
            result = [cell.accuracy.value for cell in result.cells]
        return {"clean accuracy": result[0], "accuracy after FGS": result[1]}

    return Case(
        ours=lambda: evaluate(models, attacks, (target.images, target.labels), **options),
        peers={
            "Foolbox, PyTorch": lambda: counted(target.foolbox("LinfFastGradientAttack", epsilon=epsilon)),
            "torchattacks": lambda: counted(target.torchattacks("FGSM", eps=epsilon)),
            "PyTorch loop, channels last": lambda: counted(fgs_loop(target, epsilon)),
        },
        judge=judge,
        bars={"clean accuracy": 0.01, "accuracy after FGS": None},
        operations=2 * target.forward_operations() + target.gradient_operations(),
        moved=target.bytes(3),
        counted="XLA's count of the plain logits before and after, and of one gradient",
        notes=target.known.weights,
    )


JOBS: Mapping[str, Job] = {
    "sweep-lenet": Job("PGD-40 at eight epsilons, 256 images on LeNet: sweep in one call", partial(_sweep, 256, 40)),
    "evaluate-resnet50": Job(
        "evaluate ResNet-50 at 224x224 on 8 images: clean, and under FGS", partial(_resnet50, 8), alone=True
    ),
}
