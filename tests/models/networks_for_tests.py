"""Networks with NumPy's random numbers, their twins in PyTorch, and what every network must be able to do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.models.counting import abstract


def filled(make, seed=0):
    """`make(rngs=...)` in evaluation mode with random weights and statistics; features stay of moderate size.

    Nothing is drawn by JAX, whose generators take longer to compile than a small network.
    """
    graphdef, state = nnx.split(abstract(make))
    rng = np.random.default_rng(seed)
    flat = [(path, _fill(path, leaf, rng)) for path, leaf in nnx.to_flat_state(state)]
    model = nnx.merge(graphdef, nnx.from_flat_state(flat))
    model.eval()
    return model


def _fill(path, variable, rng):
    value, name = variable.get_value(), path[-1]
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return variable.replace(jax.random.key(int(rng.integers(2**31))))
    if not jnp.issubdtype(value.dtype, jnp.floating):
        array = np.arange(value.size, dtype=value.dtype).reshape(value.shape)
        return variable.replace(jnp.asarray(array))
    if name in ("var", "scale", "std"):
        array = rng.uniform(0.5, 1.5, value.shape)
    elif name == "mask":
        array = np.ones(value.shape)
    elif name == "transform":
        array = rng.normal(0, 3 * value.shape[0] ** -0.5, value.shape)
    elif len(value.shape) > 1:
        array = rng.normal(0, (2 / np.prod(value.shape[:-1])) ** 0.5, value.shape)
    else:
        array = rng.normal(0, 0.1, value.shape)
    return variable.replace(jnp.asarray(array, jnp.float32))


def copy_to_torch(model, twin):
    """Copies our weights to a PyTorch module whose parts are called alike; every tensor of it must be met."""
    import torch

    ours = {".".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(_arrays(model))}
    names = {"weight": ("kernel", "scale"), "running_mean": ("mean",), "running_var": ("var",)}
    used = set()
    for key, tensor in twin.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        prefix, leaf = key.rpartition(".")[::2]
        (name,) = [f"{prefix}.{n}".lstrip(".") for n in names.get(leaf, (leaf,)) if f"{prefix}.{n}".lstrip(".") in ours]
        array = ours[name]
        if array.ndim == 4 and leaf == "weight":
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2 and leaf == "weight":
            array = array.T
        assert array.shape == tuple(tensor.shape), key
        tensor.copy_(torch.tensor(array))
        used.add(name)
    assert used == set(ours)
    return twin.eval()


def _arrays(model):
    return nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))


def torch_logits(twin, images):
    """Logits of a PyTorch module for images [B, H, W, C]."""
    import torch

    with torch.no_grad():
        return twin(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)).numpy()


def our_logits(model, images):
    """Logits of the compiled network."""
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state, copy=True)(x))(state, jnp.asarray(images)))


def assert_close(ours, theirs):
    """Within 1e-4 of the largest logit, where the logits differ between classes and between images."""
    scale = np.abs(theirs).max()
    assert np.ptp(theirs, axis=1).min() > 1e-3 * scale
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3 * scale
    assert np.abs(ours - theirs).max() < 1e-4 * scale


def loss_falls(model, shape, *, steps, optimizer, loss=None):
    """Whether the training loss on 64 images of random patches falls by 90 % within `steps` steps."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 1, (64, 4, 4, shape[2])).repeat(shape[0] // 4, 1).repeat(shape[1] // 4, 2)
    images = jnp.asarray(coarse, jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, 64), jnp.int32)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    opt_state = optimizer.init(params)

    def objective(params, rest, images, labels):
        network = nnx.merge(graphdef, params, rest, copy=True)
        network.train()
        if loss is None:
            losses = optax.softmax_cross_entropy_with_integer_labels(network(images), labels)
        else:
            losses, _ = loss(network, images, labels)
        return jnp.mean(losses), nnx.state(network, nnx.Not(nnx.Param))

    # The images are arguments because XLA would fold what it can compute of constants, at its leisure.
    @jax.jit
    def step(params, rest, opt_state, images, labels):
        (value, rest), grads = jax.value_and_grad(objective, has_aux=True)(params, rest, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), rest, opt_state, value

    params, rest, opt_state, first = step(params, rest, opt_state, images, labels)
    for _ in range(steps):
        params, rest, opt_state, value = step(params, rest, opt_state, images, labels)
        if value < 0.1 * first:
            return True
    return False


def assert_works_under_transformations(make, shape, *, tolerance=1e-4):
    """Logits and gradients of stacked states under `vmap`, image by image, are those of one state and the batch."""
    graphdef, first = nnx.split(filled(make, 0))
    _, second = nnx.split(filled(make, 1))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    images = jnp.asarray(np.random.default_rng(2).uniform(0, 1, (2, *shape)), jnp.float32)

    def objective(x, state):
        logits = nnx.merge(graphdef, state, copy=True)(x)
        return jnp.sum(logits[:, 0]), logits

    differentiated = jax.grad(objective, has_aux=True)
    singly = jax.vmap(jax.vmap(differentiated, in_axes=(0, None)), in_axes=(None, 0))
    both = jax.jit(singly)(images[:, None], stacked)
    alone = jax.jit(differentiated)(images, second)
    for ours, expected in zip(both, alone, strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(ours[1, :, 0], expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
