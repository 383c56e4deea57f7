"""What is run, in order of worth, and the state of each task: done, to go on, not begun, or failed."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["DONE", "FAILED", "PRESETS", "Task", "run", "tasks"]

DONE, GOES_ON, NOT_BEGUN, FAILED = "done", "goes on", "not begun", "failed"
# "Try again" in <sysexits.h>: what the experiments say when their minutes are over.
_NOT_YET = 75
# A task is not begun in less: it takes so long to start and compile.
_LEAST_SECONDS = 30.0
# What a task that stops by itself may take beyond its minutes.
_GRACE_SECONDS = 45.0

_QUICK = "--preset quick --set"
_EXPERIMENTS = {
    "paper": {
        "hard_positives": "hard_positives --preset paper",
        "robust_optimization": "robust_optimization --preset paper",
        "robust_optimization-cifar10": "robust_optimization --preset paper-cifar10",
        "localized_training": "localized_training --preset paper",
        "random_sign": "random_sign --preset cpu --set attack_batch=1000",
        "random_sign-pixels": "random_sign --preset cpu-pixels --set attack_batch=1000",
        "random_sign-capsules": "random_sign --preset cpu-capsules",
        "random_sign-cifar10": "random_sign --preset cpu-cifar10 --set attack_batch=500",
    },
    "smoke": {
        "hard_positives": f"hard_positives {_QUICK} bases=1 base_iterations=100 finetune_iterations=20 rows=FGV "
        "bands= train_sources=60 heldout_sources=60 heldout_per_type=20 attack_batch=60 block=20",
        "robust_optimization": f"robust_optimization {_QUICK} epochs=1",
        "localized_training": f"localized_training {_QUICK} natural_steps=40 adversarial_steps=40 "
        "train_attack_steps=2 attack_steps=2 strong_models= test_images=100",
        "random_sign": f"random_sign {_QUICK} epochs=1 seeds=1 rows=mnist/LeNet attacked_images=50 square_queries=20 "
        "sweep=",
    },
}
PRESETS = tuple(_EXPERIMENTS)


class Task(NamedTuple):
    """One command.

    Attributes:
        name: of its folder, its log and its marker.
        arguments: after `python -m`; "{runs}" stands for the folder of all runs.
        resumes: it takes `--minutes` and goes on where it stopped; another one is ended when time is over.
    """

    name: str
    arguments: tuple[str, ...]
    resumes: bool = True


def tasks(preset: str, jobs: Sequence[str]) -> list[Task]:
    """The plan: the benchmarks named (of `smoke` only the first), then the experiments.

    >>> [task.name for task in tasks("paper", ["pgd"])][:2]
    ['benchmarks-pgd', 'hard_positives']
    """
    own = ("benchmarks", "--out", "{runs}/benchmarks")  # one folder: the summary is of all records there
    smoke, some = (("--smoke",), jobs[:1]) if preset == "smoke" else ((), jobs)
    benchmarks = [Task(f"benchmarks-{job}", (*own, *smoke, job), False) for job in some]
    papers = [
        Task(name, ("experiments", *text.split(), "--out", f"{{runs}}/{name}"))
        for name, text in _EXPERIMENTS[preset].items()
    ]
    return benchmarks + papers


def run(
    plan: Sequence[Task],
    folder: pathlib.Path,
    minutes: float,
    environment: Mapping[str, str],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, str]:
    """Runs the tasks that `folder` does not mark as done, one after the other, until the minutes are over.

    One that fails holds up none of the others, and is tried again the next time. What it printed is in NAME.log.

    Returns:
        the state of each task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, states = clock() + 60 * minutes, {}
    for task in plan:
        marker, left = folder / f"{task.name}.done", end - clock()
        if marker.exists():
            states[task.name] = DONE
        elif left < _LEAST_SECONDS:
            states[task.name] = GOES_ON if (folder / task.name).exists() else NOT_BEGUN
        else:
            states[task.name] = _one(task, folder, left, environment)
            if states[task.name] == DONE:
                marker.touch()
        print(f"{task.name}: {states[task.name]}", flush=True)
    return states


def _one(task: Task, folder: pathlib.Path, seconds: float, environment: Mapping[str, str]) -> str:
    arguments = [part.format(runs=folder) for part in task.arguments]
    limit = seconds
    if task.resumes:
        arguments += ["--minutes", f"{seconds / 60:.2f}"]
        limit += _GRACE_SECONDS
    log = folder / f"{task.name}.log"
    with log.open("a") as file:
        file.write(f"$ python -m {' '.join(arguments)}\n")
        file.flush()
        command = [sys.executable, "-m", *arguments]
        try:
            code = subprocess.run(
                command, env=dict(environment), stdout=file, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return GOES_ON
    if code in (0, _NOT_YET):
        return DONE if code == 0 else GOES_ON
    return f"{FAILED} with code {code}, see {log}"
