"""The InfiMNIST-like generator against its formula in NumPy and SciPy, and its calibration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from advjax.data import calibrate, infimnist_like, load, misclassified_share

DIGITS = load("digits", "train")
FIRST = 10_000 + len(DIGITS.labels)
LARGEST = 2**32 - 1
GENERATE = jax.jit(lambda generator, indices: generator(indices))


@pytest.fixture(scope="module")
def generator():
    return infimnist_like(DIGITS.images, DIGITS.labels, jax.random.key(0), amplitude=2.0)


def _by_the_formula(generator, i):
    """One deformed image and its label, in Python integers and float64."""
    a = (i - 10_000) % len(generator.labels)
    k1 = (i * 131071 % 2**32) % 1521
    k2 = (k1 + 1 + 2 * i) % 1522
    alpha = (-1 if (k1 + k2) % 2 else 1) * float(generator.amplitude)
    image = np.float64(generator.images[a, ..., 0])
    along_x = ndimage.gaussian_filter(image, 1.0, order=(0, 1), mode="constant")
    along_y = ndimage.gaussian_filter(image, 1.0, order=(1, 0), mode="constant")
    moved = image + alpha * (generator.fields[k1] * along_x - generator.fields[k2] * along_y)
    gray = np.trunc(np.clip(moved, 0, 255) + 1e-3)
    return ndimage.shift(gray, (k1 % 9 // 3 - 1, k1 % 3 - 1), order=0), int(generator.labels[a])


def test_images_follow_the_formula(generator):
    indices = np.concatenate([np.arange(FIRST, FIRST + 30), [1_000_003, 2**31 + 5, LARGEST]])
    images, labels = generator(indices)
    assert (images.dtype, images.shape) == (jnp.uint8, (len(indices), 28, 28, 1))
    for image, label, i in zip(np.asarray(images[..., 0]), np.asarray(labels), indices.tolist(), strict=True):
        expected, expected_label = _by_the_formula(generator, i)
        difference = np.abs(image - expected)
        # float32 against float64: truncation may fall on the other side of a whole number, rarely.
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.005
        assert label == expected_label


@settings(max_examples=10)
@given(indices=st.lists(st.integers(10_000, LARGEST), min_size=8, max_size=8), place=st.integers(0, 7))
def test_an_image_depends_on_its_index_alone(generator, indices, place):
    images, labels = generator(np.array(indices))
    others = np.roll(np.array(indices), place)
    moved_images, moved_labels = GENERATE(generator, jnp.asarray(others, jnp.uint32))
    np.testing.assert_array_equal(np.roll(images, place, axis=0), moved_images)
    np.testing.assert_array_equal(np.roll(labels, place), moved_labels)
    alone, _ = generator(np.array(indices[:1]))
    assert np.abs(np.int32(alone[0]) - np.int32(images[0])).max() <= 1


def test_the_first_indices_are_the_training_images(generator):
    images, labels = generator(np.arange(10_000, FIRST))
    np.testing.assert_array_equal(images, DIGITS.images)
    np.testing.assert_array_equal(labels, DIGITS.labels)


def test_without_amplitude_only_the_shift_is_left(generator):
    still = dataclasses.replace(generator, amplitude=jnp.float32(0))
    images, _ = still(np.arange(FIRST, FIRST + 200))
    originals = np.resize(DIGITS.images, (200, 28, 28, 1))
    np.testing.assert_array_equal(np.sum(images, (1, 2, 3)), originals.sum((1, 2, 3)))
    assert 0.8 < (np.asarray(images) != originals).any((1, 2, 3)).mean() < 0.95  # 8 of 9 are shifted


def test_fields_are_smooth_of_unit_size_and_drawn_by_the_key(generator):
    fields = np.asarray(generator.fields)
    assert fields.shape == (1522, 28, 28)
    np.testing.assert_allclose(np.sqrt(np.mean(fields**2, (1, 2))), 1, rtol=1e-5)
    assert np.abs(np.mean(fields)) < 0.05  # no direction is preferred
    assert np.mean(np.diff(fields, axis=2) ** 2) < 0.1  # neighbors move together
    again, other = (
        infimnist_like(DIGITS.images[:1], DIGITS.labels[:1], jax.random.key(seed)).fields for seed in (0, 1)
    )
    np.testing.assert_array_equal(again, fields)
    assert not np.array_equal(other, fields)


class _Linear:
    """A least-squares classifier as a callable pytree, which counts how often it is traced."""

    traces = 0

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images):
        _Linear.traces += 1
        return images.reshape(images.shape[0], -1) @ self.weights


jax.tree_util.register_pytree_node(_Linear, lambda c: ((c.weights,), None), lambda _, w: _Linear(*w))


@pytest.fixture(scope="module")
def linear(generator):
    """Fitted to shifted digits, so that the shifts alone cost it little."""
    images, labels = dataclasses.replace(generator, amplitude=jnp.float32(0))(np.arange(FIRST, FIRST + 8000))
    inputs = np.asarray(images).reshape(8000, -1) / 255.0
    targets = np.eye(10)[np.asarray(labels)]
    ridge = inputs.T @ inputs + np.eye(784)
    return _Linear(jnp.asarray(np.linalg.solve(ridge, inputs.T @ targets), jnp.float32))


def test_share_counts_the_wrong_images(generator, linear):
    indices = np.arange(FIRST, FIRST + 300)
    images, labels = generator(indices)
    logits = np.asarray(images).reshape(300, -1) / 255.0 @ np.asarray(linear.weights)
    expected = np.mean(logits.argmax(-1) != np.asarray(labels))
    assert 0 < expected < 1
    share = misclassified_share(generator, linear, indices)
    assert float(share) == pytest.approx(expected, abs=1 / 300)


def test_calibration_reaches_the_share_with_one_trace(generator, linear):
    target = 0.25
    _Linear.traces = 0
    calibrated = calibrate(generator, linear, jax.random.key(1), target=target, count=5000)
    assert _Linear.traces == 1
    fresh = np.arange(2_000_000, 2_010_000)
    assert float(misclassified_share(calibrated, linear, fresh)) == pytest.approx(target, abs=0.03)
    again = calibrate(generator, linear, jax.random.key(1), target=target, count=5000)
    assert float(again.amplitude) == float(calibrated.amplitude) > 0


def test_impossible_targets(generator, linear):
    with pytest.raises(ValueError, match="target must exceed the share without deformation"):
        calibrate(generator, linear, jax.random.key(1), target=0.001, count=1000)
    with pytest.raises(ValueError, match=r"target 0\.999 is not reached"):
        calibrate(generator, linear, jax.random.key(1), target=0.999, count=1000)


def test_bad_input(generator, linear):
    images, labels, key = DIGITS.images, DIGITS.labels, jax.random.key(0)
    with pytest.raises(TypeError, match=r"images must be uint8 pixels \(0..255\), got float32"):
        infimnist_like(images.astype(np.float32), labels, key)
    with pytest.raises(ValueError, match=r"images must have shape \[N, H, W, 1\], got \(1297, 28, 28\)"):
        infimnist_like(images[..., 0], labels, key)
    with pytest.raises(ValueError, match=r"labels must have shape \(1297,\), got \(5,\)"):
        infimnist_like(images, labels[:5], key)
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        infimnist_like(images, labels.astype(np.float32), key)
    with pytest.raises(TypeError, match="indices must be integers, got float32"):
        generator(np.float32([20_000]))
    with pytest.raises(ValueError, match=r"indices must have shape \[B\], got \(\)"):
        generator(20_000)
    for index in (9_999, 2**32):
        with pytest.raises(ValueError, match=f"indices must be at least 10000 and below 2\\^32, got {index}"):
            generator(np.array([20_000, index]))
    with pytest.raises(ValueError, match=r"indices must have shape \[n\] with n > 0, got \(0,\)"):
        misclassified_share(generator, linear, np.arange(0))
