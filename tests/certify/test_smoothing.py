"""Randomized smoothing against its procedure in NumPy and SciPy, on the same draws, and against a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from advjax import from_function
from advjax.certify import ABSTAIN, smoothed
from advjax.certify.smoothing import _counts, lower_bound
from advjax.keys import image_keys
from tests.models_for_tests import grid_images, linear, linear_weights

SIGMA = 0.3


def centered(seed=0):
    """A linear classifier whose classes meet at the grey image, so that images near it are in doubt."""
    weights = linear_weights(seed, pixels=4)
    return {**weights, "b": -0.5 * weights["w"].sum(0)}


NETWORK = from_function(linear, centered())
IMAGES = grid_images(0, (8, 2, 2, 1))
KEY = jax.random.key(7)


def counts_by_hand(purpose, draws):
    """Of the draws that the docstring promises: one key a purpose, in it one an image, in that one a draw."""
    weights = {name: np.asarray(each, np.float64) for name, each in centered().items()}
    counts = np.zeros((len(IMAGES), 4), int)
    for i, key in enumerate(image_keys(jax.random.fold_in(KEY, purpose), len(IMAGES))):
        noise = jax.vmap(lambda each: jax.random.normal(each, (2, 2, 1)))(image_keys(key, draws))
        logits = (IMAGES[i] + SIGMA * np.asarray(noise, np.float64)).reshape(draws, -1) @ weights["w"] + weights["b"]
        counts[i] = np.bincount(logits.argmax(-1), minlength=4)
    return counts


def test_certificates_are_those_of_the_procedure():
    found = smoothed(NETWORK, SIGMA).certify(IMAGES, KEY, selection=20, draws=150, alpha=0.01, chunk=64)
    chosen, counts = counts_by_hand(0, 20).argmax(-1), counts_by_hand(1, 150)
    abstained = 0
    for i, c in enumerate(chosen):
        low = stats.binomtest(int(counts[i, c]), 150).proportion_ci(0.98, "exact").low
        np.testing.assert_allclose(found.share[i], low, rtol=1e-6)
        if low < 0.5:
            abstained += 1
            assert (found.prediction[i], found.radius[i]) == (ABSTAIN, 0)
        else:
            assert found.prediction[i] == c
            np.testing.assert_allclose(found.radius[i], SIGMA * stats.norm.ppf(low), rtol=1e-6, atol=1e-12)
    assert 0 < abstained < 8


@pytest.mark.parametrize(("draws", "alpha"), [(40, 0.05), (150, 0.001)])
def test_predictions_are_those_of_the_procedure(draws, alpha):
    found = smoothed(NETWORK, SIGMA).predict(IMAGES, KEY, draws=draws, alpha=alpha, chunk=64)
    expected = []
    for counts in counts_by_hand(1, draws):
        second, first = (int(count) for count in np.sort(counts)[-2:])
        sure = stats.binomtest(first, first + second, 0.5).pvalue <= alpha
        expected.append(counts.argmax() if sure else ABSTAIN)
    assert found.tolist() == expected
    assert {ABSTAIN} < set(expected)


def test_the_bound_is_clopper_and_pearsons():
    for draws in (1, 7, 1000, 100_000):
        hits = np.unique(np.linspace(0, draws, 9).astype(int))
        for alpha in (0.001, 0.1):
            expected = [
                stats.binomtest(int(k), draws).proportion_ci(1 - 2 * alpha, "exact").low if k else 0.0 for k in hits
            ]
            np.testing.assert_allclose(lower_bound(hits, draws, alpha), expected, rtol=1e-6, atol=1e-12)


def test_a_linear_networks_radius_is_its_distance_to_the_boundary():
    """For two classes P(f = c) = Phi(d / sigma) with the distance d, so that sigma Phi^-1 of it is d for any sigma."""
    weights = jax.tree.map(lambda leaf: leaf[..., :2], centered())
    network, draws = from_function(linear, weights), 20_000
    gap = np.diff(np.asarray(network(IMAGES), np.float64), axis=-1)[:, 0]
    kernel = np.asarray(weights["w"], np.float64)
    distance = np.abs(gap) / np.linalg.norm(kernel[:, 1] - kernel[:, 0])
    found = smoothed(network, SIGMA).certify(IMAGES, KEY, draws=draws, alpha=0.001, chunk=2000)
    near = (distance > 0.1) & (distance < 2 * SIGMA)  # beyond, no draw of so few misses
    assert near.sum() > 3
    np.testing.assert_array_equal(found.prediction[near], (gap > 0)[near])
    assert np.all(found.radius <= distance)
    np.testing.assert_allclose(found.radius[near], distance[near], atol=0.05)


def test_counts_do_not_depend_on_chunk_or_on_other_images():
    g = smoothed(NETWORK, SIGMA)
    whole = g.counts(IMAGES, KEY, 50, chunk=50)
    np.testing.assert_array_equal(g.counts(IMAGES[:3], KEY, 50, chunk=7), whole[:3])
    assert whole.sum(-1).tolist() == [50] * 8


def test_other_numbers_are_the_same_program():
    smoothed(NETWORK, 0.1).counts(IMAGES, KEY, 50, chunk=10)
    before = _counts._cache_size()
    smoothed(from_function(linear, centered(1)), 0.2).counts(IMAGES, jax.random.key(1), 73, chunk=10)
    assert _counts._cache_size() == before


def test_a_network_that_says_nothing_gets_no_certificate():
    nothing = smoothed(from_function(lambda _, x: jnp.full((x.shape[0], 3), jnp.nan), ()), SIGMA)
    found = nothing.certify(IMAGES, KEY, selection=5, draws=50)
    assert found.prediction.tolist() == [ABSTAIN] * 8
    assert found.radius.tolist() == [0.0] * 8
    assert nothing.predict(IMAGES, KEY, draws=50).tolist() == [ABSTAIN] * 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothed(NETWORK, 0.0), "sigma must be a positive finite number"),
        (lambda: smoothed(NETWORK, np.array([0.1, 0.2])), "one number for all images"),
        (lambda: smoothed(NETWORK, 0.1).certify(IMAGES, KEY, alpha=0.0), "alpha must be between 0 and 1"),
        (lambda: smoothed(NETWORK, 0.1).predict(IMAGES, KEY, alpha=1.0), "alpha must be between 0 and 1"),
        (lambda: smoothed(NETWORK, 0.1).certify(IMAGES, KEY, draws=0), "draws must be an integer of 1 or more"),
        (lambda: smoothed(NETWORK, 0.1).counts(IMAGES, KEY, 5, chunk=0), "chunk must be an integer of 1 or more"),
        (lambda: smoothed(NETWORK, 0.1).counts(IMAGES[0], KEY, 5), "images must be floats"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
