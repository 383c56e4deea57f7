"""The training state: everything that changes while a network trains, as one pytree that can be stacked."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

__all__ = ["TrainState", "create", "ensemble", "stack", "unstack", "to_model", "weights_of", "with_weights"]


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


def weights_of(state: TrainState) -> dict[str, np.ndarray]:
    """All variables but random streams, of one state or of stacked ones, as arrays of the host by their paths.

    `numpy.savez(path, **weights_of(states))` keeps a whole ensemble in one file (`Fitted.save` writes one network),
    which `with_weights` reads into states of the same networks.

    >>> pair = ensemble(lambda rngs: nnx.Linear(3, 2, rngs=rngs), optax.sgd(0.1), seeds=2)
    >>> {name: array.shape for name, array in weights_of(pair).items()}
    {"[0]['bias'].value": (2, 2), "[0]['kernel'].value": (2, 3, 2)}
    """
    return {name: np.asarray(leaf) for name, leaf in _named(state) if not _is_key(leaf)}


def with_weights(state: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """The state with the variables that `weights_of` gave; its step, random streams and solver stay.

    Args:
        state: of the same networks, as many of them.
        arrays: others than those of its variables are ignored.

    Raises:
        ValueError: one of its variables is not among `arrays`, or has another shape there.

    >>> one, other = (create(nnx.Linear(3, 2, rngs=nnx.Rngs(seed)), optax.sgd(0.1)) for seed in range(2))
    >>> again = with_weights(other, weights_of(one))
    >>> bool((again.params["kernel"][...] == one.params["kernel"][...]).all())
    True
    """
    leaves = []
    for name, leaf in _named(state):
        if not _is_key(leaf) and (name not in arrays or arrays[name].shape != leaf.shape):
            got = f"shape {arrays[name].shape}" if name in arrays else "none"
            raise ValueError(f"arrays must hold {name} of shape {leaf.shape}, got {got}")
        leaves.append(leaf if _is_key(leaf) else jnp.asarray(arrays[name]))
    params, rest = jax.tree.unflatten(jax.tree.structure((state.params, state.rest)), leaves)
    return dataclasses.replace(state, params=params, rest=rest)


def _named(state: TrainState) -> list[tuple[str, jax.Array]]:
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.rest))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_key(leaf: jax.Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
