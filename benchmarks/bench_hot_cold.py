"""All nine hot/cold directions of 1,000 MNIST digits to the boundary in one call: seconds, and which share succeeds.

Needs real MNIST in TFDS_DATA_DIR.  Trains Caffe's LeNet first (10,000 steps).  Writes benchmarks/results/hot_cold.md.
"""

import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from advjax import hot_cold, perturb
from advjax.data import load, to_float
from advjax.environment import hardware, versions
from advjax.training import Resident, Trainer, predict, train_step
from experiments.hard_positives.run import OPTIMIZER, fresh, of_states
from experiments.networks import key_of

REPEATS = 3


def main() -> None:
    """Prints and writes the result."""
    train, test = load("mnist", "train"), load("mnist", "test")
    start = time.perf_counter()
    trainer = Trainer(train_step(OPTIMIZER), batch_size=64, block=250)
    states = trainer.fit(fresh(0, "base", 1), Resident(train.images, train.labels), 10_000, key_of(0)).states
    training = time.perf_counter() - start
    error = 100 * np.mean(predict(states, test.images)[0] != test.labels)
    right = np.flatnonzero(predict(states, train.images[:1100])[0] == train.labels[:1100])[:1000]
    images, labels = jnp.asarray(to_float(train.images[right])), jnp.asarray(train.labels[right])
    classifier = of_states(states)[0]

    def attack() -> tuple[float, np.ndarray, np.ndarray]:
        start = time.perf_counter()
        result = jax.block_until_ready(perturb(hot_cold(ranks=range(1, 10)), classifier, images, labels))
        return time.perf_counter() - start, np.asarray(result.success), np.asarray(result.calls)

    first, success, calls = attack()
    seconds = np.array([attack()[0] for _ in range(REPEATS)])
    machine = hardware()
    lines = [
        "# Hot/cold to the boundary: 1,000 MNIST digits x 9 ranks in one call",
        "",
        f"{time.strftime('%Y-%m-%d')}, {machine['processor']}, {machine['cores']} cores used; "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "",
        "| what | result |",
        "|---|---|",
        f"| LeNet, 10,000 steps of 64 | {training:.0f} s, test error {error:.2f} % |",
        f"| 9,000 attacks, after compilation | {np.median(seconds):.1f} s (median of {REPEATS}; "
        f"{seconds.min():.1f} to {seconds.max():.1f}) |",
        f"| the first call, compilation included | {first:.1f} s |",
        f"| model calls per attack | median {np.median(calls):.0f}, most {calls.max()} |",
        f"| success by rank, % | {', '.join(f'{100 * share:.1f}' for share in success.mean(1))} |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "hot_cold.md").write_text(text)


if __name__ == "__main__":
    if not os.environ.get("TFDS_DATA_DIR"):
        raise SystemExit("this benchmark needs real MNIST: set TFDS_DATA_DIR")
    main()
