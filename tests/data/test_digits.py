"""scikit-learn's digits against SciPy's interpolation, and their fixed split."""

import hashlib
import sys

import numpy as np
import pytest
from scipy import ndimage, spatial
from sklearn import datasets

from advjax.data import load, load_digits


def test_images_are_the_bilinear_enlargement_in_the_frame_of_mnist():
    images = np.concatenate([load_digits(split)[0] for split in ("train", "test")])
    enlarged = [
        ndimage.zoom(digit / 16.0, 2.5, order=1, mode="nearest", grid_mode=True)
        for digit in datasets.load_digits().images
    ]
    expected = np.pad(np.float64(enlarged), ((0, 0), (4, 4), (4, 4))) * 255
    assert images.dtype == np.uint8
    assert images.shape == (1797, 28, 28, 1)
    # The split reorders the images: each must be, up to rounding, a different one of the expected.
    tree = spatial.cKDTree(expected.reshape(1797, -1))
    distances, rows = tree.query(images.reshape(1797, -1), p=np.inf)
    assert distances.max() <= 0.5 + 1e-9
    assert len(set(rows)) == 1797


def test_split_is_fixed_stratified_and_complete():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train.labels), len(test.labels)) == (1297, 500)
    counts = [np.bincount(part.labels, minlength=10) for part in (train, test)]
    whole = np.bincount(datasets.load_digits().target)
    np.testing.assert_array_equal(counts[0] + counts[1], whole)
    assert np.abs(counts[1] - whole * 500 / 1797).max() < 1
    rows = {image.tobytes() for part in (train, test) for image in part.images}
    assert len(rows) == 1797  # no image is in both


def test_pixels_are_the_same_on_every_machine():
    digest = hashlib.sha256(load("digits", "test").images.tobytes()).hexdigest()
    assert digest == "ea0f9ba80dc4a7883ad90472106e611df3fb88695b6e873dcb44e80171b19cb5"


def test_slice_and_fields():
    part = load("digits", "train[10:30]")
    np.testing.assert_array_equal(part.images, load("digits", "train").images[10:30])
    assert (part.name, part.split, part.num_classes) == ("digits", "train[10:30]", 10)
    assert part.labels.dtype == np.int32


def test_unknown_split():
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\] for digits, got 'valid'"):
        load("digits", "valid")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'scikit-learn: pip install "advjax\[data\]"'):
        load("digits", "train")
