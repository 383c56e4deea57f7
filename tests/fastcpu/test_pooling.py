"""A pool over separate windows and its gradient: the same bits as XLA's own, ties, signed zeros and NaN included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from advjax.fastcpu import accelerate


def pool_gradient(operand, window, strides, padding="VALID", largest=True):
    def pool(x):
        start, choose = (-jnp.inf, lax.max) if largest else (jnp.inf, lax.min)
        return lax.reduce_window(x, np.float32(start), choose, window, strides, padding)

    pooled, pullback = jax.vjp(pool, operand)
    return pullback(jnp.arange(1.0, 1.0 + pooled.size, dtype="float32").reshape(pooled.shape))[0]


def max_pool(x, window, strides=None, padding="VALID"):
    return lax.reduce_window(x, -np.float32(np.inf), lax.max, window, strides or window, padding)


def both(function, operand):
    return jax.jit(accelerate(function))(operand), jax.jit(function)(operand)


@settings(max_examples=12)
@given(
    window=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    size=st.lists(st.integers(3, 7), min_size=3, max_size=3),
    seed=st.integers(0, 99),
    largest=st.booleans(),
)
def test_separate_windows_give_the_same_bits(window, size, seed, largest):
    rng = np.random.default_rng(seed)
    # Few distinct values: most windows have ties; some hold NaN or infinity.
    values = np.array([0.0, -0.0, 1.0, 2.0, np.nan, -np.inf, np.inf], "float32")
    operand = jnp.asarray(rng.choice(values, size=(2, *size), p=[0.2, 0.2, 0.2, 0.3, 0.04, 0.03, 0.03]))
    fast, plain = both(lambda x: pool_gradient(x, (1, *window), (1, *window), largest=largest), operand)
    np.testing.assert_array_equal(fast, plain)
    fast, plain = both(lambda x: max_pool(x, (1, *window)), operand)
    np.testing.assert_array_equal(fast, plain)
    np.testing.assert_array_equal(np.signbit(fast), np.signbit(plain))


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((1, 3, 3, 1), (1, 2, 2, 1), "VALID"),
        ((1, 2, 2, 1), (1, 2, 2, 1), "SAME"),
        ((1, 6, 6, 1), (1, 6, 6, 1), "VALID"),
    ],
)
def test_overlapping_padded_and_large_windows_stay_as_they_are(window, strides, padding, rng):
    operand = jnp.asarray(rng.normal(size=(2, 7, 7, 3)), jnp.float32)

    def function(x):
        return pool_gradient(x, window, strides, padding)

    assert "select_and_scatter_add" in str(jax.make_jaxpr(accelerate(function))(operand))
    np.testing.assert_array_equal(*both(function, operand))
    np.testing.assert_array_equal(*both(lambda x: max_pool(x, window, strides, padding), operand))


def test_dilated_windows_stay_as_they_are(rng):
    operand = jnp.asarray(rng.normal(size=(20, 5)), jnp.float32)  # two windows in a row, dilated or not

    def dilated(x):
        return lax.reduce_window(x, -np.float32(np.inf), lax.max, (1, 2), (1, 2), "VALID", window_dilation=(1, 2))

    np.testing.assert_array_equal(*both(dilated, operand))


def test_the_pool_becomes_comparisons():
    program = str(jax.make_jaxpr(accelerate(lambda x: max_pool(x, (1, 2, 2, 1))))(jnp.zeros((2, 4, 4, 3))))
    assert "reduce_window" not in program


def test_first_of_equal_elements_takes_the_gradient():
    gradient = jax.jit(accelerate(lambda x: pool_gradient(x, (2, 2), (2, 2))))(jnp.zeros((4, 4)))
    np.testing.assert_array_equal(gradient, [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
