"""Optax's optimizers by name, for configurations and command lines, and torch7's SGD, which optax does not have."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["OPTIMIZERS", "optimizer", "torch_rate", "torch_sgd", "triangular"]

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = MappingProxyType(
    {"sgd": optax.sgd, "adam": optax.adam, "adamw": optax.adamw, "rmsprop": optax.rmsprop, "lion": optax.lion}
)


def optimizer(name: str, learning_rate: optax.ScalarOrSchedule, **options: Any) -> optax.GradientTransformation:
    """The optimizer `name` of optax with a learning rate (a number or a schedule) and its own options.

    Raises:
        ValueError: no such optimizer, or an option that it does not have.

    >>> optimizer("sgd", 0.1, momentum=0.9).init(0.0) is not None
    True
    >>> optimizer("sdg", 0.1)
    Traceback (most recent call last):
    ...
    ValueError: optimizer must be one of sgd, adam, adamw, rmsprop, lion, got 'sdg'
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    try:
        return OPTIMIZERS[name](learning_rate, **options)
    except TypeError as error:
        raise ValueError(f"optimizer {name} does not take these options: {error}") from error


def triangular(peak: float, steps: int, *, rise: float = 0.4) -> optax.Schedule:
    """The learning rate of fast adversarial training: from 0 to `peak` in `rise` of the steps, and back to 0.

    Args:
        peak: the largest rate, 0 or more.
        steps: of the optimizer, in all, 1 or more.
        rise: the share of them in which it rises, in (0, 1).

    Raises:
        ValueError: an argument is out of range.

    Source: Wong, Rice & Kolter 2020, whose code has 2/5 on MNIST and 1/2 on CIFAR-10; Smith & Topin 2018.

    >>> rate = triangular(1.0, 10)
    >>> [round(float(rate(jnp.int32(step))), 3) for step in (0, 2, 4, 7, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not (peak >= 0 and steps >= 1 and 0 < rise < 1):
        raise ValueError(
            f"peak must be 0 or more, steps 1 or more and rise between 0 and 1, got {peak}, {steps} and {rise}"
        )

    def rate(step: jax.Array) -> jax.Array:
        share = jnp.asarray(step, jnp.float32) / steps
        return peak * jnp.clip(jnp.minimum(share / rise, (1 - share) / (1 - rise)), 0.0)

    return rate


class _Velocity(NamedTuple):
    step: jax.Array
    velocity: optax.Updates


def torch_sgd(
    learning_rate: float | optax.Schedule, momentum: float, dampening: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD as torch7's and PyTorch's `optim.sgd` do it. At step t = 0, 1, ..., for the gradient g of parameters w:

        g <- g + weight_decay w,    v <- momentum v + (1 - dampening) g  (but v = g at t = 0),    w <- w - rate(t) v

    In torch7 the dampening is the momentum by default. With 0.9 for both each gradient counts for its learning rate
    once in all, where `optax.sgd` counts it ten times; only the first one's share is ten times that of the later ones.

    Source: torch/optim, sgd.lua.

    >>> solver = torch_sgd(1.0, momentum=0.9, dampening=0.9, weight_decay=0.0)
    >>> first, state = solver.update(jnp.ones(1), solver.init(jnp.zeros(1)), jnp.zeros(1))
    >>> second, _ = solver.update(jnp.zeros(1), state, jnp.zeros(1))
    >>> [round(float(each[0]), 3) for each in (first, second)]
    [-1.0, -0.9]
    """

    def init(params: optax.Params) -> _Velocity:
        return _Velocity(jnp.int32(0), jax.tree.map(jnp.zeros_like, params))

    def update(
        gradient: optax.Updates, state: _Velocity, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _Velocity]:
        share = jnp.where(state.step == 0, 1.0, 1 - dampening)
        velocity = jax.tree.map(lambda v, g: momentum * v + share * g, state.velocity, gradient)
        return velocity, _Velocity(state.step + 1, velocity)

    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


def torch_rate(learning_rate: float, decay: float, steps_per_epoch: int = 1, halve_every: int = 0) -> optax.Schedule:
    """torch7's rate r / (1 + d t) at step t, which halves at the start of every `halve_every`-th epoch; 0: never.

    Epochs count from 1, so that with 25 the epochs 1 to 24 have the full rate, 25 to 49 half of it.

    Source: torch/optim, sgd.lua; szagoruyko/cifar.torch, train.lua: `if epoch % opt.epoch_step == 0`.

    >>> rate = torch_rate(1.0, 0.0, steps_per_epoch=10, halve_every=2)
    >>> [float(rate(jnp.int32(step))) for step in (0, 9, 10, 29, 30)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def rate(step: jax.Array) -> jax.Array:
        decayed = learning_rate / (1 + decay * jnp.asarray(step, jnp.float32))
        if not halve_every:
            return decayed
        epoch = 1 + jnp.asarray(step, jnp.int32) // steps_per_epoch
        return decayed * jnp.exp2(-(epoch // halve_every).astype(jnp.float32))

    return rate
