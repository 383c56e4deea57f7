"""Gradients of whole models, by images and by weights: accelerated against plain, also stacked under `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from advjax.fastcpu import accelerate

CANONICAL = ("NHWC", "HWIO", "NHWC")


class Color(nnx.Module):
    """Strided, batch normalized, overlapping max pool, average pool."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 8, (5, 5), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(8, 12, (3, 3), kernel_dilation=2, rngs=rngs)
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        x = lax.reduce_window(nnx.gelu(self.second(x)), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        return self.head(x.mean((1, 2)))


class Separable(nnx.Module):
    """Depthwise, pointwise and grouped, with separate pools."""

    def __init__(self, rngs):
        self.depthwise = nnx.Conv(3, 12, (3, 3), feature_group_count=3, rngs=rngs)
        self.pointwise = nnx.Conv(12, 16, (1, 1), rngs=rngs)
        self.grouped = nnx.Conv(16, 16, (3, 3), padding="VALID", feature_group_count=4, rngs=rngs)
        self.head = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.silu(self.pointwise(self.depthwise(x))), (2, 2), strides=(2, 2))
        x = nnx.max_pool(self.grouped(x), (2, 2), strides=(2, 2))
        return self.head(x.reshape(x.shape[0], -1))


class Decoder(nnx.Module):
    """Transposed convolutions back to an image of three channels."""

    def __init__(self, rngs):
        self.encode = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.decode = nnx.ConvTranspose(8, 3, (4, 4), strides=(2, 2), rngs=rngs)

    def __call__(self, x):
        return self.decode(nnx.leaky_relu(self.encode(x))).mean((1, 2))


class Residual(nnx.Module):
    """Rematerialized residual blocks under `scan`, their weights stacked."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.kernels = nnx.Param(0.1 * jax.random.normal(rngs.params(), (3, 3, 3, 8, 8)))

    def __call__(self, x):
        @jax.checkpoint
        def block(x, kernel):
            y = lax.conv_general_dilated(nnx.relu(x), kernel, (1, 1), "SAME", dimension_numbers=CANONICAL)
            return x + y, None

        return lax.scan(block, self.first(x), self.kernels[...])[0].mean((1, 2))


@jax.custom_vjp
def straight_through_round(x):
    return jnp.round(x)


straight_through_round.defvjp(lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,))


class ChannelsFirst(nnx.Module):
    """NCHW, as models from elsewhere are, with a custom gradient and a branch."""

    def __init__(self, rngs):
        self.kernel = nnx.Param(0.3 * jax.random.normal(rngs.params(), (10, 3, 3, 3)))
        self.deeper = nnx.Param(0.3 * jax.random.normal(rngs.params(), (6, 10, 3, 3)))

    def __call__(self, x):
        x = lax.conv(x.transpose(0, 3, 1, 2), self.kernel[...], (1, 1), "VALID")
        x = straight_through_round(4 * x) / 4
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        deeper = self.deeper[...]
        x = lax.cond(deeper.sum() > 0, lambda x: x, lambda x: 2 * x, x)
        return lax.conv(x, deeper, (1, 1), "VALID").mean((2, 3))


MODELS = [Color, Separable, Decoder, Residual, ChannelsFirst]


def loss_of(graphdef):
    def loss(state, images):
        return jnp.square(nnx.merge(graphdef, state)(images)).sum()

    return loss


def assert_close(actual, wanted):
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, w, rtol=0, atol=1e-5 * float(jnp.abs(w).max()) + 1e-30)


@pytest.mark.parametrize("model", MODELS)
def test_gradients(model, rng):
    graphdef, state = nnx.split(model(nnx.Rngs(0)))
    loss = loss_of(graphdef)
    images = jnp.asarray(rng.random((2, 12, 12, 3)), jnp.float32)

    def gradients(state, images):
        per_image = jax.vmap(lambda image: jax.grad(loss, 1)(state, image[None])[0])(images)
        return jax.value_and_grad(loss, (0, 1))(state, images), per_image

    assert_close(jax.jit(accelerate(gradients))(state, images), jax.jit(gradients)(state, images))


# The gradient outside makes batch groups: one model whose convolutions are plain, one with groups already.
_OUTSIDE = [pytest.param(model, True, marks=pytest.mark.slow) for model in (Color, Decoder, ChannelsFirst)]


@pytest.mark.parametrize(
    ("model", "gradient_outside"),
    [*((model, False) for model in MODELS), (Separable, True), (Residual, True), *_OUTSIDE],
)
def test_stacked_models(model, gradient_outside, rng):
    """Two networks as one: the gradient under `vmap`, and of a `vmap` (batch groups)."""
    split = [nnx.split(model(nnx.Rngs(seed))) for seed in (0, 1)]
    loss = loss_of(split[0][0])
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[state for _, state in split])
    images = jnp.asarray(rng.random((2, 2, 12, 12, 3)), jnp.float32)

    def outside(states, images):
        return jax.grad(lambda *arguments: jax.vmap(loss)(*arguments).sum(), (0, 1))(states, images)

    gradients = outside if gradient_outside else jax.vmap(jax.grad(loss, (0, 1)))
    assert_close(jax.jit(accelerate(gradients))(states, images), jax.jit(gradients)(states, images))
