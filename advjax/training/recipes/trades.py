"""TRADES: the right answer to clean images, and the same answer to their neighbors."""

import dataclasses
import math
from typing import Any

import jax
import optax

from advjax.attacks import Divergence, NormalStart, pgd
from advjax.entropy import cross_entropies, divergences
from advjax.training.pair_loss import PairLoss
from advjax.training.step import Step, train_step

__all__ = ["Trades", "trades"]


@dataclasses.dataclass(frozen=True)
class Trades(PairLoss):
    """`-log p(x)_y + beta KL(p(x) || p(x'))`, p the softmax of the logits; the gradient goes through both.

    Attributes:
        beta: the weight of the divergence, 0 or more; the paper's 1 / lambda.

    Raises:
        ValueError: beta is negative or not finite.

    >>> import jax.numpy as jnp
    >>> Trades(beta=6.0)(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.array([0])).tolist()
    [0.6931471824645996]
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be 0 or more, and finite, got {self.beta}")

    def __call__(self, clean_logits: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropies(clean_logits, labels) + self.beta * divergences(clean_logits, logits)


def trades(
    optimizer: optax.GradientTransformation,
    epsilon: float,
    *,
    step_size: float,
    steps: int,
    beta: float = 6.0,
    levels: int | None = 256,
    **options: Any,
) -> Step:
    """The step of TRADES, for `Trainer`: descends the mean over images of

        -log p(x)_y + beta KL(p(x) || p(x')),    x' = argmax { KL(p(x) || p(x')) : ||x' - x||_inf <= epsilon },

    the maximum sought from x + 0.001 N(0, I) by `steps` steps of projected gradient ascent on the network in evaluation
    mode. The paper, on CIFAR-10: epsilon 0.031, 10 steps of 0.007, beta 6; on MNIST 0.3, 40 steps of 0.01, beta 1.

    Args:
        optimizer: as for `train_step`.
        epsilon: radius of the linf ball, in [0, 1] units.
        step_size: length of each step, in the same units.
        steps: number of steps, 1 or more.
        beta: the weight of the divergence.
        levels: as for `pgd`: what is trained on lies on this grid, and the data must; None: no rounding.
        options: `augment`, `attack_mode`, `hidden` and `axis_name` of `train_step`.

    Raises:
        ValueError: as `pgd`, `Trades` and `train_step`.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", Algorithm 1.

    >>> step = trades(optax.sgd(0.1), 0.031, step_size=0.007, steps=10)
    >>> step.loss
    Trades(beta=6.0)
    """
    attack = pgd(epsilon, step_size=step_size, steps=steps, random_start=False, objective=Divergence(), levels=levels)
    return train_step(optimizer, loss=Trades(beta), attack=NormalStart(attack), **options)
