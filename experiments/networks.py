"""Keys by purpose, and networks: trained, as the arrays of a stage, and as attacks see them."""

import dataclasses
import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.training import Resident, Stream, Trainer, TrainState, create, to_model, unstack
from experiments.store import Arrays

__all__ = ["classifier_of", "key_of", "restored", "restored_model", "train", "weights"]


def key_of(seed: int, *words: object) -> jax.Array:
    """The key of one purpose: it depends on the seed and the words, not on what else the run draws."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(map(str, words)).encode()))


def train(
    trainer: Trainer,
    model: nnx.Module,
    data: Resident | Stream,
    steps: int,
    key: jax.Array,
    folder: pathlib.Path,
    *,
    every: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Arrays:
    """Trains one network, going on from the newest checkpoint in `folder`; the arguments are those of `Trainer.fit`.

    Checkpoints are of this configuration, as the run's folder holds no other.

    Returns:
        the weights after the last step, whatever validation said; loss and accuracy float32 [blocks], of the images as
        they were trained on; with validation images validation_accuracy float32 [validations].
    """
    title = f"train {folder.name}"
    fitted = trainer.fit(model, data, steps, key, folder=folder, every=every, validation=validation, progress=title)
    found = {} if validation is None else {"validation_accuracy": fitted.history.column("validation_accuracy", 1)[0]}
    return {
        **weights(unstack(fitted.states)[0]),
        "loss": np.asarray(fitted.loss[0]),
        "accuracy": np.asarray(fitted.accuracy[0]),
        **found,
    }


def classifier_of(model: nnx.Module, arrays: Arrays) -> Classifier:
    """A trained network of the form of `model`, in evaluation mode."""
    return from_nnx(restored_model(model, arrays))


def restored_model(model: nnx.Module, arrays: Arrays) -> nnx.Module:
    """The same as a model."""
    return to_model(restored(create(model, optax.identity()), arrays))


def weights(state: TrainState) -> Arrays:
    """The parameters and batch statistics of one state, or of stacked ones, by their paths, for `restored`."""
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
