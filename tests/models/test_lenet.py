"""Caffe's LeNet and solver against NumPy and, among the peers, PyTorch."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import LeNet, caffe_solver


@pytest.fixture(scope="module")
def network():
    """A LeNet whose biases are not zero, so that they count."""
    model = LeNet(rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(state)
    rng = np.random.default_rng(0)
    leaves = [leaf + rng.normal(0, 0.05, leaf.shape).astype(np.float32) for leaf in leaves]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


@pytest.fixture
def images(rng):
    return rng.uniform(0, 1, (3, 28, 28, 1)).astype(np.float32)


def _weights(model):
    return {
        name: (np.float64(getattr(model, name).kernel[...]), np.float64(getattr(model, name).bias[...]))
        for name in ("conv1", "conv2", "dense1", "dense2")
    }


def _conv(x, kernel, bias):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bijcuv,uvco->bijo", windows, kernel) + bias


def _pool(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def test_logits_equal_those_of_numpy(network, images):
    weights = _weights(network)
    gray_levels = np.float64(images) * 255
    x = gray_levels * 0.00390625  # the scale in Caffe's prototxt
    x = _pool(_conv(x, *weights["conv1"]))
    x = _pool(_conv(x, *weights["conv2"])).reshape(3, -1)
    x = np.maximum(x @ weights["dense1"][0] + weights["dense1"][1], 0)
    expected = x @ weights["dense2"][0] + weights["dense2"][1]
    np.testing.assert_allclose(network(jnp.asarray(images)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.peers
def test_logits_equal_those_of_torch(network, images):
    torch = pytest.importorskip("torch")
    weights = {
        name: [torch.tensor(part, dtype=torch.float32) for part in parts] for name, parts in _weights(network).items()
    }
    functional = torch.nn.functional
    x = torch.tensor(images).permute(0, 3, 1, 2) * (255 / 256)
    for name in ("conv1", "conv2"):
        kernel, bias = weights[name]
        x = functional.max_pool2d(functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias), 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = torch.relu(x @ weights["dense1"][0] + weights["dense1"][1])
    expected = x @ weights["dense2"][0] + weights["dense2"][1]
    np.testing.assert_allclose(network(jnp.asarray(images)), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_size_and_classes():
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(LeNet(rngs=nnx.Rngs(0)), nnx.Param)))
    assert count == 431_080
    assert LeNet(7, rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28, 1))).shape == (2, 7)


def test_weights_start_uniform_by_fan_in_and_biases_at_zero():
    weights = _weights(LeNet(rngs=nnx.Rngs(3)))
    for name, fan_in in {"conv1": 25, "conv2": 500, "dense1": 800, "dense2": 500}.items():
        kernel, bias = weights[name]
        limit = np.sqrt(3 / fan_in)
        assert 0.98 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
        assert not bias.any()


def test_new_weights_need_no_new_trace(images):
    traces = []

    @jax.jit
    def logits(graphdef_and_state, x):
        traces.append(1)
        return nnx.merge(*graphdef_and_state)(x)

    first, second = (nnx.split(LeNet(rngs=nnx.Rngs(seed))) for seed in (0, 1))
    assert first[0] == second[0]
    assert not np.allclose(logits(first, images), logits(second, images))
    assert len(traces) == 1


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 1, 28, 28), (2, 32, 32, 1), (2, 28, 28, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must have shape \[B, 28, 28, 1\], got"):
        LeNet(rngs=nnx.Rngs(0))(jnp.zeros(shape))


def _caffe(weights, gradients, bias, *, steps):
    """SGDSolver::ComputeUpdateValue of Caffe in float64, with the numbers of lenet_solver.prototxt."""
    w, v = np.float64(weights), np.zeros_like(weights, np.float64)
    for t in range(steps):
        rate = 0.01 * (1 + 0.0001 * t) ** -0.75
        local_rate = rate * (2 if bias else 1)
        v = 0.9 * v + local_rate * (gradients[t % len(gradients)] + 0.0005 * w)
        w = w - v
    return w


class _Tiny(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(3, 4, rngs=nnx.Rngs(0))


def _parameter_trees():
    model = _Tiny()
    module = linen.Dense(4)
    return {
        "nnx module": model,
        "nnx state": nnx.state(model, nnx.Param),
        "pure dict": nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        "linen": module.init(jax.random.key(0), jnp.zeros((1, 3))),
    }


@pytest.mark.parametrize("kind", _parameter_trees())
def test_solver_follows_caffe_over_many_steps(kind, rng):
    params = _parameter_trees()[kind]
    leaves, structure = jax.tree.flatten(params)
    starts = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    gradients = [rng.normal(size=(50, *leaf.shape)).astype(np.float32) for leaf in leaves]
    params = jax.tree.unflatten(structure, [jnp.asarray(start) for start in starts])
    solver = caffe_solver()

    def step(carry, t):
        params, state = carry
        grads = jax.tree.unflatten(structure, [jnp.asarray(g)[t % 50] for g in gradients])
        updates, state = solver.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(2000)))((params, solver.init(params)))
    for start, gradient, end in zip(starts, gradients, jax.tree.leaves(params), strict=True):
        expected = _caffe(start, np.float64(gradient), start.ndim == 1, steps=2000)
        assert np.abs(expected - start).max() > 0.1
        np.testing.assert_allclose(end, expected, rtol=1e-4, atol=1e-4)


def test_solver_drives_an_nnx_optimizer():
    model = _Tiny()
    kernel, bias = np.asarray(model.dense.kernel[...]), np.asarray(model.dense.bias[...])
    optimizer = nnx.Optimizer(model, caffe_solver(weight_decay=0.0), wrt=nnx.Param)
    grads = nnx.grad(lambda model: jnp.sum(model.dense.kernel[...]) + jnp.sum(model.dense.bias[...]))(model)
    optimizer.update(model, grads)
    np.testing.assert_allclose(model.dense.kernel[...], kernel - 0.01, rtol=1e-5)
    np.testing.assert_allclose(model.dense.bias[...], bias - 0.02, rtol=1e-5)


@pytest.mark.peers
def test_solver_equals_torch_at_a_constant_rate(rng):
    torch = pytest.importorskip("torch")
    start = {name: rng.normal(size=5).astype(np.float32) for name in ("kernel", "bias")}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    groups = [{"params": [theirs["kernel"]], "lr": 0.01}, {"params": [theirs["bias"]], "lr": 0.02}]
    sgd = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    ours = {name: jnp.asarray(value) for name, value in start.items()}
    solver = caffe_solver(gamma=0.0)
    state = solver.init(ours)
    for _ in range(30):
        grads = {name: rng.normal(size=5).astype(np.float32) for name in start}
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[name])
        sgd.step()
        updates, state = solver.update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
    for name, parameter in theirs.items():
        np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-6)
