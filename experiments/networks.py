"""Keys by purpose, and networks: trained, as the arrays of a stage, and as attacks see them."""

import pathlib
import zlib

import jax
import numpy as np
import optax
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.training import Resident, Stream, Trainer, create, to_model, unstack, weights_of, with_weights
from experiments.store import Arrays

__all__ = ["classifier_of", "key_of", "restored_model", "train"]


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
        they were trained on, and what else the step says by block; with validation images validation_accuracy float32
        [validations].
    """
    title = f"train {folder.name}"
    fitted = trainer.fit(model, data, steps, key, folder=folder, every=every, validation=validation, progress=title)
    found = {} if validation is None else {"validation_accuracy": fitted.history.column("validation_accuracy", 1)[0]}
    return {
        **weights_of(unstack(fitted.states)[0]),
        "loss": np.asarray(fitted.loss[0]),
        "accuracy": np.asarray(fitted.accuracy[0]),
        **{name: fitted.history.column(name, 1)[0] for name in fitted.history.also},
        **found,
    }


def classifier_of(model: nnx.Module, arrays: Arrays) -> Classifier:
    """A trained network of the form of `model`, in evaluation mode."""
    return from_nnx(restored_model(model, arrays))


def restored_model(model: nnx.Module, arrays: Arrays) -> nnx.Module:
    """The same as a model."""
    return to_model(with_weights(create(model, optax.identity()), arrays))
