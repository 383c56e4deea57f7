"""The networks: the paper's four forms at 224x224, narrow ones for small images, and generators around them."""

from collections.abc import Callable, Mapping
from typing import Any

import optax
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.generators import Players, generator, trunk_of
from advjax.models import DenseNet, ResNet, Vgg16, VggCifar, densenet169, load_weights, resnet50, resnet101
from advjax.training import create, to_model, weights_of, with_weights
from experiments.butterfly.config import Config, Game, Target
from experiments.butterfly.images import Data, Parts, shape_of
from experiments.networks import classifier_of, key_of, restored_model
from experiments.store import Arrays
from experiments.study import Read

__all__ = ["begun", "external", "network", "players_of", "published", "target_of"]

_OUTPUTS = 1000  # of published ImageNet networks
_FULL: Mapping[str, Callable[..., nnx.Module]] = {
    "R50": resnet50, "R101": resnet101, "VGG16": Vgg16, "D169": densenet169,
}  # fmt: skip
# Blocks a stage: one where ResNet-50 has 3, 4, 6 and 3; ResNet-101 has more in the third.
_RESNETS = {"R50": (1, 1, 1, 1), "R101": (1, 1, 3, 1)}
_DENSE = (1, 2, 4, 4)
# Names of last dense layers.
_HEADS = ("fc", "dense3", "classifier")
_SMALL_VGG_HEAD = "dense2"


def network(config: Config, parts: Parts, form: str, key: Any, classes: int = 0) -> nnx.Module:
    """A network of a form with fresh weights, for the classes of the images, or so many."""
    rngs, outputs = nnx.Rngs(key), classes or parts.test.num_classes
    if config.size == "paper":
        return _FULL[form](outputs, rngs=rngs)
    units: dict[str, Any] = {"mean": parts.mean, "std": parts.std, "rngs": rngs}
    if form in _RESNETS:
        return ResNet(_RESNETS[form], outputs, width=config.width, small_images=True, **units)
    if form == "D169":
        return DenseNet(_DENSE, outputs, growth=config.width, small_images=True, **units)
    return VggCifar(outputs, width=config.width, **units)


def published(config: Config, data: Data, parts: Parts, form: str) -> Arrays:
    """The variables of a form with ImageNet's published weights."""
    model = network(config, parts, form, key_of(config.seed, form), _OUTPUTS)
    return weights_of(create(load_weights(model, data.weights[form]), optax.identity()))


def external(config: Config, data: Data, read: Read, name: str, form: str) -> nnx.Module:
    """The network of a form that comes from external images, in evaluation mode."""
    parts = data.parts[name]
    outputs = 0 if parts.encoder is not None else _OUTPUTS
    model = network(config, parts, form, key_of(config.seed, form), outputs)
    return restored_model(model, read(f"external/{name}/{form}"))


def begun(config: Config, data: Data, read: Read, target: Target) -> nnx.Module:
    """A classifier before its first step: [A] fresh, [B] the external network with a fresh last layer."""
    key = key_of(config.seed, "classifier", *target)
    model = network(config, data.parts[target.data], target.classifier, key)
    if target.start == "A":
        return model
    state = create(model, optax.identity())
    found = weights_of(create(external(config, data, read, target.data, target.classifier), optax.identity()))
    head = _SMALL_VGG_HEAD if isinstance(model, VggCifar) else next(each for each in _HEADS if hasattr(model, each))
    own = {name: array for name, array in weights_of(state).items() if f"['{head}']" in name}
    return to_model(with_weights(state, found | own))


def target_of(config: Config, data: Data, read: Read, target: Target) -> Classifier:
    """A trained classifier."""
    model = network(config, data.parts[target.data], target.classifier, key_of(config.seed, "form"))
    return classifier_of(model, read(f"classifier/{target.name}"))


def players_of(config: Config, data: Data, read: Read, game: Game) -> Players:
    """A generator before its first step, the classifier that answers it, and the trunk that judges it.

    The encoder comes from external images. The trunk is the classifier's own when it is enhanced; when it is attacked,
    that of an external network (sec. 3.4), of the classifier's form or, for Prop-B, of ResNet-101's.
    """
    target, parts = game.target, data.parts[game.target.data]
    key = key_of(config.seed, "generator", game.problem, game.method, target.seed)
    encoder = external(config, data, read, target.data, game.encoder)
    rngs, shape = nnx.Rngs(key), shape_of(parts)
    made = generator(encoder, shape, std=parts.units, channels=config.decoder or None, rngs=rngs)
    trunk = None
    if game.trunk is not None:
        trunk = trunk_of(from_nnx(external(config, data, read, target.data, game.trunk)))
    classifier = target_of(config, data, read, target)
    return Players(made, classifier, shape, trunk=trunk, per_label=game.per_label, rngs=rngs)
