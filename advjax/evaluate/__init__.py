"""Evaluation that can be trusted: models x attacks -> tables, sweeps, minimal epsilons, and a health check."""

from advjax.evaluate.cell import Cell
from advjax.evaluate.health import HealthWarning, health_check
from advjax.evaluate.intervals import Accuracy, sign_test, wilson
from advjax.evaluate.matrix import evaluate
from advjax.evaluate.minimal import MinimalEpsilon, minimal_epsilon
from advjax.evaluate.ray import epsilon_of_count, sign_ray
from advjax.evaluate.report import Report
from advjax.evaluate.robust import RobustAccuracy, robust_accuracy
from advjax.evaluate.shares import Share, better_or_worse, clearly_apart
from advjax.evaluate.sweep import Sweep, accuracy_epsilon_figure, sweep
from advjax.evaluate.whole_sets import (
    NO_ANSWER,
    answers_of,
    logits_of,
    pass_all,
    perturb_all,
    perturb_batches,
    ranks_of,
)

__all__ = [
    "evaluate", "Report", "Cell",
    "sweep", "Sweep", "accuracy_epsilon_figure",
    "minimal_epsilon", "MinimalEpsilon",
    "robust_accuracy", "RobustAccuracy",
    "health_check", "HealthWarning",
    "Accuracy", "wilson", "sign_test", "Share", "clearly_apart", "better_or_worse",
    "logits_of", "answers_of", "NO_ANSWER", "ranks_of", "perturb_all", "perturb_batches", "pass_all",
    "sign_ray", "epsilon_of_count",
]  # fmt: skip
