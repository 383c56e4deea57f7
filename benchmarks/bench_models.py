"""How long each network's forward takes to trace and to compile on two cores, one image, evaluation mode.

    python benchmarks/bench_models.py            # writes benchmarks/results/models.md; some minutes

Nothing is drawn or run: the program is compiled for shapes, with the weights as arguments, as the library does.
"""

import datetime
import os
import platform
import sys
import time
from pathlib import Path

# Before JAX starts its threads.
CORES = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, CORES)
sys.path.insert(0, str(Path(__file__).parents[1]))

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from advjax.models import NETWORKS, Network, abstract  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "models.md"
BAR = 60.0


def measure(network: Network) -> tuple[float, float]:
    """Seconds to trace and to compile the logits of one image."""
    model = abstract(network.make)
    model.eval()
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *network.shape), jnp.float32)
    start = time.perf_counter()
    lowered = jax.jit(lambda state, x: nnx.merge(graphdef, state, copy=True)(x)).lower(state, images)
    middle = time.perf_counter()
    lowered.compile()
    return middle - start, time.perf_counter() - middle


def main() -> None:
    rows = []
    for name, network in NETWORKS.items():
        tracing, compiling = measure(network)
        rows.append((name, network.shape, tracing, compiling))
        print(f"{name}: {tracing:.1f} s + {compiling:.1f} s", flush=True)
    slowest = max(rows, key=lambda row: row[2] + row[3])
    lines = [
        "# Compile time of each network's forward",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {len(CORES)} cores, load average at the end "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, jax {jax.__version__}, flax "
        f"{flax.__version__}. One image, evaluation mode, weights as arguments. Written by `bench_models.py`.",
        "",
        f"Bar: under {BAR:.0f} s together. Slowest: {slowest[0]}, {slowest[2] + slowest[3]:.1f} s.",
        "",
        "| network | input | trace, s | compile, s |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {'x'.join(map(str, shape))} | {t:.1f} | {c:.1f} |" for name, shape, t, c in rows]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
