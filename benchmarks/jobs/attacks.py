"""Attacks within a budget, against the same attack of other libraries on the same network."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import apgd, fgs, perturb, pgd, square
from advjax.entropy import cross_entropies
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.target import Target, torch_with_all_cores

__all__ = ["JOBS", "fgs_loop"]

Peers = Mapping[str, Callable[[], Run]]


def fgs_loop(target: Target, epsilon: float) -> Run:
    """The fast gradient sign in PyTorch, channels last."""
    return _torch_loop(target, epsilon, epsilon, 1, random_start=False)


def _torch_loop(
    target: Target,
    epsilon: float,
    size: float,
    steps: int,
    *,
    random_start: bool = True,
    last: bool = True,
    compiled: bool = False,
) -> Run:
    """PGD as a plain loop in PyTorch; `last`: channels last in memory, as JAX has them."""
    torch = torch_with_all_cores()
    layout = {"memory_format": torch.channels_last} if last else {}
    images, labels = target.tensors[0].contiguous(**layout), target.tensors[1]
    model = copy.deepcopy(target.copy).to(**layout)
    model = torch.compile(model) if compiled else model

    def run() -> Any:
        noise = torch.empty_like(images).uniform_(-epsilon, epsilon) if random_start else torch.zeros_like(images)
        x = (images + noise).clamp(0, 1)
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), labels, reduction="sum"), x)
            moved = x.detach() + size * gradient.sign()
            x = torch.clamp(moved, images - epsilon, images + epsilon).clamp(0, 1)
        return x

    return run


def _jax_loop(target: Target, epsilon: float, size: float, steps: int) -> Run:
    """What one writes in JAX alone: one jitted loop over the batch."""
    classifier, (images, labels) = target.known.classifier, target.arrays

    def step(_: int, x: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda x: cross_entropies(classifier(x), labels).sum())(x)
        return jnp.clip(jnp.clip(x + size * jnp.sign(gradient), images - epsilon, images + epsilon), 0, 1)

    @jax.jit
    def attack(key: jax.Array) -> jax.Array:
        start = images + jax.random.uniform(key, images.shape, minval=-epsilon, maxval=epsilon)
        return jax.lax.fori_loop(0, steps, step, jnp.clip(start, 0, 1))

    return lambda: attack(jax.random.key(0))


def _pgd_peers(target: Target, epsilon: float, size: float, steps: int) -> Peers:
    budget = {"abs_stepsize": size, "steps": steps, "random_start": True}
    loop = partial(_torch_loop, target, epsilon, size, steps)
    return {
        "Foolbox, PyTorch": lambda: target.foolbox("LinfPGD", epsilon=epsilon, **budget),
        "Foolbox, jitted JAX model": lambda: target.foolbox("LinfPGD", True, epsilon=epsilon, **budget),
        "torchattacks": lambda: target.torchattacks("PGD", eps=epsilon, alpha=size, steps=steps, random_start=True),
        "ART": lambda: target.art(
            "ProjectedGradientDescentPyTorch", norm=np.inf, eps=epsilon, eps_step=size, max_iter=steps,
            num_random_init=1, batch_size=len(target.images), verbose=False,
        ),
        "adv-lib": lambda: target.adv_lib("pgd_linf", ε=epsilon, steps=steps, absolute_step_size=size),
        "PyTorch loop": partial(loop, last=False),
        "PyTorch loop, channels last": loop,
        "PyTorch loop, channels last, torch.compile": partial(loop, compiled=True),
        "plain JAX loop": lambda: _jax_loop(target, epsilon, size, steps),
    }  # fmt: skip


def _pgd(name: str, images: int, epsilon: float, size: float, steps: int, smoke: bool) -> Case:
    target = Target.of(name, 4 if smoke else images)
    steps = 3 if smoke else steps
    attack, key = pgd(epsilon, step_size=size, steps=steps), jax.random.key(0)
    return Case(
        ours=lambda: perturb(attack, target.known.classifier, *target.arrays, key),
        peers=_pgd_peers(target, epsilon, size, steps),
        judge=target.judge(epsilon),
        bars={"fooled": 1.0, "loss": 1.0} if smoke else {"fooled": 0.05, "loss": 0.2},
        operations=steps * target.gradient_operations(),
        moved=target.bytes(steps),
        counted=f"XLA's count of one plain gradient, times {steps} steps; the weights and the images in and out each",
        notes=target.known.weights,
    )


def _fgs(images: int, smoke: bool) -> Case:
    target, epsilon = Target.of("lenet", 4 if smoke else images), 51 / 255
    in_ball = target.judge(epsilon)

    def judge(result: Any) -> Answers:
        return {**in_ball(result), "change of the images": target.pixels(result) - target.images}

    return Case(
        ours=lambda: perturb(fgs(epsilon), target.known.classifier, *target.arrays),
        peers={
            "Foolbox, PyTorch": lambda: target.foolbox("LinfFastGradientAttack", epsilon=epsilon),
            "Foolbox, jitted JAX model": lambda: target.foolbox("LinfFastGradientAttack", True, epsilon=epsilon),
            "torchattacks": lambda: target.torchattacks("FGSM", eps=epsilon),
            "ART": lambda: target.art("FastGradientMethod", eps=epsilon, batch_size=len(target.images)),
            "PyTorch loop, channels last": lambda: fgs_loop(target, epsilon),
        },
        judge=judge,
        # Where rounding turns the sign of a gradient, a pixel moves the other way.
        bars={"fooled": 0.02, "loss": 0.02, "change of the images": 0.05},
        operations=target.gradient_operations() + 2 * target.forward_operations(),
        moved=target.bytes(3),
        counted="XLA's count of one plain gradient, and of the answers before and after",
        notes=target.known.weights,
    )


def _apgd(images: int, steps: int, smoke: bool) -> Case:
    target, epsilon = Target.of("lenet", 4 if smoke else images), 0.1
    steps = 5 if smoke else steps
    attack, key = apgd(epsilon, steps=steps, levels=None), jax.random.key(0)
    return Case(
        ours=lambda: perturb(attack, target.known.classifier, *target.arrays, key),
        peers={
            "torchattacks": lambda: target.torchattacks("APGD", eps=epsilon, steps=steps),
            "adv-lib": lambda: target.adv_lib("apgd", eps=epsilon, norm=np.inf, n_iter=steps, loss_function="ce"),
            "ART": lambda: target.art(
                "AutoProjectedGradientDescent", eps=epsilon, eps_step=2 * epsilon, max_iter=steps, nb_random_init=1,
                batch_size=len(target.images), loss_type="cross_entropy", verbose=False,
            ),
        },
        judge=target.judge(epsilon),
        # Losses are of the image that each library keeps: the first that fools, the last, the worst.
        bars={"fooled": 1.0 if smoke else 0.1, "loss": None},
        operations=lambda result: float(np.mean(result.calls)) * target.gradient_operations(),
        moved=target.bytes(1),
        counted="XLA's count of one plain gradient, times the mean number of our calls an image",
        notes=target.known.weights,
    )  # fmt: skip


def _square(images: int, queries: int, smoke: bool) -> Case:
    target, epsilon = Target.of("lenet", 4 if smoke else images), 0.15
    queries = 20 if smoke else queries
    attack, key = square(epsilon, queries=queries, levels=None), jax.random.key(0)
    return Case(
        ours=lambda: perturb(attack, target.known.classifier, *target.arrays, key),
        peers={
            "torchattacks": lambda: target.torchattacks("Square", eps=epsilon, n_queries=queries),
            "ART": lambda: target.art(
                "SquareAttack", eps=epsilon, max_iter=queries, batch_size=len(target.images), verbose=False
            ),
        },
        judge=target.judge(epsilon),
        bars={"fooled": 1.0 if smoke else 0.2, "loss": None},
        operations=lambda result: float(np.mean(result.calls)) * target.forward_operations(),
        moved=target.bytes(1),
        counted="XLA's count of the plain logits, times the mean number of our calls an image",
        notes=target.known.weights,
    )


def _pgd_job(work: str, *arguments: Any, alone: bool = False) -> Job:
    return Job(
        f"{work}: perturb(pgd), random start, checks and verdict included", partial(_pgd, *arguments), alone=alone
    )


_BALL = 8 / 255, 2 / 255
JOBS: Mapping[str, Job] = {
    "fgs-lenet": Job("FGS of 1024 images on LeNet, epsilon 0.2", partial(_fgs, 1024)),
    "pgd-lenet": _pgd_job("PGD-40 of 256 images on LeNet, epsilon 0.3", "lenet", 256, 0.3, 0.01, 40),
    "memory-lenet": _pgd_job("peak memory: PGD-5 of 256 images on LeNet", "lenet", 256, 0.3, 0.08, 5, alone=True),
    "pgd-madry": _pgd_job("PGD-40 of 256 images on Madry's MNIST net, epsilon 0.3", "madry", 256, 0.3, 0.01, 40),
    "pgd-resnet20": _pgd_job("PGD-40 of 64 images on ResNet-20, epsilon 8/255", "resnet20", 64, *_BALL, 40),
    "pgd-vgg": _pgd_job("PGD-10 of 32 images on VGG at 32x32x3, epsilon 8/255", "vgg-cifar", 32, *_BALL, 10),
    "pgd-wrn": _pgd_job("PGD-3 of 4 images on WRN-28-10, epsilon 8/255", "wrn-28-10", 4, *_BALL, 3, alone=True),
    "apgd-lenet": Job("APGD-40 on cross-entropy, 256 images on LeNet, epsilon 0.1", partial(_apgd, 256, 40)),
    "square-lenet": Job("Square, 500 queries, 64 images on LeNet, epsilon 0.15", partial(_square, 64, 500)),
}
