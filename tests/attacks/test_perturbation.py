"""The record: PNG files cannot undo a success; what is off the grid is not saved."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax import fgs, from_function, hot_cold, perturb
from tests.models_for_tests import convolutional, convolutional_weights, grid_images


@pytest.mark.parametrize("channels", [1, 3])
def test_every_success_survives_a_png_file(tmp_path, channels):
    classifier = from_function(convolutional, convolutional_weights(channels=channels))
    images = jnp.asarray(grid_images(0, (100, 8, 8, channels)))
    labels = classifier(images).argmax(-1)
    result = perturb(hot_cold(ranks=(1, 3)), classifier, images, labels)
    paths = result.save_png(tmp_path / "made" / "on the way")
    assert [path.name for path in paths[:2]] == ["0_00000.png", "0_00001.png"]
    pixels = np.stack([np.asarray(Image.open(path)).reshape(8, 8, channels) for path in paths])
    read = jnp.asarray(pixels.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(read.reshape(result.image.shape), result.image)
    predictions = np.asarray(classifier(read).argmax(-1)).reshape(2, 100)
    success = np.asarray(result.success)
    assert success.mean() > 0.9
    assert np.all(predictions[success] != np.broadcast_to(np.asarray(labels), (2, 100))[success])


def test_images_off_the_grid_are_not_rounded_in_silence(tmp_path):
    classifier = from_function(convolutional, convolutional_weights())
    images = jnp.asarray(grid_images(0, (4, 8, 8, 1)))
    result = perturb(fgs(levels=None), classifier, images, classifier(images).argmax(-1))
    with pytest.raises(ValueError, match="rounding them could undo the attack"):
        result.save_png(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_channels_are_no_png(tmp_path):
    classifier = from_function(convolutional, convolutional_weights(channels=2))
    images = jnp.asarray(grid_images(0, (2, 8, 8, 2)))
    result = perturb(fgs(), classifier, images, classifier(images).argmax(-1))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        result.save_png(tmp_path)


def test_summary_counts_the_reasons():
    classifier = from_function(convolutional, convolutional_weights())
    images = jnp.asarray(grid_images(0, (4, 8, 8, 1)))
    labels = classifier(images).argmax(-1).at[0].add(1) % 5
    assert perturb(fgs(), classifier, images, labels).summary() == "3 of 4 succeeded; 1 ALREADY_MISCLASSIFIED"
