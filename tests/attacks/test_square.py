"""Square: its patches against NumPy, its schedule, and that it needs no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import from_function, perturb, pgd
from advjax.attacks import LinfBall, square
from advjax.attacks.constraints import L2Ball
from advjax.attacks.directions import Chain
from advjax.attacks.square import SquareL2, SquareLinf, _bump
from tests.models_for_tests import convolutional, convolutional_weights, grid_images

CLASSIFIER = from_function(convolutional, convolutional_weights())


def bump_of(side):
    """Eta of the paper's eq. 2, ring by ring, as its authors' code builds it."""

    def hill(height, width):
        delta = np.zeros((height, width))
        top, left = height // 2, width // 2
        for ring in range(max(height // 2 + 1, width // 2 + 1)):
            rows = slice(max(top, 0), min(top + 2 * ring + 1, height))
            columns = slice(max(left, 0), min(left + 2 * ring + 1, width))
            delta[rows, columns] += 1 / (ring + 1) ** 2
            top, left = top - 1, left - 1
        return delta / np.linalg.norm(delta)

    delta = np.concatenate([hill(side // 2, side), -hill(side - side // 2, side)])
    return delta / np.linalg.norm(delta)


@pytest.mark.parametrize("side", [3, 4, 5, 7, 12, 25])
def test_bumps_are_those_of_the_authors_code(side):
    got = np.asarray(jax.jit(lambda s: _bump(jnp.arange(30) - 2, jnp.arange(28) - 1, s))(side))
    expected = np.zeros((30, 28))
    expected[2 : 2 + side, 1 : 1 + side] = bump_of(side)
    np.testing.assert_allclose(got / np.linalg.norm(got), expected, atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_a_linf_proposal_is_one_square_of_plus_or_minus_epsilon(seed, side):
    patches, origin = SquareLinf(LinfBall(0.1)), jnp.asarray(grid_images(seed, (9, 11, 3)))
    start, key = jax.random.split(jax.random.key(seed))
    first = patches.start(start, origin)
    stripes = np.asarray(first - origin)
    np.testing.assert_allclose(np.abs(stripes), 0.1, atol=1e-6)
    np.testing.assert_allclose(stripes, np.broadcast_to(stripes[:1], stripes.shape), atol=1e-6)
    drawn = np.asarray(patches.propose(key, first, origin, jnp.int32(side)) - origin)
    np.testing.assert_allclose(np.abs(drawn), 0.1, atol=1e-6)
    changed = np.argwhere((np.abs(drawn - stripes) > 0.05).any(-1))
    if len(changed):
        assert np.all(changed.max(0) - changed.min(0) < side)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_l2_proposal_keeps_the_budget_and_changes_two_squares(seed, side):
    patches, origin = SquareL2(L2Ball(0.8), Chain(())), jnp.full((12, 10, 2), 0.5)
    start, key = jax.random.split(jax.random.key(seed))
    first = patches.start(start, origin)
    assert np.linalg.norm(np.asarray(first - origin)) == pytest.approx(0.8, rel=1e-4)
    drawn = patches.propose(key, first, origin, jnp.int32(side))
    assert np.linalg.norm(np.asarray(drawn - origin)) == pytest.approx(0.8, rel=1e-4)
    odd = min(max(side + (side + 1) % 2, 3), 9)
    change = np.abs(np.asarray(drawn - first)).max(-1) > 1e-5
    assert 0 < change.sum() <= 2 * odd * odd


def no_gradient(weights, images):
    return jax.lax.stop_gradient(convolutional(weights, images))


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.15), ("l2", 1.2)])
def test_it_needs_scores_and_no_gradient(norm, epsilon):
    blind = from_function(no_gradient, convolutional_weights())
    images = jnp.asarray(grid_images(3, (12, 8, 8, 1)))
    labels, key = CLASSIFIER(images).argmax(-1), jax.random.key(0)
    result = perturb(square(epsilon, norm=norm, queries=400), blind, images, labels, key)
    by_gradient = perturb(pgd(epsilon, norm=norm, step_size=epsilon / 4, steps=20), CLASSIFIER, images, labels, key)
    assert np.mean(result.success) >= np.mean(by_gradient.success) - 0.1 > 0.4


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.15), ("l2", 1.2)])
@pytest.mark.slow
def test_it_works_in_float64(norm, epsilon):
    with jax.enable_x64(True):
        classifier = from_function(convolutional, jax.tree.map(lambda w: w.astype(float), convolutional_weights()))
        images = jnp.asarray(grid_images(3, (4, 8, 8, 1)), float)
        labels = classifier(images).argmax(-1)
        attack = square(epsilon, norm=norm, queries=50, levels=None)
        result = perturb(attack, classifier, images, labels, jax.random.key(0))
        assert result.image.dtype == np.float64
        assert np.all(np.asarray(getattr(result, norm)) <= epsilon + 1e-6)
        assert np.any(result.success)


def test_a_start_without_an_answer_does_not_end_the_search():
    def broken(weights, images):
        """Fooled where the first pixel is dark, and NaN where it is bright, as it is after half of all starts."""
        first = images[:, 0, 0, 0]
        return jnp.stack([jnp.where(first > 0.9, weights, 0.0), 0.7 - first], axis=-1)

    images, labels = jnp.full((16, 2, 1, 1), 0.8), jnp.zeros(16, jnp.int32)
    attack = square(0.2, queries=60, levels=None)
    result = perturb(attack, from_function(broken, jnp.float32(jnp.nan)), images, labels, jax.random.key(0))
    assert np.any(np.asarray(result.calls) > 3)
    assert np.all(result.success)


def test_queries_are_counted_and_end_when_fooled():
    images = jnp.asarray(grid_images(3, (12, 8, 8, 1)))
    labels = CLASSIFIER(images).argmax(-1)
    result = perturb(square(0.08, queries=50), CLASSIFIER, images, labels, jax.random.key(1))
    queries, success = np.asarray(result.calls) - 2, np.asarray(result.success)
    assert 0 < success.sum() < 12
    assert np.all(queries[~success] == 50)
    assert queries[success].min() < 50


@pytest.mark.slow
def test_more_queries_only_raise_the_margin():
    images = jnp.asarray(grid_images(3, (12, 8, 8, 1)))
    labels = CLASSIFIER(images).argmax(-1)

    def margins(queries):
        image = perturb(square(0.02, queries=queries), CLASSIFIER, images, labels, jax.random.key(1)).image
        logits = np.array(CLASSIFIER(image))
        own = np.take_along_axis(logits, np.asarray(labels)[:, None], 1)[:, 0]
        np.put_along_axis(logits, np.asarray(labels)[:, None], -np.inf, 1)
        return logits.max(1) - own

    # The schedule of p is stretched to the number of queries, so runs differ; on average more is better.
    assert margins(400).mean() > margins(1).mean()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match='norm must be "linf" or "l2"'):
        square(0.1, norm="l1")
    with pytest.raises(ValueError, match="queries must be an integer of 1 or more"):
        square(0.1, queries=0)
    with pytest.raises(ValueError, match=r"p_init must be in \(0, 1\]"):
        square(0.1, p_init=0.0)
