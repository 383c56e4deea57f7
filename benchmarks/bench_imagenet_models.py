"""Hot/cold, FGV and PASS on ResNet-152 and GoogLeNet at 224x224, on two cores: seconds and peak memory.

    python benchmarks/bench_imagenet_models.py FOLDER      # photographs; writes benchmarks/results/imagenet_models.md

Weights are random (batch norm takes the statistics of the photographs), labels are what the network says, so success
and PASS say nothing of trained networks; time and memory do. Each network runs in a process of its own.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Before JAX starts its threads.
CORES = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, CORES)
sys.path.insert(0, str(Path(__file__).parents[1]))

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from PIL import Image  # noqa: E402

from advjax import fgv, from_nnx, hot_cold, perturb  # noqa: E402
from advjax.models.googlenet import GoogLeNet  # noqa: E402
from advjax.models.resnet import resnet152  # noqa: E402
from advjax.scores import pass_score  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "imagenet_models.md"
NETWORKS: dict[str, Callable[..., nnx.Module]] = {"ResNet-152": resnet152, "GoogLeNet (BVLC)": GoogLeNet}
IMAGES = 2


def photographs(folder: Path) -> jax.Array:
    """Float32 [IMAGES, 224, 224, 3]: central crops of the first photographs by name."""
    crops = []
    for path in sorted(folder.glob("*.jpg"))[:IMAGES]:
        image = Image.open(path).convert("RGB")
        left, top = ((side - 224) // 2 for side in image.size)
        crops.append(np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255)
    return jnp.asarray(np.stack(crops))


def network(make: Callable[..., nnx.Module], images: jax.Array) -> nnx.Module:
    """A network of random weights whose batch norms know the images."""
    # The generator `rbg` compiles several times faster than the usual one.
    model = make(rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    model.train(momentum=0.0)
    nnx.jit(lambda model: model(images))(model)
    model.eval(momentum=0.9)
    return model


def peak_memory() -> float:
    """The most memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """One row for each step, in the order in which memory was taken."""
    images, rows = photographs(folder), []

    def timed(step: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(run())
        first = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(run())
        again = time.perf_counter() - start
        rows.append({"step": step, "first": first, "again": again, "memory": peak_memory()})
        return result

    model = network(NETWORKS[name], images)
    rows.append({"step": "the network made", "first": None, "again": None, "memory": peak_memory()})
    classifier = from_nnx(model)
    forward = jax.jit(lambda classifier, x: classifier(x))
    labels = jnp.argmax(timed("logits", lambda: forward(classifier, images)), axis=-1).astype(jnp.int32)
    for step, attack in (("FGV", fgv()), ("HC-1", hot_cold())):
        result = timed(step, partial(perturb, attack, classifier, images, labels))
        rows[-1]["note"] = f"{int(result.success.sum())} of {IMAGES} succeed, {int(result.calls.max())} calls"
        score = timed(f"PASS of {step}", partial(pass_score, result.image, images))
        rows[-1]["note"] = "PASS " + ", ".join(f"{value:.4f}" for value in np.asarray(score.score))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photographs of 224x224 pixels or more (*.jpg)")
    parser.add_argument("--network", choices=NETWORKS, help="measure one and print it as JSON")
    options = parser.parse_args()
    if options.network:
        print(json.dumps(measure(options.network, options.folder)))
        return
    lines = [
        "# Hot/cold, FGV and PASS on ImageNet networks at 224x224",
        "",
        f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {len(CORES)} cores; Python "
        f"{platform.python_version()}, jax {jax.__version__}, flax {flax.__version__}. {IMAGES} photographs, random "
        "weights, labels as the network says. Written by `bench_imagenet_models.py`.",
        "",
        "| network | step | first call, s | again, s | peak memory so far, GiB | |",
        "|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        command = [sys.executable, __file__, str(options.folder), "--network", name]
        rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for row in rows:
            seconds = ("" if row[key] is None else f"{row[key]:.1f}" for key in ("first", "again"))
            lines.append(
                f"| {name} | {row['step']} | {' | '.join(seconds)} | {row['memory']:.2f} | {row.get('note', '')} |"
            )
    lines += ["", f"Load average at the end: {os.getloadavg()[0]:.1f}."]
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
