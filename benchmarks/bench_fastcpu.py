"""How much `accelerate` gains on a CPU, against plain JAX and a plain PyTorch loop, all in one process.

    taskset -c 0,1 python benchmarks/bench_fastcpu.py

LeNet (431,080 parameters), float32, random images: 40 steps of PGD on 256 images in one `fori_loop` under `vmap`;
20 scanned training steps at batch 64; the same steps of three networks stacked by `vmap`, each with its own batches.
Repeats are interleaved, and the medians go to `benchmarks/results/fastcpu.md`.
"""

import datetime
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from jax import lax

from advjax.fastcpu import accelerate

REPEATS = 3
STEPS, TRAINING_STEPS, BATCH, NETWORKS = 40, 20, 64, 3
STEP_SIZE, RADIUS, RATE, MOMENTUM = 0.01, 0.3, 0.01, 0.9
SHAPES = [(5, 5, 1, 20), (20,), (5, 5, 20, 50), (50,), (800, 500), (500,), (500, 10), (10,)]

Weights = list[jax.Array]


def initial(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    scales = [np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.0 for shape in SHAPES]
    return [jnp.asarray(rng.normal(size=s) * scale, jnp.float32) for s, scale in zip(SHAPES, scales, strict=True)]


def lenet(w: Weights, x: jax.Array) -> jax.Array:
    for kernel, bias in (w[0:2], w[2:4]):
        x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ w[4] + w[5]) @ w[6] + w[7]


def loss(w: Weights, images: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(lenet(w, images)), labels[:, None], 1).mean()


def pgd(w: Weights, images: jax.Array, labels: jax.Array) -> jax.Array:
    def one(start: jax.Array, label: jax.Array) -> jax.Array:
        def step(_: jax.Array, x: jax.Array) -> jax.Array:
            gradient = jax.grad(loss, 1)(w, x[None], label[None])[0]
            return jnp.clip(jnp.clip(x + STEP_SIZE * jnp.sign(gradient), start - RADIUS, start + RADIUS), 0, 1)

        return lax.fori_loop(0, STEPS, step, start)

    return jax.vmap(one)(images, labels)


def train(w: Weights, images: jax.Array, labels: jax.Array) -> Weights:
    def step(state: Any, batch: Any) -> Any:
        w, velocity = state
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, jax.grad(loss)(w, *batch))
        return (jax.tree.map(lambda w, v: w - RATE * v, w, velocity), velocity), None

    return lax.scan(step, (w, jax.tree.map(jnp.zeros_like, w)), (images, labels))[0][0]


def torch_weights(w: Weights) -> list[torch.Tensor]:
    """In PyTorch's layouts; its flattening runs over channels first, which changes no amount of work."""
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    return [torch.tensor(np.asarray(a).transpose(order[a.ndim])).contiguous() for a in w]


def torch_lenet(w: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = F.max_pool2d(F.conv2d(x, w[0], w[1]), 2)
    x = F.max_pool2d(F.conv2d(x, w[2], w[3]), 2)
    return F.linear(F.relu(F.linear(x.flatten(1), w[4], w[5])), w[6], w[7])


def torch_pgd(w: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    x = images
    for _ in range(STEPS):
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(torch_lenet(w, x), labels, reduction="sum"), x)
        x = torch.clamp(x.detach() + STEP_SIZE * gradient.sign(), images - RADIUS, images + RADIUS).clamp(0, 1)
    return x


def torch_train(w: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    w = [a.clone().requires_grad_(True) for a in w]
    optimizer = torch.optim.SGD(w, lr=RATE, momentum=MOMENTUM)
    for x, y in zip(images, labels, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(torch_lenet(w, x), y).backward()
        optimizer.step()
    return w


def medians(sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds per call of each side, after one call to compile; the repeats of the sides alternate."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(REPEATS + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure() -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    images = rng.random((256, 28, 28, 1), dtype=np.float32)
    batches = rng.random((TRAINING_STEPS, BATCH, 28, 28, 1), dtype=np.float32)
    labels, batch_labels = (rng.integers(0, 10, shape[:-3], dtype=np.int32) for shape in (images.shape, batches.shape))
    attack, steps = (jnp.asarray(images), jnp.asarray(labels)), (jnp.asarray(batches), jnp.asarray(batch_labels))
    channels_first = (torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels).long())
    torch_batches = (torch.tensor(batches).permute(0, 1, 4, 2, 3), torch.tensor(batch_labels).long())
    w = initial(0)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(initial, range(NETWORKS)))
    # Each network sees the batches in an order of its own.
    orders = [jax.tree.map(lambda a, n=n: jnp.roll(a, n, 0), steps) for n in range(NETWORKS)]
    all_steps = jax.tree.map(lambda *leaves: jnp.stack(leaves), *orders)
    one = jax.jit(accelerate(train))

    def sides(function: Callable[..., Any], *arguments: Any) -> dict[str, Callable[[], Any]]:
        plain, fast = jax.jit(function), jax.jit(accelerate(function))
        return {"plain": lambda: plain(*arguments), "accelerate": lambda: fast(*arguments)}

    weights = torch_weights(w)
    return {
        f"PGD, {STEPS} steps, {len(images)} images": medians(
            sides(pgd, w, *attack) | {"PyTorch": lambda: torch_pgd(weights, *channels_first)}
        ),
        f"{TRAINING_STEPS} training steps, batch {BATCH}": medians(
            sides(train, w, *steps) | {"PyTorch": lambda: torch_train(weights, *torch_batches)}
        ),
        f"the same, {NETWORKS} networks": medians(
            sides(jax.vmap(train), stacked, *all_steps)
            | {
                "accelerate, in turn": lambda: [one(w, *order) for order in orders],
                "PyTorch": lambda: [torch_train(weights, *torch_batches) for _ in range(NETWORKS)],
            }
        ),
    }


def report(results: dict[str, dict[str, float]]) -> str:
    cores = len(os.sched_getaffinity(0))
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    cpu = names[0].split(":")[1].strip() if names else platform.processor()
    lines = [
        "# `accelerate` on a CPU",
        "",
        f"{datetime.date.today()}, {cpu}, {cores} cores, JAX {jax.__version__}, PyTorch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}. LeNet, float32; medians of {REPEATS} "
        "interleaved repeats in one process, by `benchmarks/bench_fastcpu.py`.",
        "",
        "| job | side | seconds | times `accelerate` |",
        "|---|---|---:|---:|",
    ]
    for job, times in results.items():
        lines += [f"| {job} | {side} | {t:.3f} | {t / times['accelerate']:.2f} |" for side, t in times.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    text = report(measure())
    print(text)
    (pathlib.Path(__file__).parent / "results" / "fastcpu.md").write_text(text)


if __name__ == "__main__":
    main()
