"""`python -m benchmarks [JOB ...]`: measures the jobs, each in a process of its own, and writes their records."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns how many jobs failed."""
    from benchmarks.jobs import JOBS

    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:24} {job.work}" for name, job in JOBS.items()))
        return 0
    if unknown := set(options.jobs) - set(JOBS):
        raise SystemExit(f"no such job: {', '.join(sorted(unknown))}; `--list` shows them all")
    if options.within:
        return _within(options)
    failed = [name for name in options.jobs or JOBS if _in_a_process(name, options)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="which; all, unless given")
    parser.add_argument("--list", action="store_true", help="name the jobs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)  # measure in this very process
    parser.add_argument("--side", help=argparse.SUPPRESS)  # run this side once, and print the memory it took
    return parser


def _command(name: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks", name, "--within", "--repeats", f"{options.repeats}"]
    return [*command, "--out", f"{options.out.resolve()}", *(["--smoke"] if options.smoke else [])]


def _environment(name: str) -> dict[str, str]:
    """A process that compiles for itself, whatever is stored, and finds the packages of this one."""
    from benchmarks.jobs import JOBS

    paths = os.pathsep.join(filter(None, (f"{Path(__file__).parents[1]}", os.environ.get("PYTHONPATH"))))
    kept = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    return {**kept, "PYTHONPATH": paths, **JOBS[name].environment}


def _in_a_process(name: str, options: argparse.Namespace) -> int:
    print(f"== {name}", flush=True)
    return subprocess.run(_command(name, options), env=_environment(name)).returncode


def _within(options: argparse.Namespace) -> int:
    """Measures the one job in this process, or runs one of its sides."""
    import jax

    from benchmarks.harness import measure, peak_memory
    from benchmarks.jobs import JOBS
    from benchmarks.summary import side_rows, write_record

    if jax.default_backend() == "gpu":  # float32 on both sides, as on a CPU; XLA's default would be TF32
        jax.config.update("jax_default_matmul_precision", "highest")
    (name,) = options.jobs
    job = JOBS[name]
    if options.side:
        case = job.prepare(options.smoke)
        (case.ours if options.side == "advjax" else case.peers[options.side]())()
        print(peak_memory())
        return 0
    record = measure(job, options.repeats, options.smoke)
    if job.alone:
        for side in (side for side, seen in record["sides"].items() if "seconds" in seen):
            command = [*_command(name, options), "--side", side]
            run = subprocess.run(command, env=_environment(name), capture_output=True, text=True)
            if run.returncode == 0:  # else the cell stays empty: what was timed is not thrown away
                record["sides"][side]["memory"] = float(run.stdout.split()[-1])
    write_record(options.out, name, record)
    print("\n".join(side_rows(record)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
