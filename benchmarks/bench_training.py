"""Training: what an attack costs, several networks at once against in turn, and the host's share of the time.

LeNet on random digits-sized images (the time does not depend on what they show). Writes benchmarks/results/training.md.
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax

from advjax.attacks import steepest
from advjax.environment import hardware, versions
from advjax.models import LeNet
from advjax.training import Resident, Trainer, TrainState, ensemble, train_step

NETWORKS = 9
BLOCK = 100
ENSEMBLE_STEPS = 4
OPTIMIZER = optax.sgd(0.01, momentum=0.9)


def images() -> Resident:
    """As many images as MNIST has."""
    draw = np.random.default_rng(0)
    return Resident(draw.integers(0, 256, (60_000, 28, 28, 1)).astype(np.uint8), draw.integers(0, 10, 60_000, np.int32))


def lenets(count: int) -> TrainState:
    """`count` networks of other seeds."""
    return ensemble(lambda rngs: LeNet(rngs=rngs), OPTIMIZER, count)


def seconds_of(trainer: Trainer, networks: int, data: Resident, steps: int) -> Callable[[], float]:
    """Seconds for `steps` steps of all networks in one call, compiled before."""
    key = jax.random.key(0)
    states = trainer.fit(lenets(networks), data, trainer.block, key).states

    def run() -> float:
        nonlocal states
        start = time.perf_counter()
        states = trainer.fit(states, data, steps, key).states
        jax.block_until_ready(states)
        return time.perf_counter() - start

    return run


def side_by_side(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median seconds of each, all measured in turn so that each meets the same noise."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seen[name].append(run())
    return {name: statistics.median(times) for name, times in seen.items()}


def attack_cost(data: Resident, repeats: int) -> list[str]:
    """Algorithm 1 (one ascent, one descent) against plain training."""
    plain = Trainer(train_step(OPTIMIZER), 64, BLOCK)
    attacked = Trainer(train_step(OPTIMIZER, attack=steepest("linf", 0.1)), 64, BLOCK)
    runs = {"plain": seconds_of(plain, 1, data, BLOCK), "attacked": seconds_of(attacked, 1, data, BLOCK)}
    found = {name: 1000 * time_ / BLOCK for name, time_ in side_by_side(runs, repeats).items()}
    return [
        "## One ascent, one descent (Algorithm 1) against plain training",
        "",
        "| step | ms, median |",
        "|---|---|",
        f"| plain | {found['plain']:.1f} |",
        f'| `attack=steepest("linf", 0.1)` | {found["attacked"]:.1f} |',
        f"| ratio | {found['attacked'] / found['plain']:.2f} (bar: 2.1) |",
        "",
    ]


def ensemble_cost(data: Resident, repeats: int) -> list[str]:
    """Nine networks in one program, in turn or side by side, against nine calls."""
    step, steps = train_step(OPTIMIZER), ENSEMBLE_STEPS
    one = seconds_of(Trainer(step, 64, steps), 1, data, steps)
    runs = {"alone": lambda: sum(one() for _ in range(NETWORKS))}
    runs["as shipped"] = seconds_of(Trainer(step, 64, steps), NETWORKS, data, steps)
    real = jax.default_backend
    jax.default_backend = lambda: "other"
    runs["vmap"] = seconds_of(Trainer(step, 64, steps), NETWORKS, data, steps)
    jax.default_backend = real
    found = {name: 1000 * time_ / steps / NETWORKS for name, time_ in side_by_side(runs, repeats).items()}
    return [
        f"## {NETWORKS} LeNets at once against {NETWORKS} in turn, batch 64",
        "",
        f"| how | ms a step and network, median | against {NETWORKS} calls |",
        "|---|---|---|",
        *(f"| {name} | {ms:.2f} | {found['alone'] / ms:.2f}x |" for name, ms in found.items()),
        "",
        f"Blocks of {ENSEMBLE_STEPS} steps, so that the start of each call weighs in `alone`.",
        "`alone`: nine calls of `fit` with one network. `as shipped`: one call with nine (in turn on a CPU, `vmap` on",
        "an accelerator, where the bar is 3x). `vmap`: one call, side by side whatever the backend.",
        "",
    ]


def host_share(data: Resident, steps: int) -> list[str]:
    """The time of `fit`, checkpoints included, in which the device had nothing to do; and a profile of the host."""
    trainer, key = Trainer(train_step(OPTIMIZER), 64, BLOCK), jax.random.key(0)
    seconds_of(trainer, 1, data, BLOCK)()
    with tempfile.TemporaryDirectory() as folder:
        profile = cProfile.Profile()
        start = time.perf_counter()
        profile.enable()
        trainer.fit(lenets(1), data, steps, key, folder=folder, every=10 * BLOCK)
        profile.disable()
        whole = time.perf_counter() - start
    calls = {(Path(file).name, name): row for (file, _, name), row in pstats.Stats(profile).stats.items()}
    stages = {
        "shuffled orders": ("feed.py", "next"),
        "checkpoints, as far as training waits": ("keeper.py", "save"),
        "the last checkpoint": ("keeper.py", "wait"),
        "metrics": ("history.py", "write"),
        "signals": ("interrupts.py", "<lambda>"),
    }
    rows = {what: calls[place][3] for what, place in stages.items() if place in calls}
    busy = sum(rows.values())
    return [
        f"## The host between steps: {steps} steps of one LeNet on 60,000 images, a checkpoint every {10 * BLOCK}",
        "",
        f"`fit` took {whole:.1f} s. Profile of the host's own work between blocks; the rest is the device's:",
        "",
        "| host work | s | of the wall time |",
        "|---|---|---|",
        *(f"| {what} | {seconds:.3f} | {100 * seconds / whole:.2f} % |" for what, seconds in rows.items()),
        f"| together | {busy:.3f} | {100 * busy / whole:.2f} % (bar: 5 %) |",
        "",
        "The orders are made while the device works on the block before, so that even this share costs no time.",
        "",
    ]


def main() -> None:
    """Prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000, help="of the profile")
    options = parser.parse_args()
    data, machine = images(), hardware()
    lines = [
        "# Training",
        "",
        f"{time.strftime('%Y-%m-%d')}, {machine['processor']}, {machine['cores']} cores used, "
        f"{', '.join(machine['devices'])}; {', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "",
    ]
    print("\n".join(lines))
    measured = (attack_cost, host_share, ensemble_cost)
    for measure in measured:
        part = measure(data, options.steps if measure is host_share else options.repeats)
        print("\n".join(part), flush=True)
        lines += part
    text = "\n".join(lines).rstrip() + "\n"
    (Path(__file__).parent / "results" / "training.md").write_text(text)


if __name__ == "__main__":
    main()
