"""The five networks: Madry's, trained on natural images or on images that an attack has perturbed."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.data import Dataset
from advjax.models.madry import MadryNet
from advjax.training import Resident, Trainer, TrainState, create, stack, to_model, train_step, unstack
from experiments.localized_training.config import Config, attack
from experiments.states import key_of, restored, weights
from experiments.store import Arrays

__all__ = ["classifier_of", "train_model"]


def train_model(config: Config, name: str, train: Dataset, folder: pathlib.Path) -> Arrays:
    """Trains the model `name`: all images of each batch are replaced by those of its attack (Algorithm 1).

    All five models start from the same weights and see the same images in the same order.

    Returns:
        the weights, and loss and accuracy float32 [blocks], of the images as they were trained on.
    """
    own = None if name == "natural" else attack(config, name, training=True)
    trainer = Trainer(train_step(_optimizer(config), attack=own), batch_size=config.batch_size, block=config.block)
    fitted = trainer.fit(
        stack([_fresh(config)]),
        Resident(train.images[config.held_back :], train.labels[config.held_back :]),
        config.steps(name),
        key_of(config.seed, "order"),
        folder=folder,
        every=config.checkpoint_every,
        config=dataclasses.asdict(config),
        progress=f"train {name}",
    )
    (state,) = unstack(fitted.states)
    return {**weights(state), "loss": np.asarray(fitted.loss[0]), "accuracy": np.asarray(fitted.accuracy[0])}


def classifier_of(config: Config, arrays: Arrays) -> Classifier:
    """A trained model as the attacks see it."""
    return from_nnx(to_model(restored(_fresh(config), arrays)))


def _fresh(config: Config) -> TrainState:
    return create(MadryNet(rngs=nnx.Rngs(key_of(config.seed, "weights"))), _optimizer(config))


def _optimizer(config: Config) -> optax.GradientTransformation:
    # The step's objective is the mean over the batch, Madry's the sum.
    adam = optax.chain(optax.scale(float(config.batch_size)), optax.adam(config.learning_rate))

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        # optax raises a float to an integer power, which strict promotion (a user's setting) would refuse.
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(gradient, state, params)

    return optax.GradientTransformation(adam.init, update)
