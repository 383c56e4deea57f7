"""What random signs cost a step of training, beside the same step without: Di et al. promise no burden."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from advjax.models import hidden_random_sign
from advjax.training import Resident, Trainer, create, stack, train_step
from advjax.training.step import Step
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.jobs.training import BATCH, OPTIMIZER, Training
from benchmarks.networks import Known, network

__all__ = ["JOBS"]

_EPSILON, _STEPS = 0.1, 60


def _run(known: Known, training: Training, step: Step) -> Run:
    trainer = Trainer(step, BATCH, training.steps)
    data, key = Resident(training.levels, training.labels), jax.random.key(0)

    def run() -> Any:
        fitted = trainer.fit(stack([create(known.model, OPTIMIZER)]), data, training.steps, key)
        jax.block_until_ready(fitted.states)
        return fitted

    return run


def _judge(fitted: Any) -> Answers:
    """The loss alone: the weights differ, as they should."""
    loss = float(np.asarray(fitted.loss)[0, -1])
    if not np.isfinite(loss):
        raise ValueError(f"the loss must be finite, got {loss}")
    return {"loss": loss}


def _case(where: tuple[str, ...], smoke: bool) -> Case:
    known = network("lenet", 0)
    training = Training([known], 2 if smoke else _STEPS, 0.0, 0.0, 0)
    plain, signs = (
        train_step(OPTIMIZER, hidden=hidden_random_sign(where, _EPSILON) if drawn else None) for drawn in (False, True)
    )
    return Case(
        ours=_run(known, training, signs),
        peers={"advjax, the same step without signs": lambda: _run(known, training, plain)},
        judge=_judge,
        bars={"loss": None},
        operations=training.operations(),
        moved=training.moved(),
        counted="as for a plain step",
        notes=f"{known.weights}, signs at {', '.join(where)}, each element drawn, one batch again and again",
    )


_HIDDEN = ("pool1", "pool2", "dense1")
JOBS: Mapping[str, Job] = {
    f"train-lenet-signs-{place}": Job(
        f"{_STEPS} steps of LeNet with random signs in {place} space", partial(_case, names)
    )
    for place, names in {"input": ("input",), "hidden": _HIDDEN, "both": ("input", *_HIDDEN)}.items()
}
