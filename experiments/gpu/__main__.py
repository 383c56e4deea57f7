"""`python -m experiments.gpu`: some minutes of the plan, and what came of it in archives; the same command goes on.

Needs Python, JAX with a GPU and this checkout. Whatever else is missing is taken from the folder that `make gpu-carry`
fills. Ends with 0 when all is done, with 75 when minutes were over before, with 1 when a task failed.
"""

import argparse
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

from experiments.gpu.carried import environment
from experiments.gpu.pack import pack, unpack
from experiments.gpu.plan import DONE, FAILED, PRESETS, run, tasks

_NOT_YET = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    runs, out = options.runs, options.out or options.runs / "packed"
    unpack(options.carried, runs)
    shared = environment(options.carried, runs)
    if options.preset != "smoke" and (found := _printed("import jax; print(jax.default_backend())", shared)) != "gpu":
        print(f"{sys.executable} must have a JAX that sees a GPU, found: {found}. `make gpu PRESET=smoke` needs none.")
        return 1
    jobs = _printed("from benchmarks.jobs import JOBS; print(*JOBS)", shared)
    states = run(tasks(options.preset, (jobs or "").split()), runs, options.minutes, shared)
    if jobs is None:
        states["benchmarks"] = FAILED
        print("benchmarks: failed, they cannot even be listed")
    left_out = pack(runs, out)
    print(f"packed in {out}; {len(left_out)} files found no room")
    if any(state.startswith(FAILED) for state in states.values()):
        return 1
    return 0 if set(states.values()) == {DONE} else _NOT_YET


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--minutes", type=float, default=8.5, help="end when so many are over")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/gpu"), help="folder of all runs")
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=pathlib.Path, default=out and pathlib.Path(out), help="of the archives")
    parser.add_argument("--carried", type=pathlib.Path, default=pathlib.Path(".gpu"), help="folder that came along")
    return parser


def _printed(program: str, shared: Mapping[str, str]) -> str | None:
    """What a program prints in the environment of the tasks, whose packages this one may lack; None: it failed."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=dict(shared), stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
