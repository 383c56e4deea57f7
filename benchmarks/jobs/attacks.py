"""Attacks within a budget, against the same attack of other libraries on the same network."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import perturb, pgd
from advjax.entropy import cross_entropies
from benchmarks.floor import operations_of
from benchmarks.harness import Case, Job, Run
from benchmarks.networks import Known
from benchmarks.peers import Target, torch_with_all_cores

__all__ = ["JOBS", "gradient_operations", "judge_in_ball"]


def gradient_operations(known: Known, images: np.ndarray) -> float:
    """Operations of one plain gradient of the loss of all images with respect to them."""
    classifier = known.classifier

    def loss(x: jax.Array) -> jax.Array:
        return cross_entropies(classifier(x), jnp.zeros(len(images), jnp.int32)).sum()

    return operations_of(jax.grad(loss), jnp.asarray(images))


def bytes_of(known: Known, images: np.ndarray, passes: int) -> float:
    """The weights once a pass; the images in and out once a pass."""
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(known.classifier.variables) if hasattr(leaf, "nbytes"))
    return float(passes * (weights + 2 * images.nbytes))


def judge_in_ball(target: Target, epsilon: float, least: float = 0.0) -> Callable[[Any], Mapping[str, Any]]:
    """The share fooled and the mean loss, for images that must lie in the ball and in [0, 1]."""

    def judge(result: Any) -> Mapping[str, Any]:
        pixels = target.pixels(result)
        distance = float(np.abs(pixels - target.images).max())
        if distance > epsilon + 1e-5 or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(
                f"images must lie within {epsilon} and in [0, 1], got {distance} and [{pixels.min()}, {pixels.max()}]"
            )
        logits = target.answers(result)
        fooled = float(np.mean(logits.argmax(-1) != target.labels))
        if fooled < least:
            raise ValueError(f"at least {least:.0%} of the images must be fooled, got {fooled:.1%}")
        return {"fooled": fooled, "loss": float(cross_entropies(jnp.asarray(logits), target.arrays[1]).mean())}

    return judge


def _torch_pgd(target: Target, epsilon: float, size: float, steps: int, model: Any, *, last: bool = False) -> Run:
    """A plain loop in PyTorch; `last`: with channels last in memory."""
    torch = torch_with_all_cores()
    layout = {"memory_format": torch.channels_last} if last else {}
    images, labels = target.tensors[0].contiguous(**layout), target.tensors[1]
    if last:
        model = model.to(**layout)

    def run() -> Any:
        x = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), labels, reduction="sum"), x)
            moved = x.detach() + size * gradient.sign()
            x = torch.clamp(moved, images - epsilon, images + epsilon).clamp(0, 1)
        return x

    return run


def _pgd_peers(target: Target, epsilon: float, size: float, steps: int) -> Mapping[str, Callable[[], Run]]:
    budget = {"abs_stepsize": size, "steps": steps, "random_start": True}
    loop = partial(_torch_pgd, target, epsilon, size, steps)

    def channels_last() -> Run:
        import copy

        return loop(copy.deepcopy(target.copy), last=True)

    return {
        "Foolbox, PyTorch": lambda: target.foolbox("LinfPGD", epsilon=epsilon, **budget),
        "Foolbox, jitted JAX model": lambda: target.foolbox("LinfPGD", True, epsilon=epsilon, **budget),
        "torchattacks": lambda: target.torchattacks("PGD", eps=epsilon, alpha=size, steps=steps, random_start=True),
        "ART": lambda: target.art(
            "ProjectedGradientDescentPyTorch", norm=np.inf, eps=epsilon, eps_step=size, max_iter=steps,
            num_random_init=1, batch_size=len(target.images), verbose=False,
        ),
        "adv-lib": lambda: target.adv_lib("pgd_linf", ε=epsilon, steps=steps, absolute_step_size=size),
        "PyTorch loop": lambda: loop(target.copy),
        "PyTorch loop, channels last": channels_last,
        "PyTorch loop, torch.compile": lambda: loop(torch_with_all_cores().compile(target.copy)),
    }  # fmt: skip


def _pgd(name: str, images: int, epsilon: float, size: float, steps: int, smoke: bool) -> Case:
    target = Target.of(name, 4 if smoke else images)
    steps = 3 if smoke else steps
    attack, key = pgd(epsilon, step_size=size, steps=steps), jax.random.key(0)
    return Case(
        ours=lambda: perturb(attack, target.known.classifier, *target.arrays, key),
        peers=_pgd_peers(target, epsilon, size, steps),
        judge=judge_in_ball(target, epsilon, 0.0 if smoke else 0.99),
        bars={"fooled": 1.0, "loss": 0.5} if smoke else {"fooled": 0.02, "loss": 0.1},
        operations=steps * gradient_operations(target.known, target.images),
        moved=bytes_of(target.known, target.images, steps),
        counted=f"XLA's count of one plain gradient, times {steps} steps; the weights and the images in and out each",
        notes=target.known.weights,
    )


def _job(work: str, *arguments: Any) -> Job:
    return Job(work, partial(_pgd, *arguments))


_WITHIN = "perturb(pgd) with random start, checks and verdict included, epsilon"
JOBS: Mapping[str, Job] = {
    "pgd-lenet": _job(f"PGD-40 of 256 images on LeNet: {_WITHIN} 0.3", "lenet", 256, 0.3, 0.01, 40),
    "pgd-madry": _job(f"PGD-40 of 256 images on Madry's MNIST net: {_WITHIN} 0.3", "madry", 256, 0.3, 0.01, 40),
    "pgd-resnet20": _job(f"PGD-40 of 64 images on ResNet-20: {_WITHIN} 8/255", "resnet20", 64, 8 / 255, 2 / 255, 40),
    "pgd-vgg": _job(
        f"PGD-10 of 32 images on the VGG of 32x32x3: {_WITHIN} 8/255", "vgg-cifar", 32, 8 / 255, 2 / 255, 10
    ),
    "pgd-wrn": _job(f"PGD-3 of 4 images on WRN-28-10: {_WITHIN} 8/255", "wrn-28-10", 4, 8 / 255, 4 / 255, 3),
}
