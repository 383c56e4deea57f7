"""What is trained: external networks, classifiers, generators, and a classifier tuned instead of a generator."""

import functools
import pathlib
from typing import Any

import optax
from flax import nnx

from advjax.data import Dataset
from advjax.generators import Players, generator_step
from advjax.training import Resident, Trainer, train_step
from experiments.butterfly.config import Config, Game
from experiments.butterfly.images import Parts
from experiments.networks import key_of, train
from experiments.store import Arrays

__all__ = ["epoch_of", "learned", "played", "steps_of"]

_CHECKPOINT_BLOCKS = 10
_BLOCK = 250


def learned(
    config: Config, model: nnx.Module, images: Dataset, steps: int, words: tuple[object, ...], folder: pathlib.Path
) -> Arrays:
    """Trains a network by Adam on the cross-entropy of some images; `words` say for what, and decide the order.

    Returns:
        the variables; loss and accuracy float32 [blocks].
    """
    block = min(_BLOCK, steps)
    trainer = _classifier_trainer(config.rate, config.batch_size, block)
    key, data = key_of(config.seed, "order", *words), Resident(images.images, images.labels)
    return train(trainer, model, data, steps, key, folder, every=_CHECKPOINT_BLOCKS * block)


def epoch_of(config: Config, images: Dataset) -> int:
    """Steps of a generator's epoch."""
    return max(len(images.labels) // config.batch_size, 1)


def steps_of(config: Config, images: Dataset) -> int:
    """Steps of a generator."""
    return config.epochs * epoch_of(config, images)


def learns_from(parts: Parts, game: Game) -> Dataset:
    """The images of a game: G, or the classifier's own."""
    return parts.classifier if game.images == "C" else parts.generator


def played(config: Config, parts: Parts, game: Game, players: Players, folder: pathlib.Path) -> Arrays:
    """Trains a generator; however few its images are, as many steps as with G.

    Returns:
        the variables of the players; by epoch of G float32 [epochs] the means that `generator_step` names, of the
        images learned from, and validation_accuracy, of V.
    """
    images, epoch = learns_from(parts, game), epoch_of(config, parts.generator)
    trainer = _generator_trainer(
        game.problem, game.gamma, game.loss, config.generator_rate, config.discriminator_rate, config.batch_size, epoch
    )
    key = key_of(config.seed, "game order", game.problem, game.method, game.target.seed)
    return train(
        trainer, players, Resident(images.images, images.labels), steps_of(config, parts.generator), key, folder,
        every=epoch, validation=(parts.validation.images, parts.validation.labels),
    )  # fmt: skip


# One for all networks of a kind, so that their program is compiled once.
@functools.cache
def _classifier_trainer(rate: float, batch_size: int, block: int) -> Trainer:
    return Trainer(train_step(optax.adam(rate)), batch_size, block)


@functools.cache
def _generator_trainer(
    problem: Any, gamma: float, loss: Any, rate: float, discriminator_rate: float, batch_size: int, block: int
) -> Trainer:
    step = generator_step(optax.adam(rate), optax.adam(discriminator_rate), problem=problem, gamma=gamma, loss=loss)
    return Trainer(step, batch_size, block)
