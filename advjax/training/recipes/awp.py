"""Adversarial weight perturbation: the gradient of any step is taken where the weights are worst."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advjax.training.interface import Batch, Metrics, TrainingStep
from advjax.training.state import TrainState
from advjax.training.step import Step

__all__ = ["AwpStep", "awp"]


def awp(step: Step, gamma: float = 0.005) -> "AwpStep":
    """The step with adversarial weight perturbation: where `step` descends J(w), this descends J(w + v),

        g = grad_w J(w),    v_l = gamma ||w_l||_2 g_l / ||g_l||_2  for each layer l,
        w <- w + update(grad_w J(w + v)),

    on the same images, which were made with the weights w. As in the authors' code v is of kernels alone (arrays of two
    axes or more), and one step of ascent makes it. The optimizer updates w itself: a weight decay in it is one of w, in
    their code of w + v. Batch statistics move as the pass at w + v moves them; the metrics are those at w.

    Args:
        step: of `train_step`, or a recipe that is one: `awp(trades(...))` is the paper's TRADES-AWP.
        gamma: the perturbation's size relative to the weights, layer by layer, 0 or more; the paper has 0.005, and
            0.01 for PGD training.

    Raises:
        TypeError: the step is of another kind, which has no one gradient to take elsewhere.
        ValueError: gamma is negative or not finite.

    Source: Wu, Xia & Wang 2020, "Adversarial weight perturbation helps robust generalization", eqs. 7-11.

    >>> from advjax import pgd
    >>> from advjax.training import train_step
    >>> step = awp(train_step(optax.sgd(0.1), attack=pgd(8 / 255, step_size=2 / 255, steps=10)), gamma=0.01)
    """
    if not isinstance(step, Step):
        raise TypeError(f"step must be one of train_step, trades or mart, got {type(step).__name__}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be 0 or more, and finite, got {gamma}")
    return AwpStep(step.optimizer, step, gamma, step.axis_name)


@dataclasses.dataclass(frozen=True, eq=False)
class AwpStep(TrainingStep):
    """One step, `(state, batch, key) -> (state, metrics)`; made by `awp`, which explains it."""

    optimizer: optax.GradientTransformation
    step: Step
    gamma: float
    axis_name: str | None

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        task = self.step.task(state, batch, key)
        ascent, _, metrics = self.step.gradient(state.params, state, task)
        worst = jax.tree.map(self._perturbed, state.params, ascent)
        grads, rest, _ = self.step.gradient(worst, state, task)
        return self.step.updated(state, grads, rest, metrics)

    def _perturbed(self, weights: jax.Array, gradient: jax.Array) -> Any:
        if weights.ndim < 2:
            return weights
        length = jnp.linalg.norm(gradient)
        # A layer without a gradient, such as one behind dead units, has no worst direction.
        return weights + self.gamma * jnp.linalg.norm(weights) * gradient / jnp.where(length > 0, length, 1.0)
