"""Programs themselves: how long they take to compile, what their devices tell one another, what the host does."""

import cProfile
import pstats
import re
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax import apgd, fgs, fgv, hot_cold, lbfgs, localized_pgd, perturb, pgd, square, steepest
from advjax.models import NETWORKS, abstract
from advjax.training import Batch, Resident, Trainer, create, placement, train_step
from benchmarks.harness import Case, Job, timed
from benchmarks.jobs.training import BATCH, OPTIMIZER, Training
from benchmarks.networks import network

__all__ = ["JOBS"]

_PLAIN = (0.0, 0.0, 0)
_ATTACKS: Mapping[str, Any] = {
    "pgd": pgd(0.3, step_size=0.01, steps=40),
    "fgs": fgs(),
    "hot_cold, 9 ranks": hot_cold(ranks=range(1, 10)),
    "apgd": apgd(0.3, steps=40),
    "fgv": fgv(),
    "steepest": steepest("linf", 0.1),
    "localized_pgd": localized_pgd("standard", 0.3, step_size=0.01, steps=40),
    "apgd, dlr-targeted": apgd(0.3, steps=40, objective="dlr-targeted"),
    "square": square(0.3, queries=500),
    "lbfgs": lbfgs(),
}


def _case(ours: Any, judge: Any, details: Any, notes: str = "") -> Case:
    """What has no peer and no floor."""
    return Case(ours, {}, judge, {}, 0.0, 0.0, "not counted", notes, details)


def _compile_attacks(name: str, images: int, attacks: int, smoke: bool) -> Case:
    known, (first, *others) = network(name), list(_ATTACKS)[: 2 if smoke else attacks]
    x, y, key = jnp.zeros((images, *known.shape)), jnp.zeros(images, jnp.int32), jax.random.key(0)

    def compiled(attack: str) -> Any:
        jax.clear_caches()
        return jax.jit(lambda *given: perturb(*given)).lower(_ATTACKS[attack], known.classifier, x, y, key).compile()

    def details() -> list[str]:
        rows = [f"| {attack} | {timed(partial(compiled, attack))[0]:.1f} |" for attack in others]
        return ["| the other attacks | s to trace and compile |", "|---|---:|", *rows]

    return _case(partial(compiled, first), _lines, details, f"{images} images, {first}")


def _lines(compiled: Any) -> dict[str, int]:
    return {"lines of the program": len(compiled.as_text().splitlines())}


def _compile_networks(smoke: bool) -> Case:
    def compiled(name: str) -> Any:
        """The logits of one image, for shapes: nothing is drawn or run."""
        jax.clear_caches()
        model = abstract(NETWORKS[name].make)
        model.eval()
        graphdef, state = nnx.split(model)
        images = jax.ShapeDtypeStruct((1, *NETWORKS[name].shape), jnp.float32)
        return jax.jit(lambda state, x: nnx.merge(graphdef, state, copy=True)(x)).lower(state, images).compile()

    def details() -> list[str]:
        names = ["lenet", "madry"] if smoke else list(NETWORKS)
        rows = [f"| {name} | {NETWORKS[name].shape} | {timed(partial(compiled, name))[0]:.1f} |" for name in names]
        return ["| network | input | s to make, trace and compile (bar: 60) |", "|---|---|---:|", *rows]

    return _case(partial(compiled, "lenet" if smoke else "senet154"), _lines, details)


