"""The random streams of a network (dropout, its own random signs), which start anew at each step."""

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.classifier import fresh_keys
from advjax.models.random_sign import RandomSignLayer

__all__ = ["reseed"]


def reseed(model: nnx.Module, key: jax.Array, axis_name: str | None = None) -> None:
    """Gives each stream of `model`, in place, a key that `key` determines, on each device of `axis_name` another."""
    nodes = [node for _, node in nnx.iter_graph(model)]
    layers = [node for node in nodes if isinstance(node, RandomSignLayer)]
    for layer in layers:
        layer.axis_name = axis_name
    by_image = {id(layer.rngs) for layer in layers}
    for index, stream in enumerate(node for node in nodes if isinstance(node, nnx.RngStream)):
        # Devices that share a step draw different masks for their different images; by an image's place they do so
        # from one key.
        apart = axis_name is not None and id(stream) not in by_image
        source = jax.random.fold_in(key, jax.lax.axis_index(axis_name)) if apart else key
        fresh, old = jax.random.fold_in(source, index), stream.key[...]
        same = jax.random.key_impl(fresh) == jax.random.key_impl(old)
        stream.key[...] = fresh if same else fresh_keys(old, fresh)
        stream.count[...] = jnp.zeros_like(stream.count[...])
