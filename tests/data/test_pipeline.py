"""Orders of resident sets."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import Resident
from advjax.data.pipeline import batch_order


@given(size=st.integers(1, 40), start=st.integers(0, 30), steps=st.integers(1, 12), batch_size=st.integers(1, 16))
def test_order_goes_through_whole_epochs_and_can_start_anywhere(size, start, steps, batch_size):
    key = jax.random.key(3)
    whole = batch_order(jax.random.key_data(key), size, 0, start + steps, batch_size)
    np.testing.assert_array_equal(whole[start:], batch_order(jax.random.key_data(key), size, start, steps, batch_size))
    epochs = whole.ravel()[: whole.size // size * size].reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


def test_every_epoch_and_every_key_has_another_order():
    orders = [batch_order(jax.random.key_data(jax.random.key(seed)), 50, 0, 2, 50) for seed in (0, 1)]
    assert len(np.unique(np.concatenate(orders), axis=0)) == 4


def test_order_is_the_one_of_the_committed_results():
    expected = [[7, 9, 1, 3, 0], [4, 2, 0, 2, 9], [3, 8, 6, 7, 1]]
    np.testing.assert_array_equal(batch_order(jax.random.key_data(jax.random.key(7)), 11, 3, 3, 5), expected)


def resident(count=20, **options):
    return Resident(np.zeros((count, 6, 6, 1), np.uint8), np.zeros(count, np.int32), **options)


def test_each_network_has_the_order_of_its_key_and_its_members(rng):
    keys = jax.random.split(jax.random.key(1), 3)
    members = [np.arange(5, 20), rng.permutation(20)[:7], np.array([4])]
    order = resident(members=members).order(keys, 6, 4, 8)
    assert order.dtype == np.int32
    for row, key, member in zip(order, keys, members, strict=True):
        np.testing.assert_array_equal(row, member[batch_order(jax.random.key_data(key), len(member), 6, 4, 8)])
    everything = resident().order(keys, 6, 4, 8)
    np.testing.assert_array_equal(everything[1], batch_order(jax.random.key_data(keys[1]), 20, 6, 4, 8))


def test_without_shuffling_the_epochs_are_an_endless_row_in_file_order():
    keys = jax.random.split(jax.random.key(0), 2)
    order = resident(5, members=[np.arange(5), np.array([3, 1])], shuffle=False).order(keys, 1, 2, 4)
    np.testing.assert_array_equal(order[0], [[4, 0, 1, 2], [3, 4, 0, 1]])
    np.testing.assert_array_equal(order[1], [[3, 1, 3, 1], [3, 1, 3, 1]])


IMAGES, LABELS = np.zeros((4, 6, 6, 3), np.uint8), np.zeros(4, np.int32)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (IMAGES.astype(np.float64), LABELS, TypeError, r"images must be uint8.*got float64"),
        (IMAGES.tolist(), LABELS, TypeError, "images must be uint8.*got list"),
        (IMAGES[0], LABELS, ValueError, r"images must be .*got shape \(6, 6, 3\)"),
        (IMAGES[:0], LABELS[:0], ValueError, r"images must be .*got shape \(0, "),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, ValueError, "looks like NCHW"),
        (np.full(IMAGES.shape, 1.5, np.float32), LABELS, ValueError, r"got values in \[1.5, 1.5\]"),
        (np.full(IMAGES.shape, np.nan, np.float32), LABELS, ValueError, r"got values in \[nan, nan\]$"),
        (np.full(IMAGES.shape, 200, np.float32), LABELS, ValueError, r"got values in \[200, 200\]: divide by 255"),
        (np.full(IMAGES.shape, -1.5, np.float32), LABELS, ValueError, r"\[-1.5, -1.5\]: .* computes inside itself"),
        (IMAGES, LABELS.astype(np.int64), TypeError, "labels must be int32.*got int64"),
        (IMAGES, np.eye(4, dtype=np.int32), ValueError, "looks one-hot"),
        (IMAGES, LABELS[:3], ValueError, r"labels must be int32 \[4\].*got shape \(3,\)"),
        (IMAGES, LABELS - 1, ValueError, "one class from 0 up for each image, got -1"),
    ],
)
def test_resident_refuses_other_arrays(images, labels, error, message):
    with pytest.raises(error, match=message):
        Resident(images, labels)


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([np.arange(20), np.arange(0)], ValueError, r"members\[1\] must hold indices in 0\.\.19 and not be empty"),
        ([np.array([20])], ValueError, r"members\[0\]"),
        ([np.array([-1])], ValueError, r"members\[0\]"),
        ([np.array([0.5])], TypeError, r"members\[0\].*integer"),
        ([[0, 1]], TypeError, r"members\[0\].*integer NumPy array"),
    ],
)
def test_resident_refuses_bad_members(members, error, message):
    with pytest.raises(error, match=message):
        resident(members=members)


def test_order_refuses_another_number_of_keys():
    with pytest.raises(ValueError, match="one index array for each of 3 networks, got 2"):
        resident(members=[np.arange(20)] * 2).order(jax.random.split(jax.random.key(0), 3), 0, 1, 4)
