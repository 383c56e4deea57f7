"""One descent step as a pure function of state, batch and key."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from advjax.data.transforms import to_float
from advjax.training.state import TrainState

__all__ = ["Batch", "Metrics", "Step", "train_step"]


class Batch(NamedTuple):
    """Images uint8 (k stands for k/255) or float32 in [0, 1], [B, H, W, C], and labels int32 [B]."""

    image: jax.Array
    label: jax.Array


class Metrics(NamedTuple):
    """Sums over images, to be divided by `examples` once at the end; they add up over steps and devices."""

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array


Step: TypeAlias = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def train_step(optimizer: optax.GradientTransformation, *, axis_name: str | None = None) -> Step:
    """The step `(state, batch, key) -> (state, metrics)` that descends the mean cross-entropy of a batch:

        g = grad_theta 1/B sum_i J(theta, x_i, y_i),   theta <- theta + update(g),   J = -log softmax(h(x))_y

    The network runs in training mode: batch statistics move, and the random streams (dropout) start anew from
    `key`. The metrics are those of the network before the update.

    Args:
        optimizer: an optax transformation; its state must have been made by `create` with the same one.
        axis_name: under `pmap` or `vmap` with this axis, the gradients and batch statistics are averaged and
            the metrics summed over it, so that S devices with B/S images each make one device's step with B.

    >>> from advjax.training.state import create
    >>> optimizer = optax.sgd(0.1)
    >>> model = nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    >>> batch = Batch(jnp.ones((5, 2, 2, 1)), jnp.zeros(5, jnp.int32))
    >>> state, metrics = train_step(optimizer)(create(model, optimizer), batch, jax.random.key(0))
    >>> int(state.step), float(metrics.examples)
    (1, 5.0)
    """

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        image = batch.image
        if image.dtype == jnp.uint8:
            image = to_float(image)

        def loss(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            model = nnx.merge(state.graphdef, params, state.rest, copy=True)
            model.train()
            _reseed(model, key)
            logits = model(image)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
            correct = jnp.sum(jnp.argmax(logits, -1) == batch.label, dtype=jnp.float32)
            metrics = Metrics(jnp.sum(losses), correct, jnp.float32(losses.size))
            return jnp.mean(losses), (nnx.state(model, nnx.Not(nnx.Param)), metrics)

        grads, (rest, metrics) = jax.grad(loss, has_aux=True)(state.params)
        if axis_name is not None:
            grads, rest = jax.tree.map(lambda leaf: _mean_over(leaf, axis_name), (grads, rest))
            metrics = jax.lax.psum(metrics, axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, rest, opt_state, state.graphdef), metrics

    return step


def _reseed(model: nnx.Module, key: jax.Array) -> None:
    streams = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
    for index, stream in enumerate(streams):
        stream.key[...] = jax.random.fold_in(key, index)
        stream.count[...] = jnp.zeros_like(stream.count[...])


def _mean_over(leaf: jax.Array, axis_name: str) -> jax.Array:
    # Keys and counters of the random streams are no averages.
    return jax.lax.pmean(leaf, axis_name) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
