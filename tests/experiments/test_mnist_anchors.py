"""LeNet on real MNIST: its test error, and the attacks against figures measured by independent implementations."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, fgv, hot_cold, hot_cold_sign, perturb
from advjax.data import load, to_float
from advjax.evaluate import pass_all
from advjax.scores import pass_score
from advjax.training import Resident, Trainer, predict, train_step, with_weights
from experiments.hard_positives.config import ATTACKS
from experiments.hard_positives.run import OPTIMIZER, attack_images, fresh, of_states, read_base
from experiments.networks import key_of

pytestmark = [pytest.mark.mnist, pytest.mark.slow]

# Mean L2 a pixel and linf in grey levels, mean PASS with "valid" and "same" padding.
ANCHORS = {
    "FGS": (fgs(), 30.5, 41.0, 0.692, 0.416),
    "FGV": (fgv(), 18.9, 109.9, 0.786, 0.756),
    "HC-1": (hot_cold(1), 18.8, 106.6, 0.771, 0.759),
    "HC-5": (hot_cold(5), 21.3, 115.9, 0.745, 0.735),
    "HC-9": (hot_cold(9), 23.6, 127.9, 0.717, 0.715),
    "HC-S-1": (hot_cold_sign(1), 31.1, 40.4, 0.674, 0.405),
}
# Of Caffe's own LeNet after 10,000 iterations, on the first 400 test digits: mean L2 a pixel and mean PASS ("valid").
CAFFE = {"FGS": (28.3, 0.687), "FGV": (17.2, 0.787), "HC-1": (17.5, 0.769), "HC-9": (22.0, 0.714)}


@pytest.fixture(scope="module")
def lenets():
    """The three LeNets of the paper's experiment after Caffe's 10,000 iterations, and the digits."""
    train, test = load("mnist", "train"), load("mnist", "test")
    trainer = Trainer(train_step(OPTIMIZER), batch_size=64, block=250)
    fitted = trainer.fit(fresh(0, "base", 3), Resident(train.images, train.labels), 10_000, key_of(0, "base"))
    return fitted.states, train, test


def test_error_after_ten_thousand_iterations(lenets):
    states, _, test = lenets
    errors = 100 * np.mean(predict(states, test.images) != test.labels[None], axis=1)
    assert np.all((errors >= 0.7) & (errors <= 1.1)), errors


@pytest.mark.parametrize("name", ANCHORS)
def test_attacks_succeed_at_the_distances_measured_before(name, lenets):
    # Networks differ by a few percent: one alone may be 6 % off, the mean of three is not.
    states, train, _ = lenets
    attack, *expected = ANCHORS[name]
    predictions = predict(states, train.images[:1100])
    measured = []
    for classifier, prediction in zip(of_states(states), predictions, strict=True):
        right = np.flatnonzero(prediction == train.labels[:1100])[:1000]
        images, labels = jnp.asarray(to_float(train.images[right])), jnp.asarray(train.labels[right])
        result = perturb(attack, classifier, images, labels)
        success = np.asarray(result.success)
        assert success.mean() >= 0.995
        # Success is true on re-classification of the 8-bit images, for all of them.
        read = jnp.asarray(to_float(result.to_uint8()))
        np.testing.assert_array_equal(read, result.image)
        again = np.asarray(jax.jit(classifier)(read).argmax(-1))
        assert np.all(again[success] != np.asarray(labels)[success])
        some = np.flatnonzero(success)[:300]
        scores = [
            np.asarray(pass_score(result.image[some], images[some], padding=padding).score).mean()
            for padding in ("valid", "same")
        ]
        distances = 255 * np.asarray(result.l2)[success].mean() / 28, 255 * np.asarray(result.linf)[success].mean()
        measured.append([*distances, *scores])
    np.testing.assert_allclose(np.mean(measured, axis=0), expected, rtol=0.05)


@pytest.mark.skipif(not os.environ.get("ADVJAX_NETWORKS"), reason="no ADVJAX_NETWORKS")
def test_caffes_own_lenet_is_fooled_at_the_distances_measured_by_others():
    (file,) = Path(os.environ["ADVJAX_NETWORKS"]).rglob("caffe_lenet_iter_10000.npz")
    states, test = with_weights(fresh(0, "template", 1), read_base(str(file))), load("mnist", "test")
    assert np.mean(predict(states, test.images)[0] == test.labels) == pytest.approx(0.9914)
    (classifier,) = of_states(states)
    for kind, expected in CAFFE.items():
        found = attack_images(ATTACKS[kind], classifier, test, np.arange(410), 400, 410)
        assert found["succeeded"] >= found["attempted"] - 1, kind
        score = pass_all(found["image"], test.images[found["source"]], batch_size=400)
        np.testing.assert_allclose((found["l2"].mean(), score.mean()), expected, rtol=0.006, err_msg=kind)
