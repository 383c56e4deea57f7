"""Spatial attacks: the grid written out in NumPy, corners of homographies, and what gradients find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import from_function, homography, perturb, spatial
from advjax.attacks import targeted
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear, linear_weights

KEY = jax.random.key(0)


def seen(image, angle, u, v):
    """The image [H, W, C] turned and moved, pixel by pixel, in float64."""
    height, width, _ = image.shape
    bordered = np.pad(np.float64(image), ((1, 2), (1, 2), (0, 0)))
    out = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            x, y = np.cos(angle) * x - np.sin(angle) * y + u, np.sin(angle) * x + np.cos(angle) * y + v
            x, y = x + (width - 1) / 2 + 1, y + (height - 1) / 2 + 1
            if not (0 <= x <= width + 1 and 0 <= y <= height + 1):
                continue
            i, j, a, b = int(y), int(x), y - int(y), x - int(x)
            out[row, column] = (1 - a) * ((1 - b) * bordered[i, j] + b * bordered[i, j + 1]) + a * (
                (1 - b) * bordered[i + 1, j] + b * bordered[i + 1, j + 1]
            )
    return out


@pytest.mark.parametrize("target", [None, 2])
def test_the_grid_is_the_worst_of_all_motions_written_out(target):
    weights = linear_weights(3, pixels=5 * 6 * 2, classes=4)
    w, b = np.float64(weights["w"]), np.float64(weights["b"])
    images = grid_images(1, (3, 5, 6, 2))
    labels = (images.reshape(3, -1) @ w + b).argmax(1)
    labels = np.where(labels == 2, 1, labels).astype(np.int32)
    attack = spatial(25.0, 1.5, rotations=3, translations=2, levels=None)
    attack = attack if target is None else targeted(attack, target)
    result = perturb(attack, from_function(linear, weights), jnp.asarray(images), jnp.asarray(labels))
    assert set(np.asarray(result.calls)) == {3 * 2 * 2 + 2}
    for image, label, got in zip(images, labels, np.asarray(result.image), strict=True):
        tried = [
            seen(image, np.radians(angle), u, v) for angle in (-25, 0, 25) for u in (-1.5, 1.5) for v in (-1.5, 1.5)
        ]
        logits = np.array([one.ravel() @ w + b for one in tried])
        others = np.delete(logits, label if target is None else target, axis=1).max(1)
        margins = others - logits[:, label] if target is None else logits[:, target] - others
        np.testing.assert_allclose(got, tried[margins.argmax()], atol=1e-5)


def test_a_grid_of_one_motion_is_the_image():
    images = jnp.asarray(grid_images(1, (2, 5, 6, 2)))
    classifier = from_function(linear, linear_weights(3, pixels=60))
    result = perturb(spatial(30, 3, rotations=1, translations=1), classifier, images, jnp.zeros(2, int))
    np.testing.assert_array_equal(result.image, images)


def ramps(height, width):
    """Two channels, which say where they are: x and y in shares of the sides."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x / (width - 1), y / (height - 1)], -1).astype(np.float32)


def test_corners_go_where_the_parameters_say():
    image, shifts = ramps(7, 9), np.float32([1.5, -0.5, 0.25, -1, 0.75, 1.25, -1.5, -0.5])
    warped = np.asarray(homography(1.6).warped(jnp.asarray(image), jnp.asarray(shifts)))
    corners = warped[[0, 0, -1, -1], [0, -1, 0, -1]]
    expected = np.float32([[0, 0], [8, 0], [0, 6], [8, 6]]) + np.stack([shifts[:4], shifts[4:]], -1)
    np.testing.assert_allclose(corners, expected / np.float32([8, 6]), atol=1e-5)
    # Lines stay lines: where the diagonals met they still meet.
    moved = homography(1.6).warped(jnp.asarray(image), jnp.repeat(jnp.array([1.0, -0.5]), 4))
    np.testing.assert_allclose(moved, spatial(0, 1).warped(jnp.asarray(image), jnp.array([0, 1, -0.5])), atol=1e-5)


CLASSIFIER = from_function(convolutional, convolutional_weights())
IMAGES = jnp.asarray(grid_images(5, (8, 8, 8, 1)))
LABELS = CLASSIFIER(IMAGES).argmax(-1).astype(jnp.int32)


def margins(attack, key=KEY):
    logits = np.array(CLASSIFIER(perturb(attack, CLASSIFIER, IMAGES, LABELS, key).image))
    own = logits[np.arange(8), np.asarray(LABELS)].copy()
    logits[np.arange(8), np.asarray(LABELS)] = -np.inf
    return logits.max(1) - own


def test_more_random_tries_only_raise_the_margin_and_gradients_raise_it_more():
    few, many = (margins(homography(1.5, search="random", tries=tries)) for tries in (4, 20))
    assert np.all(many >= few - 1e-5)
    assert np.mean(many > few + 0.01) > 0.5
    # The first point of the descent is a draw; what follows is better than draws.
    assert margins(homography(1.5, tries=20)).mean() > many.mean()


def test_gradients_go_to_the_bound_and_no_further():
    """A wide hill of light, that the model wants as far to the right and up as it can be."""
    y, x = np.mgrid[:9, :9]
    image = np.exp(-((x - 4) ** 2 + (y - 4) ** 2) / 8).astype(np.float32)[None, ..., None]

    weights = {"w": jnp.stack([jnp.zeros(81), jnp.asarray((x - y).ravel(), jnp.float32)], -1), "b": jnp.array([9.0, 0])}
    attack = spatial(0, 1.25, search="gradient", tries=12, levels=None)
    result = perturb(attack, from_function(linear, weights), jnp.asarray(image), jnp.array([0]), KEY)
    np.testing.assert_allclose(result.image[0], seen(image[0], 0, -1.25, 1.25), atol=1e-5)


def test_bad_settings_are_refused():
    for build, message in (
        (lambda: spatial(-1), "max_rotation must be a finite number of 0 or more"),
        (lambda: spatial(1, -1), "max_translation must be a finite number of 0 or more"),
        (lambda: spatial(search="some"), 'search must be "grid", "random" or "gradient"'),
        (lambda: homography(search="grid"), 'search must be "random" or "gradient"'),
        (lambda: spatial(rotations=0), "rotations must be an integer of 1 or more"),
        (lambda: spatial(search="random", tries=0), "tries must be an integer of 1 or more"),
        (lambda: perturb(homography(2.0), CLASSIFIER, IMAGES, LABELS, KEY), "max_shift must be below a quarter"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
