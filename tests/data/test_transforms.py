"""The pixel grid: exact in every mode of execution, and undone without loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import to_float, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)
QUOTIENTS = LEVELS.astype(np.float32) / np.float32(255)  # IEEE division: the nearest float32


def test_to_float_is_the_correctly_rounded_quotient_in_every_mode():
    for values in (
        to_float(LEVELS),
        to_float(jnp.asarray(LEVELS)),
        jax.jit(to_float)(LEVELS),
        jax.vmap(to_float)(LEVELS),
    ):
        assert values.dtype == jnp.float32
        np.testing.assert_array_equal(values, QUOTIENTS)


def test_to_uint8_inverts_to_float():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    restored = to_uint8(to_float(images))
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, images)


@given(st.floats(0, 1, width=32))
def test_to_uint8_takes_the_nearest_level(value):
    assert abs(int(to_uint8(np.float32(value))) - 255 * value) <= 0.5 + 1e-4


def test_rounding_errors_beyond_the_range_are_forgiven():
    assert to_uint8(np.float32([-3e-8, 1 + 1.2e-7])).tolist() == [0, 255]


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf, 128.0])
def test_to_uint8_refuses_what_is_no_image(value):
    with pytest.raises(ValueError, match=r"images must be finite and in \[0, 1\]"):
        to_uint8(np.float32([0.5, value]))


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match=r"images must be uint8.*float32"):
        to_float(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match=r"images must be uint8.*list"):
        to_float([0, 1])
    with pytest.raises(TypeError, match=r"images must be floating point.*uint8"):
        to_uint8(LEVELS)
