"""Frozen networks: classifiers inside a trained module whose variables nobody trains and nothing changes."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from advjax.classifier import Classifier
from advjax.value import static, value

__all__ = ["Frozen", "FrozenNetworks", "trunk_of"]


class Frozen(nnx.Variable[Any]):
    """A variable that is neither trained nor moved: no `nnx.Param`, no batch statistic, no random stream."""


class FrozenNetworks(nnx.Module):
    """Classifiers that a training reads and leaves as they are, in evaluation mode.

    Arrays that several of them hold are kept once, so that a compiled program finds what they compute in common.

    Args:
        networks: by name.

    >>> import jax.numpy as jnp
    >>> from advjax import from_function
    >>> frozen = FrozenNetworks(double=from_function(lambda w, x: w * x.mean((1, 2)), jnp.float32(2)))
    >>> frozen("double", jnp.ones((1, 2, 2, 3))).tolist()
    [[2.0, 2.0, 2.0]]
    """

    def __init__(self, **networks: Classifier) -> None:
        arrays: dict[int, Any] = {}
        places: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for name, network in networks.items():
            leaves, structure = jax.tree.flatten(network)
            arrays |= {id(leaf): leaf for leaf in leaves}
            places[name] = structure, tuple(list(arrays).index(id(leaf)) for leaf in leaves)
        self.variables = nnx.List([Frozen(array) for array in arrays.values()])
        self.places = tuple(places.items())

    def __call__(self, name: str, images: jax.Array) -> jax.Array:
        """What the network called `name` says of images float32 [B, H, W, C]."""
        structure, places = dict(self.places)[name]
        network: Classifier = jax.tree.unflatten(structure, [self.variables[place][...] for place in places])
        return network(images)


def trunk_of(classifier: Classifier) -> Classifier:
    """What the last layer of a tapped network reads, [B, F], as a `Classifier` with the same variables.

    It is the value of the last tap before "penultimate", flattened: the pooled features of a ResNet, the second dense
    layer of VGG-16. Of a Linen network or function whose call takes no `tap`, write the trunk as a function.

    >>> from advjax import from_nnx
    >>> from advjax.models import LeNet
    >>> trunk = trunk_of(from_nnx(LeNet(rngs=nnx.Rngs(0))))
    >>> jax.eval_shape(trunk, jax.ShapeDtypeStruct((2, 28, 28, 1), "float32")).shape
    (2, 500)
    """
    return Classifier(classifier.variables, _Trunk(classifier.apply))


@value
class _Trunk:
    apply: Callable[..., jax.Array] = static()

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        read = images

        def tap(name: str, x: jax.Array) -> jax.Array:
            nonlocal read
            read = read if name == "penultimate" else x
            return x

        self.apply(variables, images, tap=tap)
        return read.reshape(images.shape[0], -1)
