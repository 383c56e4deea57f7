"""LeNet on real MNIST: its test error, and the attacks against figures measured by an independent implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, fgv, hot_cold, hot_cold_sign, perturb
from advjax.data import load, to_float
from advjax.scores import pass_score
from advjax.training import predict
from experiments.hard_positives.config import PRESETS
from experiments.hard_positives.networks import classifiers, fresh, key_of, on_device, trainer

pytestmark = [pytest.mark.mnist, pytest.mark.slow]

# Mean L2 a pixel, linf and median scale in grey levels, mean PASS with "valid" and "same" padding.
ANCHORS = {
    "FGS": (fgs(), 30.5, 41.0, 0.692, 0.416),
    "FGV": (fgv(), 18.9, 109.9, 0.786, 0.756),
    "HC-1": (hot_cold(1), 18.8, 106.6, 0.771, 0.759),
    "HC-5": (hot_cold(5), 21.3, 115.9, 0.745, 0.735),
    "HC-9": (hot_cold(9), 23.6, 127.9, 0.717, 0.715),
    "HC-S-1": (hot_cold_sign(1), 31.1, 40.4, 0.674, 0.405),
}


@pytest.fixture(scope="module")
def lenet():
    """One LeNet after Caffe's 10,000 iterations, and the training and test digits."""
    config = dataclasses.replace(PRESETS["cpu"], bases=1)
    train, test = load("mnist", "train"), load("mnist", "test")
    pool = on_device([train.images], [train.labels], len(train.images))
    states, _ = trainer(config).fit(
        fresh(config, "base", 1), pool, [np.arange(len(train.images))], config.base_iterations, key_of(config, "base")
    )
    return states, train, test


def test_error_after_ten_thousand_iterations(lenet):
    states, _, test = lenet
    error = 100 * np.mean(predict(states, test.images)[0] != test.labels)
    assert 0.7 <= error <= 1.1


@pytest.fixture(scope="module")
def digits(lenet):
    """The classifier and 1,000 training digits that it gets right."""
    states, train, _ = lenet
    right = np.flatnonzero(predict(states, train.images[:1100])[0] == train.labels[:1100])[:1000]
    return classifiers(states)[0], jnp.asarray(to_float(train.images[right])), jnp.asarray(train.labels[right])


@pytest.mark.parametrize("name", ANCHORS)
def test_attacks_succeed_at_the_distances_measured_before(name, digits):
    classifier, images, labels = digits
    attack, l2, linf, valid, same = ANCHORS[name]
    result = perturb(attack, classifier, images, labels)
    success = np.asarray(result.success)
    assert success.mean() >= 0.995
    # Success is true on re-classification of the 8-bit images, for all of them.
    read = jnp.asarray(result.to_uint8().astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(read, result.image)
    again = np.asarray(jax.jit(classifier)(read).argmax(-1))
    assert np.all(again[success] != np.asarray(labels)[success])
    assert 255 * np.asarray(result.l2)[success].mean() / 28 == pytest.approx(l2, rel=0.05)
    assert 255 * np.asarray(result.linf)[success].mean() == pytest.approx(linf, rel=0.05)
    some = np.flatnonzero(success)[:300]
    for padding, expected in (("valid", valid), ("same", same)):
        score = np.asarray(pass_score(result.image[some], images[some], padding=padding).score)
        assert score.mean() == pytest.approx(expected, rel=0.05)
