"""Networks in bfloat16: the loss and its gradient are those of float64 arithmetic on the network's own logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.entropy import cross_entropies
from advjax.training import Batch, create, measure, stack, train_step

OPTIMIZER = optax.sgd(1.0)


class Half(nnx.Module):
    """Softmax regression that computes in bfloat16, with weights that make losses of about 16."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(12, 200, dtype=jnp.bfloat16, kernel_init=nnx.initializers.normal(3.0), rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(images.shape[0], -1))


@pytest.fixture
def batch(rng):
    image = rng.integers(0, 256, (32, 2, 2, 3)).astype(np.uint8)
    return Batch(jnp.asarray(image), jnp.asarray(rng.integers(0, 200, 32), jnp.int32))


def losses_and_error(logits, labels):
    """The losses [B] of logits, and the gradient [B, K] of their mean, in float64."""
    h = np.asarray(logits.astype(jnp.float32), np.float64)
    exponentials = np.exp(h - h.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    rows = np.arange(len(h))
    losses = np.log(exponentials.sum(1)) + h.max(1) - h[rows, labels]
    return losses, (p - np.eye(h.shape[1])[labels]) / len(h)


def test_the_step_descends_the_loss_of_the_bfloat16_logits(batch):
    model = Half(nnx.Rngs(0))
    state = create(model, OPTIMIZER)
    images, labels = np.asarray(batch.image, np.float32) / np.float32(255), np.asarray(batch.label)

    def of(params):
        return nnx.merge(state.graphdef, params, state.rest)(images)

    logits, back = jax.vjp(of, state.params)
    assert logits.dtype == jnp.bfloat16
    losses, error = losses_and_error(logits, labels)
    (gradient,) = back(jnp.asarray(error, jnp.bfloat16))
    after, metrics = jax.jit(train_step(OPTIMIZER))(state, batch, jax.random.key(0))
    assert 12 < losses.mean() < 20
    np.testing.assert_allclose(metrics.loss, losses.sum(), rtol=1e-5)
    for name in ("kernel", "bias"):
        want = np.asarray(gradient["linear"][name][...])
        step = np.asarray(state.params["linear"][name][...]) - np.asarray(after.params["linear"][name][...])
        # One rounding to bfloat16 less or more here and there; entropy in bfloat16 is 1 % off.
        assert np.linalg.norm(step - want) < 1e-3 * np.linalg.norm(want), name
    score = measure(stack([state]), np.asarray(batch.image), labels)
    np.testing.assert_allclose(score.loss, losses.mean(), rtol=1e-5)


def test_a_loss_of_ones_own_gets_what_the_network_returns_and_is_summed_in_float32(batch):
    seen = []

    def bounded(model, images, labels):
        logits = model(images)
        seen.append(logits.dtype)
        return jnp.full(images.shape[:1], 1.0078125, jnp.bfloat16), logits  # the bfloat16 after 1

    _, metrics = jax.jit(train_step(OPTIMIZER, loss=bounded))(
        create(Half(nnx.Rngs(0)), OPTIMIZER), batch, jax.random.key(0)
    )
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    assert float(metrics.loss) == 32 * 1.0078125


@pytest.mark.parametrize(
    ("given", "computed"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64",) * 2]
)
def test_entropies_are_float32_or_wider(given, computed):
    with jax.enable_x64(True):
        losses = jax.eval_shape(cross_entropies, jax.ShapeDtypeStruct((4, 3), given), jnp.zeros(4, jnp.int32))
    assert losses.dtype == computed
