"""Networks trained from scratch: the base networks, and those on the InfiMNIST-like data."""

import pathlib

import numpy as np

from advjax.data import Dataset, InfimnistLike, calibrate, infimnist_like, misclassified_share
from advjax.training import Trainer, TrainState, predict
from experiments.hard_positives.config import Config
from experiments.hard_positives.judge import HeldOut, judge
from experiments.hard_positives.networks import CHECKPOINT_BLOCKS, classifiers, fresh, key_of, roomy, weights
from experiments.store import Arrays

__all__ = ["train_bases", "train_infimnist"]

# InfiMNIST's first indices are the test set; the training set follows, and then all that is made of it.
_TEST_INDICES = 10_000
_CHUNK = 1_000
# Images on which each base network's share of errors is measured.
_MEASURED = 10_000


def train_bases(config: Config, trainer: Trainer, train: Dataset, test: Dataset, folder: pathlib.Path) -> Arrays:
    """The base networks: their weights, losses and test errors. A training that is cut off goes on in `folder`."""
    everything = [np.arange(len(train.labels))] * config.bases
    fitted = trainer.fit(
        fresh(config, "base", config.bases),
        roomy([train.images], [train.labels], everything, config.pool_size(len(train.labels))),
        config.base_iterations,
        key_of(config, "base"),
        folder=folder,
        every=CHECKPOINT_BLOCKS * config.block,
        progress=f"train {config.bases} base network(s)",
    )
    wrong = (predict(fitted.states, test.images) != test.labels[None]).sum(axis=1)
    return {**weights(fitted.states), "loss": fitted.loss, "clean_wrong": wrong}


def train_infimnist(
    config: Config, trainer: Trainer, bases: TrainState, train: Dataset, held_out: HeldOut, folder: pathlib.Path
) -> Arrays:
    """As many networks as there are bases, on the InfiMNIST-like images alone, from weights of their own.

    The amplitude is such that base network 0 gets the share `infimnist_share` of the images wrong.
    """
    networks = classifiers(bases)
    generator = infimnist_like(train.images, train.labels, key_of(config, "infimnist", "fields"))
    generator = calibrate(
        generator, networks[0], key_of(config, "infimnist", "amplitude"), target=config.infimnist_share
    )
    first = _TEST_INDICES + len(train.labels)
    shares = [misclassified_share(generator, network, first + np.arange(_MEASURED)) for network in networks]
    images, labels = _generate(generator, first + np.arange(config.infimnist_images))
    everything = [np.arange(len(labels))] * config.bases
    fitted = trainer.fit(
        fresh(config, "infimnist", config.bases),
        roomy([images], [labels], everything, config.pool_size(len(train.labels))),
        config.infimnist_iterations,
        key_of(config, "infimnist", "order"),
        folder=folder,
        every=CHECKPOINT_BLOCKS * config.block,
        progress=f"train {config.bases} network(s) on InfiMNIST-like data",
    )
    return {
        **judge(fitted.states, held_out),
        "loss": fitted.loss,
        "adversarial_images": np.zeros(config.bases, np.int64),
        "clean_images": np.array(len(labels)),
        "amplitude": np.asarray(generator.amplitude),
        "misclassified_share": np.array(shares, np.float32),
    }


def _generate(generator: InfimnistLike, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of `indices` in chunks of one size, so that the device holds one chunk of fields."""
    images, labels = [], []
    for start in range(0, len(indices), _CHUNK):
        chunk = indices[start : start + _CHUNK]
        image, label = generator(np.resize(chunk, _CHUNK))
        images.append(np.asarray(image)[: len(chunk)])
        labels.append(np.asarray(label)[: len(chunk)])
    return np.concatenate(images), np.concatenate(labels)
