"""Keys by purpose, and training states as the arrays of a stage."""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.training import TrainState
from experiments.store import Arrays

__all__ = ["key_of", "restored", "weights"]


def key_of(seed: int, *words: object) -> jax.Array:
    """The key of one purpose: it depends on the seed and the words, not on what else the run draws."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(map(str, words)).encode()))


def weights(state: TrainState) -> Arrays:
    """The parameters and batch statistics of a state by their paths, for `restored`."""
    return {name: np.asarray(leaf) for name, leaf in _named(state) if _is_number(leaf)}


def restored(template: TrainState, arrays: Arrays) -> TrainState:
    """`template` with the stored parameters and batch statistics; its random streams and solver stay."""
    leaves = [jnp.asarray(arrays[name]) if _is_number(leaf) else leaf for name, leaf in _named(template)]
    params, rest = jax.tree.unflatten(jax.tree.structure((template.params, template.rest)), leaves)
    return dataclasses.replace(template, params=params, rest=rest)


def _named(state: TrainState) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.rest))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_number(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
