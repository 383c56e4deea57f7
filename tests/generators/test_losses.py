"""The losses against what the theory of the paper says of them, on a discrete toy whose densities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from advjax.generators.losses import discriminator_losses, generator_losses, targets

WEIGHTS = st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4)
LOSSES = ["ls", "lr"]


def expected_loss(z, good, bad, loss):
    """L_D of a discriminator with logits z [atoms] where images are good and bad with these densities."""
    of_good = discriminator_losses(z, jnp.ones_like(z), loss)
    return jnp.sum(good * of_good + bad * discriminator_losses(z, jnp.zeros_like(z), loss))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_discriminator_left_to_learn_reaches_the_share_of_good_images(loss):
    good, bad = np.float32([0.5, 0.3, 0.15, 0.05]), np.float32([0.1, 0.2, 0.3, 0.4])
    value_and_slope = jax.jit(jax.value_and_grad(lambda z: expected_loss(z, good, bad, loss)))

    def of(z):
        value, slope = value_and_slope(jnp.asarray(z, jnp.float32))
        return float(value), np.asarray(slope, np.float64)

    found = minimize(of, np.zeros(4), jac=True, tol=1e-9)
    np.testing.assert_allclose(jax.nn.sigmoid(found.x), good / (good + bad), atol=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
@given(good=WEIGHTS, bad=WEIGHTS)
@settings(max_examples=15, deadline=None)
def test_at_the_best_discriminator_the_losses_have_their_closed_forms(loss, good, bad):
    good, bad = np.float32(good), np.float32(bad)
    best = good / (good + bad)
    z = jnp.log(good) - jnp.log(bad)
    slope = jax.grad(lambda z: expected_loss(z, good, bad, loss))(z)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    mean = float(jnp.sum((good + bad) * generator_losses(z, loss)))
    closed = np.sum(bad**2 / (good + bad)) if loss == "ls" else -np.sum((good + bad) * np.log(best))
    assert mean == pytest.approx(closed, rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_generator_gains_by_every_bad_image_that_becomes_good_and_ends_at_zero(loss):
    assert float(generator_losses(jnp.float32(20.0), loss)) < 1e-8
    shares = jnp.linspace(0.1, 0.9, 9)  # of good images, at one atom
    assert np.all(np.diff(generator_losses(jnp.log(shares / (1 - shares)), loss)) < 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_good_or_of_bad_images_alone_has_a_loss(loss):
    for wanted in (jnp.zeros(3), jnp.ones(3)):
        assert np.all(np.isfinite(discriminator_losses(jnp.zeros(3), wanted, loss)))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("z", [-200.0, 200.0])
def test_logits_beyond_the_range_of_the_sigmoid_give_numbers_and_gradients(loss, z):
    for wanted in (0.0, 1.0):
        value, slope = jax.value_and_grad(lambda z, t=wanted: discriminator_losses(z, jnp.float32(t), loss))(z)
        assert np.isfinite(value)
        assert np.isfinite(slope)


def test_the_targets_of_the_two_problems_are_opposite():
    predictions, labels = jnp.array([0, 1, 2, 2]), jnp.array([0, 2, 2, 1])
    np.testing.assert_array_equal(targets(predictions, labels, "enhancing"), [1, 0, 1, 0])
    np.testing.assert_array_equal(targets(predictions, labels, "adversarial"), [0, 1, 0, 1])
