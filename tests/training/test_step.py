"""The training step against NumPy by hand, and under an axis against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.training import Batch, create, stack, train_step


class Softmax(nnx.Module):
    """Softmax regression: its gradient is known in closed form."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(images.shape[0], -1))


class Normalised(nnx.Module):
    """A network with batch statistics and dropout."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(12, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(self.dropout(self.norm(images.reshape(images.shape[0], -1))))


@pytest.fixture
def batch(rng):
    image = rng.integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
    return Batch(jnp.asarray(image), jnp.asarray(rng.integers(0, 3, 16), jnp.int32))


def by_hand(kernel, bias, image, label, steps, rate=0.1, momentum=0.9):
    """`steps` steps of SGD with momentum on the mean cross-entropy, in float64."""
    x = image.reshape(len(image), -1) / 255.0
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    for _ in range(steps):
        logits = x @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses = -np.log(p[np.arange(len(x)), label])
        correct = (logits.argmax(1) == label).sum()
        error = (p - np.eye(3)[label]) / len(x)
        velocity = [momentum * v + g for v, g in zip(velocity, (x.T @ error, error.sum(0)), strict=True)]
        kernel, bias = kernel - rate * velocity[0], bias - rate * velocity[1]
    return kernel, bias, losses.sum(), correct


def test_matches_the_hand_computation(batch):
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = create(Softmax(nnx.Rngs(0)), optimizer)
    start = [np.asarray(state.params["linear"][name][...], np.float64) for name in ("kernel", "bias")]
    step = jax.jit(train_step(optimizer))
    for _ in range(3):
        state, metrics = step(state, batch, jax.random.key(0))
    kernel, bias, loss, correct = by_hand(*start, np.asarray(batch.image), np.asarray(batch.label), 3)
    np.testing.assert_allclose(state.params["linear"]["kernel"][...], kernel, atol=1e-6)
    np.testing.assert_allclose(state.params["linear"]["bias"][...], bias, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
    assert int(metrics.correct) == correct
    assert int(metrics.examples) == 16
    assert int(state.step) == 3


def test_uint8_and_float_images_train_alike(batch):
    optimizer = optax.sgd(0.1)
    state = create(Softmax(nnx.Rngs(0)), optimizer)
    floats = batch._replace(image=jnp.asarray(np.asarray(batch.image, np.float32) / np.float32(255)))
    states = [train_step(optimizer)(state, b, jax.random.key(0))[0] for b in (batch, floats)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_batch_statistics_move_and_the_key_alone_decides_dropout(batch):
    optimizer = optax.sgd(0.1)
    state = create(Normalised(nnx.Rngs(0)), optimizer)
    step = jax.jit(train_step(optimizer))
    one, again, other = (step(state, batch, jax.random.key(seed))[0] for seed in (1, 1, 2))
    later = step(one, batch, jax.random.key(1))[1].loss
    jax.tree.map(np.testing.assert_array_equal, one.params, again.params)
    assert not np.array_equal(one.params["linear"]["kernel"][...], other.params["linear"]["kernel"][...])
    mean = (np.asarray(batch.image).reshape(16, -1) / 255).mean(0)
    np.testing.assert_allclose(one.rest["norm"]["mean"][...], 0.5 * mean, atol=1e-6)
    assert np.isfinite(later)


@pytest.mark.parametrize("over_devices", [False, True], ids=["vmap", "pmap"])
def test_axis_name_makes_the_step_of_the_whole_batch(batch, over_devices):
    parts = 8
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = create(Softmax(nnx.Rngs(0)), optimizer)
    key = jax.random.key(0)
    whole, metrics = train_step(optimizer)(state, batch, key)
    mapped = jax.pmap if over_devices else jax.vmap
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
    step = mapped(train_step(optimizer, axis_name="data"), axis_name="data")
    spread, sums = step(stack([state] * parts), split, jnp.stack([key] * parts))
    for part in range(parts):
        jax.tree.map(lambda a, b, i=part: np.testing.assert_allclose(a[i], b, atol=1e-6), spread, whole)
        jax.tree.map(lambda a, b, i=part: np.testing.assert_allclose(a[i], b, rtol=1e-6), sums, metrics)
