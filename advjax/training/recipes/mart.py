"""MART: what the network gets wrong without an attack weighs more."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advjax.attacks import NormalStart, pgd
from advjax.entropy import cross_entropies, divergences, widened
from advjax.training.pair_loss import PairLoss
from advjax.training.step import Step, train_step

__all__ = ["Mart", "mart"]


@dataclasses.dataclass(frozen=True)
class Mart(PairLoss):
    """The boosted cross-entropy of the attacked image, and a divergence that counts where the clean one is in doubt:

        -log p(x')_y - log(1 - max_{k != y} p(x')_k) + weight KL(p(x) || p(x')) (1 - p(x)_y),

    p the softmax of the logits; the gradient goes through all of it. The authors' code adds 1e-4 inside the second
    logarithm, so that its value ends at 9.2; here it is computed from the logits, and its gradient is at most 2.

    Attributes:
        weight: the paper's lambda, 0 or more.

    Raises:
        ValueError: the weight is negative or not finite.

    >>> Mart(weight=6.0)(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.array([0])).tolist()
    [1.3862943649291992]
    """

    weight: float = 6.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be 0 or more, and finite, got {self.weight}")

    def __call__(self, clean_logits: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        wide, classes = widened(logits), jnp.arange(logits.shape[-1])[None]
        is_label = classes == labels[:, None]
        rival = jnp.argmax(jnp.where(is_label, -jnp.inf, wide), -1)
        # log(1 - p_k) = log of the sum of all other exponentials, less that of all: no digits are lost where p_k is 1.
        others = jnp.where(classes == rival[:, None], -jnp.inf, wide)
        boost = jax.nn.logsumexp(wide, -1) - jax.nn.logsumexp(others, -1)
        doubt = 1.0 - jnp.exp(-cross_entropies(clean_logits, labels))
        return cross_entropies(logits, labels) + boost + self.weight * divergences(clean_logits, logits) * doubt


def mart(
    optimizer: optax.GradientTransformation,
    epsilon: float,
    *,
    step_size: float,
    steps: int,
    weight: float = 6.0,
    levels: int | None = 256,
    **options: Any,
) -> Step:
    """The step of MART, for `Trainer`: descends the mean of `Mart(weight)` over images and what PGD makes of them.

    PGD climbs the cross-entropy in the linf ball from x + 0.001 N(0, I), with the network in evaluation mode. The
    authors' code, on CIFAR-10: epsilon 0.031, 10 steps of 0.007, weight 6.

    Args:
        optimizer, epsilon, step_size, steps, levels, options: as for `trades`.
        weight: of the divergence.

    Raises:
        ValueError: as `pgd`, `Mart` and `train_step`.

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples", eqs. 9-11.

    >>> step = mart(optax.sgd(0.1), 0.031, step_size=0.007, steps=10)
    >>> step.loss
    Mart(weight=6.0)
    """
    attack = pgd(epsilon, step_size=step_size, steps=steps, random_start=False, levels=levels)
    return train_step(optimizer, loss=Mart(weight), attack=NormalStart(attack), **options)
