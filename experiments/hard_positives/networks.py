"""The LeNets of the run: base networks, their weights on disk, and networks that go on from them."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.models.lenet import LeNet, caffe_solver
from advjax.training import Resident, Trainer, TrainState, create, stack, to_model, train_step, unstack
from experiments.hard_positives.config import Config

__all__ = [
    "CHECKPOINT_BLOCKS",
    "OPTIMIZER",
    "classifiers",
    "fine_tunable",
    "fresh",
    "key_of",
    "restore",
    "roomy",
    "trainer",
    "weights",
]

# One object for the whole run: another would mean another compiled program.
OPTIMIZER = caffe_solver()

# Blocks of steps between two checkpoints of a training.
CHECKPOINT_BLOCKS = 10


def key_of(config: Config, *words: object) -> jax.Array:
    """The key of one purpose: it depends on the seed and the words, not on what else the run draws."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32("/".join(map(str, words)).encode()))


def trainer(config: Config) -> Trainer:
    """The one trainer of the run."""
    return Trainer(train_step(OPTIMIZER), config.batch_size, config.block)


def fresh(config: Config, purpose: str, count: int) -> TrainState:
    """`count` stacked networks with initial weights of their own."""
    keys = [key_of(config, purpose, "weights", index) for index in range(count)]
    return stack([create(LeNet(rngs=nnx.Rngs(key)), OPTIMIZER) for key in keys])


def weights(states: TrainState) -> dict[str, np.ndarray]:
    """The parameters of stacked networks by their paths, for `restore`."""
    leaves = jax.tree_util.tree_leaves_with_path(states.params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def restore(config: Config, arrays: dict[str, np.ndarray]) -> TrainState:
    """Stacked networks with stored parameters and a fresh solver, its step counter at 0."""
    template = fresh(config, "template", config.bases)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(template.params)]
    params = jax.tree.unflatten(jax.tree.structure(template.params), [jnp.asarray(arrays[path]) for path in paths])
    return dataclasses.replace(template, params=params)


def fine_tunable(bases: TrainState, orders: int) -> TrainState:
    """Each base network `orders` times over: network b * orders + o goes on from base b."""
    return stack([base for base in unstack(bases) for _ in range(orders)])


def classifiers(states: TrainState) -> list[Classifier]:
    """Each stacked network as the attacks see it."""
    return [from_nnx(to_model(state)) for state in unstack(states)]


def roomy(images: list[np.ndarray], labels: list[np.ndarray], members: list[np.ndarray], room: int) -> Resident:
    """A set with room for `room` images, the given ones first: one size, and one program, for all sets of the run."""
    image = np.zeros((room, *images[0].shape[1:]), np.uint8)
    np.concatenate(images, out=image[: sum(map(len, images))])
    label = np.zeros(room, np.int32)
    np.concatenate(labels, out=label[: sum(map(len, labels))])
    return Resident(image, label, members)
