"""Random signs: the definition, what shares a draw, and the calculus of the paper, corrected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.keys import image_keys
from advjax.signs import random_sign_of

KEYS = image_keys(jax.random.key(0), 6)


def signs(x, keys=KEYS, **options):
    """The draws r = (g(x) - x) / (eps |x|), for eps = 1/2 and x a power of two: exact."""
    return np.asarray((random_sign_of(keys, x, 0.5, **options) - x) / (0.5 * jnp.abs(x)))


@pytest.mark.parametrize("p", [0.5, 0.8, 0.0, 1.0])
def test_each_element_grows_with_probability_p_whatever_its_sign(p):
    x = jnp.full((6, 40, 25), -2.0).at[:, ::2].set(4.0)
    drawn = signs(x, p=p)
    assert set(np.unique(drawn)) <= {-1.0, 1.0}
    spread = np.sqrt(p * (1 - p))
    # Of both halves by itself, and of the elements at each place of a word of 32 bits.
    for part in (drawn[:, ::2], drawn[:, 1::2], *np.moveaxis(drawn.reshape(6, -1)[:, :992].reshape(-1, 32), 1, 0)):
        assert abs(np.mean(part == 1) - p) <= 5 * spread / np.sqrt(part.size)
    # Neighbors are drawn apart: of two, one in two differs.
    flat = drawn.reshape(6, -1)
    for step in (1, 2, 32, 64):
        differ = np.mean(flat[:, step:] != flat[:, :-step])
        assert abs(differ - 2 * p * (1 - p)) <= 0.05


def test_zero_stays_and_a_share_of_zero_changes_nothing():
    assert not random_sign_of(KEYS, jnp.zeros((6, 7)), 0.5).any()
    x = jax.random.normal(jax.random.key(1), (6, 7))
    np.testing.assert_array_equal(random_sign_of(KEYS, x, 0.0), x)


def test_what_shares_a_draw():
    x = jnp.ones((6, 64))
    by_element, by_example, by_batch = signs(x), signs(x, per="example"), signs(x, KEYS[0], per="batch")
    assert all(len(set(row)) == 2 for row in by_element)
    assert len(np.unique(by_element, axis=0)) == 6
    assert all(len(set(row)) == 1 for row in by_example)
    assert len(np.unique(by_example)) == 2
    assert len(np.unique(by_batch)) == 1
    assert {signs(x, key, per="batch")[0, 0] for key in KEYS} == {-1.0, 1.0}


@pytest.mark.parametrize("per", ["element", "example"])
def test_an_image_draws_by_its_key_alone(per):
    x = jnp.ones((6, 5, 5, 3))
    together = signs(x, per=per)
    for i in (0, 4):
        np.testing.assert_array_equal(signs(x[i : i + 1], KEYS[i : i + 1], per=per)[0], together[i])


@given(epsilon=st.floats(0.0, 0.99), x=st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), seed=st.integers(0, 99))
def test_the_derivative_is_1_plus_epsilon_r_sign_and_never_0(epsilon, x, seed):
    """No new stationary points for epsilon < 1."""
    key, at = image_keys(jax.random.key(seed), 1), jnp.full((1,), x, jnp.float32)
    slope = jax.grad(lambda at: random_sign_of(key, at, epsilon)[0])(at)[0]
    r = np.sign(random_sign_of(key, at, 0.5) - at)[0]
    assert slope == pytest.approx(1 + epsilon * r * np.sign(x), rel=1e-6)
    assert slope > 0


def test_the_second_derivative_has_the_squared_factor_whose_mean_is_1_plus_epsilon_squared():
    """Of f(g(x)) with f = sin: f''(g) (1 + eps r sgn x)^2, and at x = 0.7 no more."""
    keys, x, epsilon = image_keys(jax.random.key(3), 4096), jnp.float32(0.7), 0.3

    def composed(x, key):
        return jnp.sin(random_sign_of(key[None], x[None], epsilon)[0])

    second = jax.vmap(jax.grad(jax.grad(composed)), (None, 0))(x, keys)
    g = random_sign_of(keys, jnp.full(4096, x), epsilon)
    factor = np.asarray(second / -jnp.sin(g))
    assert sorted(set(np.round(factor, 4))) == [pytest.approx((1 - epsilon) ** 2), pytest.approx((1 + epsilon) ** 2)]
    assert factor.mean() == pytest.approx(1 + epsilon**2, abs=5 * 2 * epsilon / 64)


@pytest.mark.parametrize("options", [{"p": 1.1}, {"p": -0.1}, {"p": True}, {"per": "pixel"}])
def test_other_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        random_sign_of(KEYS, jnp.ones((6, 2)), 0.1, **options)
