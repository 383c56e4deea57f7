"""The training state: everything that changes while a network trains, as one pytree that can be stacked."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

__all__ = ["TrainState", "create", "ensemble", "stack", "unstack", "to_model"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a training step reads and returns.

    Attributes:
        step: int32 [], the number of updates made.
        params: the trained variables (`nnx.Param`).
        rest: all other variables: batch statistics, random streams.
        opt_state: the optimizer's state.
        graphdef: the network's structure; static, equal for networks that differ in their weights alone.
    """

    step: jax.Array
    params: Any
    rest: Any
    opt_state: optax.OptState
    graphdef: Any = dataclasses.field(metadata={"static": True})


def create(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of `model` before its first step, with a fresh state of `optimizer`.

    The arrays are copied: the training loop donates its state, and the model must outlive that.

    >>> state = create(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1))
    >>> int(state.step), sum(leaf.size for leaf in jax.tree.leaves(state.params))
    (0, 8)
    """
    graphdef, *variables = nnx.split(model, nnx.Param, ...)
    params, rest = jax.tree.map(jnp.copy, variables)
    return TrainState(jnp.int32(0), params, rest, optimizer.init(params), graphdef)


def stack(states: Sequence[TrainState]) -> TrainState:
    """One state whose arrays have a leading axis [S]: what `jax.vmap(step)` trains as S networks.

    Raises:
        ValueError: no state, or states of different networks or optimizers.

    >>> optimizer = optax.sgd(0.1)
    >>> pair = stack([create(nnx.Linear(3, 2, rngs=nnx.Rngs(seed)), optimizer) for seed in range(2)])
    >>> pair.step.shape
    (2,)
    """
    if not states:
        raise ValueError("states must hold at least one state, got none")
    structures: list[Any] = [jax.tree.structure(state) for state in states]
    for index, structure in enumerate(structures):
        if structure != structures[0]:
            raise ValueError(
                "states must be of one network and one optimizer, but "
                f"states[{index}] has another structure than states[0]"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def ensemble(
    make: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, seeds: int | Sequence[int]
) -> TrainState:
    """Stacked states of networks that differ in their seed: `make(nnx.Rngs(seed))` for each.

    For networks that differ in a hyper-parameter too, make the optimizer by `optax.inject_hyperparams`: its numbers
    are then part of the state, [S], and can be set before training.

    Args:
        make: builds a network; of a class of your own, `lambda rngs: Net(rngs=rngs)`.
        optimizer: as for `create`.
        seeds: which ones, or how many: 9 stands for 0..8.

    Raises:
        ValueError: no seed.

    >>> nine = ensemble(lambda rngs: nnx.Linear(3, 2, rngs=rngs), optax.sgd(0.1), seeds=9)
    >>> nine.step.shape
    (9,)
    """
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    if len(chosen) == 0:
        raise ValueError(f"seeds must hold at least one seed, got {seeds}")
    return stack([create(make(nnx.Rngs(seed)), optimizer) for seed in chosen])


def unstack(states: TrainState) -> list[TrainState]:
    """The states that `stack` put together.

    >>> optimizer = optax.sgd(0.1)
    >>> pair = stack([create(nnx.Linear(3, 2, rngs=nnx.Rngs(seed)), optimizer) for seed in range(2)])
    >>> [state.step.shape for state in unstack(pair)]
    [(), ()]
    """
    return [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(states.step.shape[0])]


def to_model(state: TrainState) -> nnx.Module:
    """A network with the state's variables (copied), in evaluation mode.

    >>> state = create(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1))
    >>> to_model(state)(jnp.zeros((1, 3))).shape
    (1, 2)
    """
    model = nnx.merge(state.graphdef, state.params, state.rest, copy=True)
    model.eval()
    return model
