"""Evaluations: a sweep over epsilons, and a network for photographs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from advjax import auto_attack, fgs, pgd
from advjax.evaluate import Report, Sweep, evaluate, robust_accuracy, sweep
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.jobs.attacks import fgs_loop
from benchmarks.target import Target, import_peer, torch_with_all_cores

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


def _auto_attack(name: str, images: int, epsilon: float, steps: int, queries: int, smoke: bool) -> Case:
    target = Target.of(name, 2 if smoke else images)
    steps, queries = (1, 2) if smoke else (steps, queries)
    attack = auto_attack("linf", epsilon, steps=steps, queries=queries)

    def ours() -> np.ndarray:
        data, key = (target.images, target.labels), jax.random.key(0)
        return robust_accuracy(target.known.classifier, *data, attack, key=key, batch_size=len(target.images)).images

    def torchattacks() -> Run:
        torch_with_all_cores()
        made = import_peer("torchattacks").AutoAttack(target.copy, norm="Linf", eps=epsilon, seed=0)
        # Ten steps of each are its default, where the paper, and we, have a hundred.
        for member in made._autoattack.attacks:
            member.steps, member.n_queries = steps, queries
        return lambda: made(*target.tensors)

    return Case(
        ours=ours,
        peers={"torchattacks": torchattacks},
        judge=target.judge(epsilon),
        # Losses are of the images that each keeps.
        bars={"fooled": 1.0 if smoke else 0.05, "loss": None},
        operations=steps * target.gradient_operations(),
        moved=target.bytes(steps),
        counted=f"XLA's count of one plain gradient, times the {steps} steps of the first member alone",
        notes=target.known.weights,
    )


JOBS: Mapping[str, Job] = {
    "auto-lenet": Job(
        "AutoAttack (20 steps, 200 queries) of 64 images on LeNet, epsilon 0.1: robust_accuracy",
        partial(_auto_attack, "lenet", 64, 0.1, 20, 200),
    ),
    "auto-resnet20": Job(
        "AutoAttack (20 steps, 200 queries) of 32 images on ResNet-20, epsilon 8/255: robust_accuracy",
        partial(_auto_attack, "resnet20", 32, 8 / 255, 20, 200),
    ),
    "sweep-lenet": Job("PGD-40 at eight epsilons, 256 images on LeNet: sweep in one call", partial(_sweep, 256, 40)),
    "evaluate-resnet50": Job(
        "evaluate ResNet-50 at 224x224 on 8 images: clean, and under FGS", partial(_resnet50, 8), alone=True
    ),
}
