"""Stand-ins that keep what an experiment hands to training and to attacks, and compute nothing."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from advjax.attacks import Perturbation

__all__ = ["MemoryStore", "Training", "fake_perturbation", "spy_on_training"]


@dataclasses.dataclass
class MemoryStore:
    """A run's store without a folder."""

    stages: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    root: pathlib.Path = pathlib.Path("nowhere")

    def checkpoints(self, *words):
        """Where a training would keep its checkpoints."""
        return self.root.joinpath(*words)

    def done(self, name):
        """Whether the stage is there."""
        return name in self.stages

    def ensure(self, name, compute):
        """Computes the stage unless it is there."""
        self.stages.setdefault(name, compute())

    def read(self, name, *keys):
        """The named arrays of a stage, or all."""
        return {key: self.stages[name][key] for key in keys or self.stages[name]}


class _Stopped(Exception):
    pass


@dataclasses.dataclass
class Training:
    """What was handed to `train_step`, `Trainer` and `Trainer.fit`; `data` is what the networks are to learn from."""

    step: dict[str, Any] = dataclasses.field(default_factory=dict)
    trainer: dict[str, Any] = dataclasses.field(default_factory=dict)
    states: Any = None
    data: Any = None
    steps: int = 0
    key: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, call, *args, **kwargs) -> "Training":
        """Calls a function up to its `fit`, and returns what it handed over."""
        try:
            call(*args, **kwargs)
        except _Stopped:
            return self
        raise AssertionError("nothing was handed to Trainer.fit")

    def fit(self, states, data, steps, key, **options):
        """Keeps its arguments and goes no further."""
        self.states, self.data, self.steps, self.key, self.options = states, data, steps, key, options
        raise _Stopped


def spy_on_training(monkeypatch, module) -> Training:
    """Puts a spy in the place of `Trainer` and `train_step` in an experiment's module."""
    spy = Training()

    def step(optimizer, **options):
        spy.step = options
        return "step"

    def trainer(step, batch_size, block):
        spy.trainer = {"step": step, "batch_size": batch_size, "block": block}
        return spy

    monkeypatch.setattr(module, "train_step", step)
    monkeypatch.setattr(module, "Trainer", trainer)
    return spy


def fake_perturbation(images, labels, *, success=True):
    """The `Perturbation` of an attack that leaves images as they are; every answer is one class off."""
    count, labels = len(labels), np.asarray(labels)
    numbers = {name: np.ones(count, np.float32) for name in ("scale", "l0", "l1", "l2", "linf")}
    numbers |= {name: np.zeros(count, np.int32) for name in ("calls", "failure", "non_finite", "faults")}
    return Perturbation(
        image=np.asarray(images),
        label=labels,
        success=np.full(count, success),
        prediction=(labels + 1) % 10,
        clean_prediction=labels,
        **numbers,
    )
