"""torch7's SGD, whose momentum dampens the gradient unless told otherwise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.robust_optimization.config import Part

__all__ = ["rate", "torch_sgd"]


class _Velocity(NamedTuple):
    step: jax.Array
    velocity: optax.Updates


def torch_sgd(part: Part, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD as torch7's `optim.sgd` does it. At step t = 0, 1, ..., for the gradient g of parameters w:

        g <- g + weight_decay w,    v <- momentum v + (1 - dampening) g  (but v = g at t = 0),    w <- w - rate(t) v

    With dampening = momentum = 0.9 each gradient counts for its learning rate once in all, where `optax.sgd` counts
    it ten times; only the first one's share is ten times larger than that of the later ones.

    Source: torch/optim, sgd.lua; the L2 term is that of the authors' scripts.
    """

    def init(params: optax.Params) -> _Velocity:
        return _Velocity(jnp.int32(0), jax.tree.map(jnp.zeros_like, params))

    def update(
        gradient: optax.Updates, state: _Velocity, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _Velocity]:
        share = jnp.where(state.step == 0, 1.0, 1 - part.dampening)
        velocity = jax.tree.map(lambda v, g: part.momentum * v + share * g, state.velocity, gradient)
        return velocity, _Velocity(state.step + 1, velocity)

    return optax.chain(
        optax.add_decayed_weights(part.weight_decay),
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(lambda count: rate(part, steps_per_epoch, count)),
    )


def rate(part: Part, steps_per_epoch: int, step: jax.Array) -> jax.Array:
    """The learning rate at `step`: it decays with each step, and halves at the start of every `halve_every`-th epoch.

    The scripts count epochs from 1, so that with 25 the epochs 1 to 24 have the full rate, 25 to 49 half of it.

    >>> part = Part(learning_rate=1.0, learning_rate_decay=0.0, halve_every=2)
    >>> [float(rate(part, 10, jnp.int32(step))) for step in (0, 9, 10, 29, 30)]
    [1.0, 1.0, 0.5, 0.5, 0.25]

    Source: yutaroyamada/RobustTraining and szagoruyko/cifar.torch, train.lua: `if epoch % opt.epoch_step == 0`.
    """
    count = jnp.asarray(step, jnp.float32)
    decayed = part.learning_rate / (1 + part.learning_rate_decay * count)
    if not part.halve_every:
        return decayed
    epoch = 1 + jnp.asarray(step, jnp.int32) // steps_per_epoch
    return decayed * jnp.exp2(-(epoch // part.halve_every).astype(jnp.float32))
