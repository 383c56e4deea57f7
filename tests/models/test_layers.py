"""Pools against PyTorch and NumPy; the other shared layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.models.layers import avg_pool, batch_norm, check_images, fan_in_uniform, max_pool

# window, stride, padding, ceil
_CASES = [
    case
    for case in itertools.product((2, 3, 5), (1, 2, 3), (0, 1), (False, True))
    if 2 * case[2] <= case[0] and case[1] <= case[0]
]


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(7, 8), (13, 28)])
def test_pools_equal_torch(rng, shape):
    torch = pytest.importorskip("torch")
    images = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    theirs = torch.tensor(images).permute(0, 3, 1, 2)
    for window, stride, padding, ceil in _CASES:
        ours = [max_pool(images, window, stride, padding, ceil=ceil)]
        expected = [torch.nn.functional.max_pool2d(theirs, window, stride, padding, 1, ceil)]
        for count in (True, False):
            ours.append(avg_pool(images, window, stride, padding, ceil=ceil, count_padding=count))
            expected.append(torch.nn.functional.avg_pool2d(theirs, window, stride, padding, ceil, count))
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_that_of_tensorflow(rng, size, stride):
    images = rng.normal(size=(1, size, size, 2)).astype(np.float32)
    rows = -(-size // stride)
    before = max((rows - 1) * stride + 3 - size, 0) // 2
    largest, mean = np.empty((2, rows, rows, 2))
    for i, j in np.ndindex(rows, rows):
        top, left = i * stride - before, j * stride - before
        window = images[0, max(top, 0) : top + 3, max(left, 0) : left + 3]
        largest[i, j], mean[i, j] = window.max((0, 1)), window.mean((0, 1))
    np.testing.assert_allclose(max_pool(images, 3, stride, "SAME")[0], largest, rtol=1e-6)
    np.testing.assert_allclose(avg_pool(images, 3, stride, "SAME", count_padding=False)[0], mean, rtol=1e-5, atol=1e-6)


def test_pools_have_gradients_under_jit_and_vmap(rng):
    images = jnp.asarray(rng.normal(size=(2, 6, 6, 1)), jnp.float32)
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(max_pool(x[None], 2, 2) + avg_pool(x[None], 2, 2)))))(images)
    largest = np.asarray(images).reshape(2, 3, 2, 3, 2, 1).max((2, 4), keepdims=True)
    expected = (np.asarray(images).reshape(2, 3, 2, 3, 2, 1) == largest).reshape(2, 6, 6, 1) + 0.25
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize(("padding", "ceil"), [("VALID", False), ("SAME", True)])
def test_unknown_padding_is_refused(padding, ceil):
    with pytest.raises(ValueError, match="padding must be a number of pixels"):
        max_pool(jnp.zeros((1, 4, 4, 1)), 2, 2, padding, ceil=ceil)


def test_one_initializer_for_each_fan_in():
    assert fan_in_uniform(9) is fan_in_uniform(9)
    assert fan_in_uniform(9) is not fan_in_uniform(10)


def test_check_images_leaves_sides_open():
    check_images(jnp.zeros((1, 5, 9, 3)), None, None, 3)
    with pytest.raises(ValueError, match=r"images must have shape \[B, H, W, 3\], got \(5, 9, 3\)"):
        check_images(jnp.zeros((5, 9, 3)), None, None, 3)


def test_batch_norm_averages_as_torch_but_for_the_variance_of_a_sample(rng):
    norm = batch_norm(3, epsilon=1e-3, rngs=nnx.Rngs(0))
    batches = rng.normal(1.0, 2.0, (4, 5, 6, 6, 3)).astype(np.float32)
    mean, var = np.zeros(3), np.ones(3)
    for batch in batches:
        expected = (batch - batch.mean((0, 1, 2))) / np.sqrt(batch.var((0, 1, 2)) + 1e-3)
        np.testing.assert_allclose(norm(jnp.asarray(batch)), expected, rtol=1e-4, atol=1e-4)
        mean, var = 0.9 * mean + 0.1 * batch.mean((0, 1, 2)), 0.9 * var + 0.1 * batch.var((0, 1, 2))
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-4)
    assert nnx.state(norm, nnx.BatchStat).keys() == {"mean", "var"}


def test_running_averages_are_set_in_part_and_by_broadcast_too():
    norm = batch_norm(3, rngs=nnx.Rngs(0))
    norm.mean[1] = 5.0
    norm.var[...] = jnp.float32(2.0)
    np.testing.assert_array_equal(norm.mean[...], [0, 5, 0])
    np.testing.assert_array_equal(norm.var[...], [2, 2, 2])


def test_running_averages_are_not_asked_for_their_sharding(monkeypatch):
    """A traced array answers with an error that walks over the whole trace, which made tracing quadratic."""
    asked = []
    monkeypatch.setattr(jax.core.Tracer, "sharding", property(lambda self: asked.append(1)))
    graphdef, state = nnx.split(batch_norm(3, rngs=nnx.Rngs(0)))
    jax.eval_shape(lambda state, x: nnx.merge(graphdef, state, copy=True)(x), state, jnp.zeros((2, 4, 4, 3)))
    assert not asked
