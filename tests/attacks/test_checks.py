"""Bad input: one clear error each, naming the argument, what was wanted and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, from_function, hot_cold, perturb, pgd
from advjax.attacks import Box, Fixed, Move, Sign
from tests.models_for_tests import convolutional, convolutional_weights, grid_images

CLASSIFIER = from_function(convolutional, convolutional_weights())
IMAGES = grid_images(0, (4, 8, 8, 1))
LABELS = np.array([0, 1, 2, 3], np.int32)


def call(attack=None, classifier=CLASSIFIER, images=IMAGES, labels=LABELS, key=None):
    return perturb(fgs() if attack is None else attack, classifier, images, labels, key)


def with_pixel(value):
    images = IMAGES.copy()
    images[0, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, TypeError, "images must be .* got uint8: divide by 255"),
        (
            {"images": IMAGES * 255},
            ValueError,
            r"images must be .*\[0, 1\], got values from 0 to 25.: divide",
        ),
        ({"images": IMAGES.astype(np.float16)}, TypeError, "images must be a float32 .* got float16"),
        ({"images": IMAGES.tolist()}, TypeError, "images must be a float32 .* got list"),
        ({"images": with_pixel(np.nan)}, ValueError, "images must be finite .* got NaN or infinity"),
        ({"images": with_pixel(np.inf)}, ValueError, "images must be finite .* got NaN or infinity"),
        ({"images": with_pixel(-0.01)}, ValueError, "images must be finite .* got values from -0.01"),
        ({"images": with_pixel(0.5001)}, ValueError, "images must be on the grid k/255"),
        (
            {"images": np.zeros((4, 3, 8, 8), np.float32)},
            ValueError,
            r"got shape \(4, 3, 8, 8\), which looks like NCHW",
        ),
        ({"images": IMAGES[0]}, ValueError, r"got shape \(8, 8, 1\): add a batch axis"),
        ({"images": IMAGES[:, :, :, 0].reshape(4, 64)}, ValueError, r"got shape \(4, 64\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ValueError, "got an empty batch"),
        (
            {"images": grid_images(0, (4, 6, 6, 1))},
            ValueError,
            r"the classifier cannot take images of .* \(1, 6, 6, 1\)",
        ),
        ({"labels": np.eye(4, 5, dtype=np.int32)}, ValueError, "labels must be .* looks one-hot: use labels.argmax"),
        ({"labels": LABELS.astype(np.float32)}, TypeError, "labels must be an integer array .* got float32"),
        ({"labels": LABELS[:3]}, ValueError, r"labels must be .* of shape \[4\].* got shape \(3,\)"),
        ({"labels": [0, 1, 2, 3]}, TypeError, "labels must be .* got list"),
        ({"labels": LABELS + 2}, ValueError, "labels must be classes from 0 to 4, got values from 2 to 5"),
        ({"labels": LABELS - 1}, ValueError, "labels must be classes from 0 to 4, got values from -1 to 2"),
        ({"attack": "fgs"}, TypeError, "attack must be an attack such as fgs"),
        ({"attack": hot_cold(5)}, ValueError, "rank must be at most 4, the number of other classes, got 5"),
        ({"attack": hot_cold(ranks=(1, 7))}, ValueError, "rank must be at most 4.* got 7"),
        ({"attack": hot_cold(targets=5)}, ValueError, "targets must be classes from 0 to 4, got 5"),
        ({"attack": hot_cold(targets=[1, 2, 3])}, ValueError, "target has one entry for each of 3 images.* has 4"),
        ({"attack": fgs(mask=np.ones((7, 8, 1)))}, ValueError, r"mask must be \[8, 8, 1\]"),
        ({"attack": fgs(mask=np.ones((3, 8, 8, 1)))}, ValueError, "mask has one entry for each of 3 images"),
        ({"attack": pgd(0.1, step_size=0.1, steps=1)}, ValueError, "key must be .* this attack draws random numbers"),
        ({"key": 0}, TypeError, r"key must be jax.random.key\(seed\).* got int"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key must be .* the old kind: use jax.random.key"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, ValueError, r"key must be .* got shape \(3,\)"),
        ({"classifier": convolutional}, TypeError, "classifier must be a Classifier .*from_nnx"),
        (
            {"classifier": from_function(lambda w, x: x.mean((1, 2, 3)), {})},
            ValueError,
            r"the classifier must return logits of shape \[B, K\].* got \(1,\)",
        ),
        (
            {"classifier": from_function(lambda w, x: (convolutional(w, x), x), convolutional_weights())},
            ValueError,
            r"the classifier must return logits of shape \[B, K\].* got tuple",
        ),
        ({"attack": fgs(levels=16)}, ValueError, "images must be on the grid k/15 for an attack with levels=16"),
        (
            {"attack": pgd(0.1, step_size=0.1, steps=1), "key": jax.random.key(0, impl="rbg")},
            ValueError,
            "key must be .* threefry2x32, got rbg",
        ),
        (
            {"attack": Move(lambda logits, label, clean: logits[0], Sign(), Fixed(0.1), Box())},
            TypeError,
            "attack must be made of values",
        ),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fgs(-0.1), "epsilon must not be negative"),
        (lambda: fgs(jnp.float32(-0.1)), "epsilon must not be negative"),
        (lambda: hot_cold(2.7), "rank must hold integers"),
        (lambda: hot_cold(3, targets=2), "give one of rank, ranks and targets"),
        (lambda: fgs(np.nan), "epsilon must not be negative or NaN"),
        (lambda: fgs(mask=np.full((8, 8, 1), 0.5)), "mask must hold 0 and 1 only, got values from 0.5"),
        (lambda: fgs(mask=np.ones((8, 8))), r"mask must be \[H, W, C\].* got shape \(8, 8\)"),
        (lambda: fgs(levels=1), "levels must be an integer from 2"),
        (lambda: hot_cold(0), "rank must be 1"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_model_that_returns_probabilities_is_warned_of():
    softmax = from_function(lambda w, x: jax.nn.softmax(convolutional(w, x)), convolutional_weights())
    with pytest.warns(UserWarning, match="seems to return probabilities .* attacks need logits"):
        call(classifier=softmax)


def test_float_error_at_the_bounds_passes():
    images = IMAGES.copy()
    images[0, 0, 0, 0] = np.float32(-3e-8)
    assert call(images=images).image.min() >= 0


def test_float_error_of_a_bit_does_not_show_in_the_result():
    # What a compiled `/ 255` makes of the same levels.
    nudged = np.nextafter(IMAGES, np.float32(1))
    nudged[0, 0, 0, 0] = np.float32(-3e-8)
    mask = np.zeros((8, 8, 1))
    mask[4, 4] = 1
    exact = np.round(nudged * 255) / np.float32(255)
    outside = np.broadcast_to(mask == 0, IMAGES.shape)
    for attack in (fgs(0.0), fgs(mask=mask), pgd(0.1, step_size=0.1, steps=1, mask=mask)):
        result = call(attack, images=nudged, key=jax.random.key(0))
        np.testing.assert_array_equal(np.asarray(result.image)[outside], exact[outside])
        assert np.asarray(result.l0).max() <= 1


def test_images_between_the_levels_pass_without_grid():
    assert call(fgs(levels=None), images=with_pixel(0.5001)).success.shape == (4,)


def test_jax_arrays_are_checked_like_numpy_ones():
    with pytest.raises(ValueError, match="got NaN or infinity"):
        call(images=jnp.asarray(with_pixel(np.nan)))
