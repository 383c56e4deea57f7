"""PGD of 40 steps on 256 images, against Foolbox and torchattacks, all in one process.

    taskset -c 0,1 python benchmarks/bench_pgd.py

LeNet (431,080 parameters), the same weights on all sides, float32, random images on the grid, linf, epsilon 0.3, step
0.01, random start. Ours is `perturb(pgd(...))` as users call it, checks, rounding and verdict included; Foolbox attacks
the jitted JAX model and, beside it, the PyTorch one; torchattacks the PyTorch one. Before timing, each side's images
are checked to lie in the ball and to fool the network. Repeats are interleaved, and the medians go to
`benchmarks/results/pgd.md`.
"""

import argparse
import datetime
import os
import pathlib
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from advjax import from_nnx, perturb, pgd
from advjax.models import LeNet

with warnings.catch_warnings():
    # Of what they import, and theirs.
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks

EPSILON, STEP_SIZE, STEPS, IMAGES = 0.3, 0.01, 40, 256


class TorchLeNet(torch.nn.Module):
    """The same network, NCHW."""

    def __init__(self, model: LeNet) -> None:
        super().__init__()
        order = {4: (3, 2, 0, 1), 2: (1, 0)}
        self.weights = torch.nn.ParameterList()
        for layer in (model.conv1, model.conv2, model.dense1, model.dense2):
            kernel, bias = np.asarray(layer.kernel[...]), np.array(layer.bias[...])
            self.weights.append(torch.tensor(kernel.transpose(order[kernel.ndim]).copy()))
            self.weights.append(torch.tensor(bias))
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weights
        x = F.max_pool2d(F.conv2d(x * (255 / 256), w[0], w[1]), 2)
        x = F.max_pool2d(F.conv2d(x, w[2], w[3]), 2)
        return F.linear(F.relu(F.linear(x.permute(0, 2, 3, 1).flatten(1), w[4], w[5])), w[6], w[7])


def sides() -> tuple[dict[str, Callable[[], Any]], Callable[[str, Any], None]]:
    """What to time, and a check of what came out."""
    model = LeNet(rngs=nnx.Rngs(0))
    classifier, copy = from_nnx(model), TorchLeNet(model).eval()
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (IMAGES, 28, 28, 1)) / np.float32(255)).astype(np.float32)
    x = jnp.asarray(images)
    y = jnp.argmax(classifier(x), -1).astype(jnp.int32)
    torch_x = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    torch_y = torch.tensor(np.asarray(y)).long()
    key = jax.random.key(0)
    # New numbers each time would be as fast: nothing is traced again.
    ours = pgd(EPSILON, step_size=STEP_SIZE, steps=STEPS)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=True)
    on_jax = foolbox.JAXModel(jax.jit(classifier), bounds=(0, 1))
    on_torch = foolbox.PyTorchModel(copy, bounds=(0, 1), device="cpu")
    theirs = torchattacks.PGD(copy, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS, random_start=True)

    def check(name: str, result: Any) -> None:
        pixels = np.asarray(result.image if name == "advjax" else result)
        pixels = pixels if pixels.shape == images.shape else pixels.transpose(0, 2, 3, 1)
        fooled = float(np.mean(np.argmax(np.asarray(classifier(jnp.asarray(pixels))), -1) != np.asarray(y)))
        if np.abs(pixels - images).max() > EPSILON + 1e-5 or fooled < 0.99:
            raise RuntimeError(f"{name} left the ball or fooled only {fooled:.0%} of images")

    return {
        "advjax": lambda: perturb(ours, classifier, x, y, key),
        "Foolbox, jitted JAX model": lambda: attack(on_jax, x, y, epsilons=EPSILON)[1],
        "Foolbox, PyTorch": lambda: attack(on_torch, torch_x, torch_y, epsilons=EPSILON)[1],
        "torchattacks, PyTorch": lambda: theirs(torch_x, torch_y),
    }, check


def medians(repeats: int) -> dict[str, float]:
    """Seconds per call of each side, after one call to compile and check; the repeats of the sides alternate."""
    runs, check = sides()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        check(name, run())
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def report(times: dict[str, float], repeats: int) -> str:
    cores = len(os.sched_getaffinity(0))
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    cpu = names[0].split(":")[1].strip() if names else platform.processor()
    better = min(
        seconds for name, seconds in times.items() if name in ("Foolbox, jitted JAX model", "torchattacks, PyTorch")
    )
    lines = [
        f"# PGD, {STEPS} steps, {IMAGES} images",
        "",
        f"{datetime.date.today()}, {cpu}, {cores} cores, JAX {jax.__version__}, PyTorch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, Foolbox {foolbox.__version__}, Python {platform.python_version()}. LeNet, "
        f"float32, linf; medians of {repeats} interleaved repeats in one process, by `benchmarks/bench_pgd.py`.",
        "",
        "| side | seconds | times advjax |",
        "|---|---:|---:|",
        *(f"| {name} | {seconds:.3f} | {seconds / times['advjax']:.2f} |" for name, seconds in times.items()),
        "",
        f"advjax is {better / times['advjax']:.2f}x as fast as the better of Foolbox on the jitted JAX model and "
        "torchattacks.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    text = report(medians(repeats), repeats)
    print(text)
    (pathlib.Path(__file__).parent / "results" / "pgd.md").write_text(text)


if __name__ == "__main__":
    main()
