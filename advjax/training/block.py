"""A block of steps as one compiled program, for all networks and devices at once."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax.fastcpu import accelerate, compiled
from advjax.training.faults import Faults
from advjax.training.interface import Batch, Metrics, TrainingStep
from advjax.training.sharding import Placement
from advjax.training.state import TrainState

__all__ = ["Block", "BlockResult", "block_of"]

BlockResult = tuple[TrainState, Metrics, jax.Array]
"""The states; the metrics [S, length] of the steps made, and 0 for the others; whether all variables are finite [S]."""
Block = Callable[[Placement, bool, TrainState, Batch, jax.Array, jax.Array, jax.Array], BlockResult]
"""`(placement, resident, states, content, order, keys, count)`, content and order as `Feed` gives them."""


def block_of(step: TrainingStep, length: int) -> Block:
    """Up to `length` steps, traced once for a placement and shapes of states and data. The states are donated."""

    def block(
        placement: Placement,
        resident: bool,
        states: TrainState,
        content: Batch,
        order: jax.Array,
        keys: jax.Array,
        count: jax.Array,
    ) -> BlockResult:
        def one_step(
            i: jax.Array, carry: tuple[TrainState, Metrics], order: jax.Array, key: jax.Array
        ) -> tuple[TrainState, Metrics]:
            state, seen = carry
            batch = jax.tree.map(lambda rows: rows[order[i]] if resident else rows[i], content)
            batch = placement.constrain(batch, jax.tree.map(lambda x: placement.of_batch(0, x.ndim), batch))
            if placement.parameters == "sharded":
                # Gathered for this step alone; left to itself the compiler splits the step's convolutions by
                # channels, slowly, and in a loop of grouped ones wrongly (XLA of JAX 0.10.2, CPU).
                state = dataclasses.replace(state, params=placement.constrain(state.params, placement.replicated))
            state, metrics = step(state, batch, jax.random.fold_in(key, state.step))
            return state, jax.tree.map(lambda all_steps, now: all_steps.at[i].set(now), seen, metrics)

        def one_network(state: TrainState, order: jax.Array, key: jax.Array) -> BlockResult:
            zeros = jnp.zeros(length, jnp.float32)
            also = dict.fromkeys(step.also, zeros)
            start = (state, Metrics(zeros, zeros, zeros, Faults(zeros, zeros, zeros, zeros), also))
            state, seen = jax.lax.fori_loop(0, count, lambda i, carry: one_step(i, carry, order, key), start)
            return state, seen, _all_finite(state)

        states, seen, finite = placement.over_networks(one_network, states, order, keys)
        # Where they came from, so that the next block finds the same program.
        states = placement.constrain(states, placement.of_states(states))
        # Whole on every device, so that every process can read them.
        return states, *placement.constrain((seen, finite), placement.replicated)

    return compiled(
        lambda placement, resident, *arrays: accelerate(functools.partial(block, placement, resident))(*arrays),
        static_argnums=(0, 1),
        donate_argnums=2,
    )


def _all_finite(state: TrainState) -> jax.Array:
    # Batch statistics too: the loss in training mode does not read the running averages.
    leaves = [leaf for leaf in jax.tree.leaves((state.params, state.rest)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
