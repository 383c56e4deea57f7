"""A benchmark is a `Job`: a work, our way to do it, those of others, and what must agree; `measure` times them."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, TypeAlias

import jax
import numpy as np

from advjax.environment import hardware, versions
from benchmarks.floor import Rates, floor_seconds, measure_rates

__all__ = ["Answers", "Case", "Job", "Run", "measure", "peak_memory", "timed"]

Run: TypeAlias = Callable[[], Any]
Answers: TypeAlias = Mapping[str, Any]

# Seconds of a first call beyond which a side ten times as slow as ours is not run again.
_LONGEST = 60.0
_PEERS = (
    "torch", "foolbox", "torchattacks", "adversarial-robustness-toolbox", "adv-lib", "opencv-python-headless",
    "scikit-image",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A work that is ready to be done.

    Attributes:
      ours: this library's way; each call does the whole work.
      peers: by name, what makes another library's run; it raises ImportError where that is not installed.
      judge: what a result is worth, numbers or arrays by name; raises ValueError where a result is wrong by itself.
      bars: of each answer, the most that a peer's may be off, mean |a - b| / mean |a|; None: it is reported only.
      operations, moved: floating-point operations (or their number from our result) and bytes that the work needs.
      counted: where these two numbers are from.
      notes: what else should be known of this run, such as the weights.
      details: more than a race can tell, as lines of Markdown, measured after it.
    """

    ours: Run
    peers: Mapping[str, Callable[[], Run]]
    judge: Callable[[Any], Answers]
    bars: Mapping[str, float | None]
    operations: float | Callable[[Any], float]
    moved: float
    counted: str
    notes: str = ""
    details: Callable[[], list[str]] | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """What is measured, in one sentence, and the function that gets it ready: `prepare(smoke)`, tiny with `smoke`.

    Attributes:
      environment: variables that the job's own process starts with.
      alone: whether each side is run once more in a process of its own, for the memory that it takes.
    """

    work: str
    prepare: Callable[[bool], Case]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    alone: bool = False


def measure(job: Job, repeats: int, smoke: bool = False) -> dict[str, Any]:
    """The record of a job: each side is compiled, judged beside ours, and then timed, the sides taking turns."""
    load = os.getloadavg()[0]
    case = job.prepare(smoke)
    before = measure_rates(smoke)
    runs, sides, result = _ready(case)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            time.sleep(0.0 if smoke else 0.05)  # threads that still spin for the side before would take cores
            seconds[name].append(timed(run)[0])
    for name, times in seconds.items():
        sides[name]["seconds"] = times
    after = measure_rates(smoke)
    rates = Rates(max(before[0], after[0]), max(before[1], after[1]), max(before, after).best)
    ours = statistics.median(seconds["advjax"])
    operations = case.operations(result) if callable(case.operations) else case.operations
    floor = floor_seconds(operations, case.moved, rates)
    return {
        "work": job.work,
        "notes": case.notes,
        "date": f"{datetime.date.today()}",
        "machine": hardware(),
        "versions": versions() | _versions_of_peers(),
        "repeats": repeats,
        "load": load,
        "sides": sides,
        "agreed": {name: bar for name, bar in case.bars.items() if bar is not None},
        "floor": {
            "operations": operations,
            "bytes": case.moved,
            "counted": case.counted,
            "rates": rates._asdict(),
            "seconds": floor,
            "times": ours / floor if floor else None,
        },
        "memory": peak_memory(),
        "details": case.details() if case.details else [],
    }


def _ready(case: Case) -> tuple[dict[str, Run], dict[str, dict[str, Any]], Any]:
    """The runs that may be timed, compiled; each side's first seconds and answers, or what is amiss; our result."""
    first, our_result = timed(case.ours)
    ours = case.judge(our_result)
    runs: dict[str, Run] = {"advjax": case.ours}
    sides: dict[str, dict[str, Any]] = {"advjax": {"first": first, "answers": _means(ours)}}
    for name, make in case.peers.items():
        try:
            run = make()
            first, result = timed(run)
            theirs = case.judge(result)
        except ImportError as error:
            sides[name] = {"absent": f"not installed ({error})"}
        except Exception as error:  # whatever a peer does, the others are measured
            sides[name] = {"absent": f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        else:
            sides[name] = {"first": first, "answers": _means(theirs)}
            if amiss := _disagreement(ours, theirs, case.bars):
                sides[name]["absent"] = f"disagrees: {amiss}"
            elif first > max(_LONGEST, 10 * sides["advjax"]["first"]):
                sides[name]["absent"] = f"too slow to repeat: the first call took {first:.0f} s"
            else:
                runs[name] = run
    return runs, sides, our_result


def timed(run: Run) -> tuple[float, Any]:
    """Seconds until the result is there, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def _versions_of_peers() -> dict[str, str]:
    found = {}
    for package in _PEERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def peak_memory() -> float:
    """The most memory that this process has held, in MiB.

    `ru_maxrss` would be that of the process that started this one, where that held more.
    """
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [float(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (peaks or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])[0] / 1024


def _means(answers: Answers) -> dict[str, float]:
    return {name: float(np.nanmean(answer)) for name, answer in answers.items()}


def _disagreement(ours: Answers, theirs: Answers, bars: Mapping[str, float | None]) -> str:
    """What is farther apart than its bar, or nothing."""
    amiss = []
    for name, bar in bars.items():
        apart = float(np.nanmean(np.abs(ours[name] - theirs[name])) / max(float(np.nanmean(np.abs(ours[name]))), 1e-12))
        if bar is not None and not apart <= bar:
            amiss.append(f"{name} {apart:.2g} apart, bar {bar:g}")
    return "; ".join(amiss)
