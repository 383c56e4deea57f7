"""Batches of rows: each row once and in order, all batches of one shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import batches, filled


@given(count=st.integers(0, 20), size=st.integers(1, 8))
def test_batches_hold_each_row_once_in_one_shape(count, size):
    parts = list(batches(count, size))
    assert len(parts) == -(-count // size)
    assert {rows.shape for rows, _ in parts} <= {(min(size, count),)}
    assert [row for rows, real in parts for row in rows[:real]] == list(range(count))
    assert all((rows[real:] == rows[real - 1]).all() for rows, real in parts)


def test_filled_repeats_the_last_row_and_does_not_copy_what_is_full(rng):
    images = rng.integers(0, 256, (3, 2, 2, 1), np.uint8)
    np.testing.assert_array_equal(filled(images, 5), images[[0, 1, 2, 2, 2]])
    assert filled(images, 3) is images


def test_a_size_below_one_is_refused_at_once():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        batches(3, 0)