def _devices(steps: int, smoke: bool) -> Case:
    """One batch over all simulated devices; they share the same cores, so no speed-up is to be expected."""
    training = Training([network("lenet", seed=0)], 2 if smoke else steps, *_PLAIN)
    devices = jax.devices()

    def details() -> list[str]:
        rows = []
        for count in (1, 2, 4, 8):
            if count <= len(devices):
                run = training.ours(placement(devices[:count]))
                run()
                step = 1000 * timed(run)[0] / training.steps
                rows.append(f"| {count} | {step:.1f} | {_communicated(training, devices[:count]):,} |")
        head = [
            "| devices | ms a step | bytes that each device sends through collectives, a step |",
            "|---:|---:|---:|",
        ]
        return [*head, *rows, "", f"The weights are {_weights(training):,} bytes."]

    return Case(
        ours=training.ours(placement(devices)),
        peers={"advjax, one device": lambda: training.ours(placement(devices[:1]))},
        judge=training.judge,
        bars={"change of the weights": 0.05},
        operations=training.operations(),
        moved=training.moved(),
        counted="as for the plain step",
        notes=f"{len(devices)} devices",
        details=details,
    )


def _weights(training: Training) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(create(training.known[0].model, OPTIMIZER).params))


def _communicated(training: Training, devices: list[jax.Device]) -> int:
    """The size of what the compiled step's collectives give, one device's share."""
    where = placement(devices)
    state = where.put(create(training.known[0].model, OPTIMIZER), where.replicated)
    images, labels = (where.put(a, where.of_batch(0, a.ndim)) for a in (training.images, training.labels))
    key = where.put(jax.random.key(0), where.replicated)
    program = jax.jit(train_step(OPTIMIZER)).lower(state, Batch(images, labels), key).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    results = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\(", program)
    shapes = re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", " ".join(results))
    return sum(int(bits) // 8 * int(np.prod([int(n) for n in sizes.split(",") if n])) for bits, sizes in shapes)


def _host(steps: int, block: int, smoke: bool) -> Case:
    """`fit` with checkpoints on as many images as MNIST has, random ones."""
    steps, block = (4, 2) if smoke else (steps, block)
    draw, count = np.random.default_rng(0), 256 if smoke else 60_000
    levels = draw.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    data, model = Resident(levels, draw.integers(0, 10, count, np.int32)), network("lenet", seed=0).model
    trainer = Trainer(train_step(OPTIMIZER), BATCH, block)

    def fit() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return trainer.fit(model, data, steps, jax.random.key(0), folder=folder, every=steps // 2)

    def details() -> list[str]:
        profile, start = cProfile.Profile(), time.perf_counter()
        profile.runcall(fit)
        whole = time.perf_counter() - start
        calls = {(Path(file).name, name): row for (file, _, name), row in pstats.Stats(profile).stats.items()}
        rows = {what: calls[place][3] for what, place in _HOST.items() if place in calls}
        rows["together (bar: 5 %)"] = sum(rows.values())
        table = [f"| {what} | {seconds:.3f} | {100 * seconds / whole:.2f} % |" for what, seconds in rows.items()]
        return ["| the host's own work between blocks | s | of the wall time |", "|---|---:|---:|", *table]

    return _case(fit, lambda fitted: {"loss at the end": float(fitted.loss[0, -1])}, details)


_HOST = {
    "shuffled orders": ("feed.py", "next"),
    "checkpoints, as far as training waits": ("keeper.py", "save"),
    "the last checkpoint": ("keeper.py", "wait"),
    "metrics": ("history.py", "write"),
    "signals": ("interrupts.py", "<lambda>"),
}

JOBS: Mapping[str, Job] = {
    "compile-lenet": Job(
        "compile PGD-40 on LeNet (bar: 10 s for any attack)", partial(_compile_attacks, "lenet", 256, 10)
    ),
    "compile-resnet50": Job("compile PGD-40 on ResNet-50", partial(_compile_attacks, "resnet50", 2, 4)),
    "compile-networks": Job("compile the forward pass of SENet-154, the slowest network", _compile_networks),
    "train-devices": Job(
        "20 plain steps of LeNet, batch 64 over eight simulated devices of the same cores",
        partial(_devices, 20),
        environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    ),
    "train-host": Job("1,000 steps of LeNet with checkpoints, 60,000 images in memory", partial(_host, 1000, 100)),
}
