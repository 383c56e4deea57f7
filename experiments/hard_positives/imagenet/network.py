"""The network of the run: built, its weights read or trained briefly, its fine-tuning solver and loss."""

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.data import CenterCrop, ImageSet, RandomCrop, Stream, to_float
from advjax.entropy import cross_entropies
from advjax.models.registry import NETWORKS, Network
from advjax.models.resnet import ResNet
from advjax.models.weights import load_weights
from advjax.training import Trainer, create, stack, to_model, train_step, unstack
from advjax.training.step import Loss
from experiments.states import key_of, weights
from experiments.store import Arrays

if TYPE_CHECKING:
    from experiments.hard_positives.imagenet.config import Config

__all__ = ["NAMES", "SMALL", "base_network", "crop_of", "make", "quick_solver", "with_heads"]

SMALL = "resnet-small"
_SMALL = Network(partial(ResNet, (1, 1, 1, 1), width=16), (224, 224, 3), "one block a stage, 16 channels: for trials")
_NETWORKS: Mapping[str, Network] = {SMALL: _SMALL, **{name: net for name, net in NETWORKS.items() if net.crop}}
NAMES = tuple(_NETWORKS)

# Photographs whose statistics the batch norms of a network that is never trained take.
_STATISTICS = 16


def crop_of(config: "Config") -> CenterCrop:
    """How a photograph becomes an input of the network."""
    crop = _NETWORKS[config.model].crop
    assert crop is not None  # NAMES holds no other
    return crop


def make(config: "Config", classes: int) -> nnx.Module:
    """The network with random weights: of 1000 classes if weights are to be read, else of as many as the images."""
    network = _NETWORKS[config.model].make
    rngs = nnx.Rngs(key_of(config.seed, "weights"))
    return network(rngs=rngs) if config.weights else network(num_classes=classes, rngs=rngs)


def base_network(config: "Config", images: ImageSet, checkpoint: str | None) -> Arrays:
    """The weights to start from: read, or trained briefly, or random with batch norms that know the images."""
    if config.weights:
        assert checkpoint is not None  # its hash is in the configuration
        template = nnx.eval_shape(lambda: make(config, len(images.classes)))
        return weights(create(load_weights(template, checkpoint), optax.identity()))
    model = make(config, len(images.classes))
    if not config.base_steps:
        return weights(create(_with_statistics(config, model, images), optax.identity()))
    optimizer = optax.adam(config.base_rate)
    trainer = Trainer(train_step(optimizer, loss=with_heads(config.aux_weight)), config.base_batch, config.block)
    crop = RandomCrop(crop_of(config).crop, scale=(0.5, 1.0))
    fitted = trainer.fit(
        stack([create(model, optimizer)]),
        Stream(images, config.base_batch, seed=config.seed, transform=crop),
        config.base_steps,
        key_of(config.seed, "base"),
        progress=f"train {config.model} on {len(images)} photographs",
    )
    return {**weights(create(to_model(unstack(fitted.states)[0]), optax.identity())), "loss": fitted.loss[0]}


def with_heads(weight: float) -> Loss:
    """Cross-entropy, plus `weight` times that of each auxiliary head the network has (Szegedy et al. 2015, sec. 5).

    >>> loss = with_heads(0.5)
    >>> def network(images, tap):
    ...     tap("aux1", images[:, 0, 0])
    ...     return tap("penultimate", images[:, 0, 0])
    >>> losses, logits = loss(network, jnp.zeros((1, 1, 1, 2)), jnp.array([0]))
    >>> bool(jnp.allclose(losses, 1.5 * jnp.log(2.0)))
    True
    """

    def loss(model: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads: list[jax.Array] = []

        def tap(name: str, x: jax.Array) -> jax.Array:
            if name.startswith("aux"):
                heads.append(x)
            return x

        logits = model(images, tap)
        entropy = partial(cross_entropies, labels=labels)
        losses = entropy(logits)
        for head in heads:
            losses = losses + weight * entropy(head)
        return losses, logits

    return loss


def quick_solver(config: "Config") -> optax.GradientTransformation:
    """Caffe's SGD with BVLC-GoogLeNet's quick_solver: rate r (1 - t / T)^0.5, twice that and no decay for biases.

    The rate is inside the momentum buffer, as in `caffe_solver`.

    Source: BVLC/caffe, models/bvlc_googlenet/quick_solver.prototxt.
    """

    def rate(count: jax.Array) -> jax.Array:
        share = jnp.asarray(count, jnp.float32) / config.finetune_steps
        return config.learning_rate * jnp.sqrt(jnp.maximum(1.0 - share, 0.0))

    def is_bias(path: tuple[Any, ...]) -> bool:
        words = [word for word in re.findall(r"\w+", jax.tree_util.keystr(path)) if word != "value"]
        return words[-1] == "bias"

    def by_path(function: Any, tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, leaf: function(is_bias(path), leaf), tree)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, partial(by_path, lambda bias, leaf: not bias)),
        optax.scale_by_schedule(rate),
        optax.stateless(lambda updates, _: by_path(lambda bias, leaf: 2.0 * leaf if bias else leaf, updates)),
        optax.trace(config.momentum),
        optax.scale(-1.0),
    )


def _with_statistics(config: "Config", model: nnx.Module, images: ImageSet) -> nnx.Module:
    """The network, its batch norms with the statistics of some photographs: with others it sees them all alike."""
    some = images.take(np.arange(min(len(images), _STATISTICS))).in_memory(crop_of(config)).images
    seen = nnx.clone(model)
    seen.train(momentum=0.0)
    nnx.jit(lambda network, pixels: network(pixels))(seen, to_float(some))
    nnx.update(model, nnx.state(seen, nnx.BatchStat))
    return model
