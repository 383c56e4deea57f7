"""Directions against NumPy; optax's transformations as they are; zero gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax.attacks import L1, L2, Chain, Masked, Sign, Value
from advjax.attacks.directions import as_direction

GRADIENT = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)


def ray(direction, gradient=GRADIENT, steps=1):
    gradient = jnp.asarray(gradient)
    state = direction.init(gradient)
    for _ in range(steps):
        result, state = direction.update(gradient, state, gradient)
    return np.asarray(result)


def test_rays_are_the_steepest_directions_of_their_norms():
    np.testing.assert_array_equal(ray(Sign()), np.sign(GRADIENT))
    np.testing.assert_allclose(ray(Value()), GRADIENT / np.abs(GRADIENT).max(), rtol=1e-6)
    np.testing.assert_allclose(ray(L2()), GRADIENT / np.linalg.norm(GRADIENT), rtol=1e-5)
    top = np.unravel_index(np.abs(GRADIENT).argmax(), GRADIENT.shape)
    expected = np.zeros_like(GRADIENT)
    expected[top] = np.sign(GRADIENT[top])
    np.testing.assert_array_equal(ray(L1()), expected)


def test_l1_on_several_pixels_has_unit_l1_norm_on_the_largest():
    result = ray(L1(4))
    assert np.abs(result).sum() == pytest.approx(1)
    assert set(np.flatnonzero(result)) == set(np.argsort(-np.abs(GRADIENT).ravel())[:4])


@pytest.mark.parametrize("direction", [Sign(), Value(), L2(), L1(), Masked(np.zeros((5, 4, 1)))])
def test_zero_gradient_gives_zero_ray(direction):
    np.testing.assert_array_equal(ray(direction, np.zeros_like(GRADIENT)), 0)


def test_l2_survives_gradients_whose_squares_underflow():
    assert np.linalg.norm(ray(L2(), GRADIENT * np.float32(1e-30))) == pytest.approx(1, rel=1e-5)


def test_masked_forgets_what_lies_outside_before_the_largest_pixel_is_sought():
    mask = np.zeros((5, 4, 1))
    mask[1, 2] = 1
    result = ray(Chain((Masked(mask), L1())))
    assert np.flatnonzero(result.any(-1)).tolist() == [6]


def test_optax_transformations_are_directions():
    momentum = ray(Chain((optax.trace(0.9), Sign())), steps=3)
    np.testing.assert_array_equal(momentum, np.sign(GRADIENT))
    np.testing.assert_allclose(ray(as_direction(optax.trace(0.5)), steps=3), GRADIENT * 1.75, rtol=1e-6)
    np.testing.assert_allclose(ray(as_direction(optax.scale_by_adam())), np.sign(GRADIENT), rtol=1e-3)
    np.testing.assert_allclose(ray(as_direction(optax.adam(-0.1))), 0.1 * np.sign(GRADIENT), rtol=1e-3)


def test_our_directions_are_stages_of_optax_chain():
    chained = optax.chain(optax.trace(0.9), Sign())
    result, _ = chained.update(jnp.asarray(GRADIENT), chained.init(jnp.asarray(GRADIENT)))
    np.testing.assert_array_equal(result, np.sign(GRADIENT))


def test_mask_and_pixels_are_checked():
    with pytest.raises(ValueError, match="pixels must be an integer of 1 or more"):
        L1(0)
    with pytest.raises(ValueError, match=r"mask must be \[4, 4, 3\] or \[4, 4, 1\]"):
        Masked(np.ones((5, 4, 1))).check_image_shape((4, 4, 3))


def test_directions_work_under_jit_as_values():
    direction = Chain((optax.trace(0.9), Value()))
    traced = jax.jit(lambda d, g: d.update(g, d.init(g), g)[0])(direction, jnp.asarray(GRADIENT))
    np.testing.assert_allclose(traced, GRADIENT / np.abs(GRADIENT).max(), rtol=1e-6)
