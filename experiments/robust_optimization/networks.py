"""The networks of the paper, and each one as the attacks see it on another set's statistics."""

import jax.numpy as jnp
import optax
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.models.shaham import ShahamNet
from advjax.models.vgg_cifar import VggCifar
from advjax.training import TrainState, create, to_model
from experiments.robust_optimization.config import Part
from experiments.robust_optimization.optimizer import torch_sgd
from experiments.robust_optimization.preprocess import Images
from experiments.states import key_of, restored
from experiments.store import Arrays

__all__ = ["classifier_of", "fresh", "optimizer_of", "steps_per_epoch"]


def steps_per_epoch(part: Part, train: Images) -> int:
    """Steps that are called an epoch: whole batches only."""
    return len(train.labels) // part.batch_size


def optimizer_of(part: Part, train: Images) -> optax.GradientTransformation:
    """The paper's solver."""
    return torch_sgd(part, steps_per_epoch(part, train))


def fresh(part: Part, name: str, train: Images, seed: int) -> TrainState:
    """The network `name` before its first step; all networks of a part begin with the same weights."""
    rngs = nnx.Rngs(key_of(seed, part.data, "weights"))
    if part.network == "vgg":
        mean, std = (train.mean.tolist(), [float(train.std)] * 3)
        return create(VggCifar(mean=mean, std=std, rngs=rngs), optimizer_of(part, train))
    model = ShahamNet(
        mean=255 * float(train.mean[0]),
        std=255 * float(train.std),
        input_norm=part.input_norm and name != "baseline",
        rngs=rngs,
    )
    return create(model, optimizer_of(part, train))


def classifier_of(part: Part, name: str, arrays: Arrays, train: Images, test: Images) -> Classifier:
    """A trained network in evaluation mode, standardising by the statistics of `test`."""
    model = to_model(restored(fresh(part, name, train, 0), arrays))
    if isinstance(model, ShahamNet):
        model.mean[...] = jnp.float32(255 * float(test.mean[0]))
        model.std[...] = jnp.float32(255 * float(test.std))
    return from_nnx(model)
