"""Fast adversarial training: one step from a random start, and an eye on what that can go wrong."""

from typing import Any

import optax

from advjax.attacks import pgd
from advjax.training.recipes.watched import WatchedStep, watched
from advjax.training.step import train_step

__all__ = ["fast"]


def fast(
    optimizer: optax.GradientTransformation,
    epsilon: float,
    *,
    step_factor: float = 1.25,
    watch: int = 2,
    levels: int | None = 256,
    **options: Any,
) -> WatchedStep:
    """The step of fast adversarial training, for `Trainer`: descends the cross-entropy of

        x' = clip(P(x + u + step_factor epsilon sign(grad J(x + u))), 0, 1),    u uniform in the linf ball of epsilon,

    P the projection onto that ball: one gradient for the attack, one for the weights. The paper has a learning rate
    that rises and falls (`advjax.training.triangular`). With longer steps, larger balls or more epochs a network can
    overfit to this very step; `watched` warns of it, by ten steps of PGD.

    Args:
        optimizer, epsilon, levels, options: as for `trades`.
        step_factor: the step's length in units of epsilon, 0 or more.
        watch: how many images of each batch PGD attacks beside.

    Raises:
        ValueError: as `pgd`, `watched` and `train_step`.

    Source: Wong, Rice & Kolter 2020, "Fast is better than free: revisiting adversarial training", Algorithm 3.

    >>> fast(optax.sgd(0.1), 8 / 255).also
    ('watched',)
    """
    attack = pgd(epsilon, step_size=step_factor * epsilon, steps=1, levels=levels)
    step = train_step(optimizer, attack=attack, **options)
    return watched(step, pgd(epsilon, step_size=epsilon / 4, steps=10, levels=levels), images=watch)
