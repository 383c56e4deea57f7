"""FAB against closed forms on linear models, and what stops it; against adv-lib in `test_auto_peers.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, fab, from_function, perturb
from advjax.attacks import targeted
from tests.models_for_tests import grid_images, linear, linear_weights

# Far from 0 and 1, so that the box does not matter.
IMAGES = (0.5 + 0.02 * np.random.default_rng(0).normal(size=(8, 6, 6, 1))).astype(np.float32)
WEIGHTS = {"w": linear_weights(7)["w"] * jnp.array([[0.1, 0.1, 0.4, 0.05]]), "b": jnp.array([0, 0, 0.2, -0.2])}
LINEAR = from_function(linear, WEIGHTS)
LABELS = LINEAR(jnp.asarray(IMAGES)).argmax(-1).astype(jnp.int32)
KEY = jax.random.key(0)


def attacked(attack, classifier=LINEAR, images=IMAGES, labels=LABELS):
    return perturb(attack, classifier, jnp.asarray(images), labels, KEY)


def distances(norm):
    """To the boundary of the label with each other class [8, 4], infinite for the label itself."""
    w = np.asarray(WEIGHTS["w"], np.float64)
    logits = IMAGES.reshape(8, -1).astype(np.float64) @ w + np.asarray(WEIGHTS["b"], np.float64)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    own = np.asarray(LABELS)
    found = np.full((8, 4), np.inf)
    for image, label in enumerate(own):
        for other in set(range(4)) - {label}:
            gap, slope = logits[image, label] - logits[image, other], w[:, other] - w[:, label]
            found[image, other] = gap / np.linalg.norm(slope, dual)
    return found


@pytest.mark.parametrize(("norm", "targets"), [("linf", None), ("l2", 3), ("l1", None)])
def test_a_linear_model_is_left_at_its_nearest_boundary(norm, targets):
    result = attacked(fab(norm=norm, targets=targets, steps=20, levels=None))
    assert result.success.all()
    least = distances(norm).min(1)
    np.testing.assert_allclose(getattr(result, norm), least, rtol=1e-2)
    assert np.all(np.asarray(getattr(result, norm)) >= least * (1 - 1e-5))


def test_the_box_is_met_on_the_way():
    """The boundary is a sum of pixels: where half of them are at their bound, the others go twice as far."""

    def sums(weights, images):
        total = (images - 0.5).sum((1, 2, 3))
        return jnp.stack([total, weights - total], -1)

    images = np.full((1, 4, 4, 1), 0.75, np.float32)
    images[0, :2] = 0.0  # they cannot fall
    total = float((images - 0.5).sum())
    classifier = from_function(sums, jnp.float32(2 * (total - 1.0)))
    result = attacked(fab(steps=10, levels=None), classifier, images, jnp.zeros(1, jnp.int32))
    np.testing.assert_allclose(result.linf, 1.0 / 8, rtol=1e-2)
    np.testing.assert_array_equal(result.image[0, :2], 0)


def test_where_the_box_takes_the_overshoot_back_others_change():
    """In l1 two pixels of 0.5 go to 0 and are at the boundary exactly: to be beyond it a third must change."""

    def sums(weights, images):
        total = images.sum((1, 2, 3))
        return jnp.stack([total, weights - total], -1)

    images, labels = np.full((1, 2, 2, 1), 0.5, np.float32), np.zeros(1, np.int32)
    result = attacked(fab(norm="l1", steps=20, levels=None), from_function(sums, jnp.float32(2)), images, labels)
    assert result.success.all()
    assert 1 < result.l1[0] < 1.01


def test_of_the_targets_it_takes_those_that_come_next():
    """One target is the class that comes second, whose boundary need not be the nearest."""
    logits = np.array(LINEAR(jnp.asarray(IMAGES)))
    logits[np.arange(8), np.asarray(LABELS)] = -np.inf
    second = distances("l2")[np.arange(8), logits.argmax(1)]
    assert np.any(second > distances("l2").min(1) * 1.1)
    result = attacked(fab(norm="l2", targets=1, steps=20, levels=None))
    # On the way to one class another may be met: never beyond.
    size = np.asarray(result.l2)
    assert np.all(size <= second * (1 + 1e-2))
    assert np.mean(np.isclose(size, second, rtol=1e-2)) >= 0.5
    assert np.all(np.asarray(attacked(fab(norm="l2", targets=3, steps=20, levels=None)).l2) <= size * 1.01)


def test_towards_a_class_it_stops_at_that_class():
    target = (np.asarray(LABELS) + 1) % 4
    result = attacked(targeted(fab(norm="l2", steps=40, levels=None), target))
    np.testing.assert_array_equal(np.asarray(result.prediction)[result.success], target[np.asarray(result.success)])
    assert np.mean(result.success) >= 0.7
    done = np.asarray(result.success)
    own = distances("l2")[np.arange(8), target]
    assert np.all(np.asarray(result.l2)[done] >= own[done] * (1 - 1e-5))


def test_within_a_radius_it_stops_and_beyond_it_returns_the_clean_image():
    least = distances("linf").min(1)
    radii = np.where(np.arange(8) % 2 == 0, least * 1.2, least * 0.9).astype(np.float32)
    result = attacked(fab(radii, steps=20, levels=None))
    inside = np.arange(8) % 2 == 0
    np.testing.assert_array_equal(result.success, inside)
    assert np.all(np.asarray(result.linf) <= radii * (1 + 1e-5))
    np.testing.assert_array_equal(np.asarray(result.image)[~inside], IMAGES[~inside])
    assert set(np.asarray(result.failure)[~inside]) == {Failure.NO_BOUNDARY}
    # A step reads the model once for the gradients to 3 classes, and once to see what it did; the rest is 2.
    calls = np.asarray(result.calls)
    assert np.all(calls[~inside] == 2 + 20 * 4)
    assert np.all(calls[inside] <= 2 + 3 * 4)


def test_on_the_grid_what_rounding_swallows_adds_up():
    """The boundary is a fifth of a gray level away: the nearest image on the grid is at a whole one."""
    images = (np.round(IMAGES[:3] * 255) / np.float32(255)).astype(np.float32)
    w = np.asarray(WEIGHTS["w"])
    for image in images:
        logits = image.reshape(-1) @ w
        second, label = np.argsort(logits)[-2:]
        lift = np.zeros(4, np.float32)
        lift[second] = logits[label] - logits[second] - 0.2 / 255 * np.abs(w[:, second] - w[:, label]).sum()
        classifier = from_function(linear, {**WEIGHTS, "b": jnp.asarray(lift)})
        result = attacked(fab(steps=10), classifier, image[None], jnp.array([label]))
        assert result.success.all()
        assert round(float(result.linf[0]) * 255) == 1


def test_a_restart_begins_elsewhere_and_keeps_the_nearest():
    first = attacked(fab(norm="l1", steps=2, targets=1, levels=None))
    more = attacked(fab(norm="l1", steps=2, targets=1, restarts=4, levels=None))
    assert np.all(np.asarray(more.l1)[np.asarray(first.success)] <= np.asarray(first.l1)[np.asarray(first.success)])
    np.testing.assert_array_equal(np.asarray(more.calls) - 2, 4 * (np.asarray(first.calls) - 2))


def test_clean_mistakes_and_flat_models_are_left_alone():
    wrong = attacked(fab(steps=3, levels=None), labels=(LABELS + 1) % 4)
    np.testing.assert_array_equal(wrong.calls, 2)
    flat = from_function(linear, {"w": jnp.zeros((36, 2)), "b": jnp.array([3.0, 0.0])})
    result = attacked(fab(steps=3), flat, grid_images(0, (2, 6, 6, 1)), jnp.zeros(2, jnp.int32))
    assert set(np.asarray(result.failure)) == {Failure.NO_DIRECTION}
    np.testing.assert_array_equal(result.image, grid_images(0, (2, 6, 6, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l0"}, 'norm must be "linf", "l2" or "l1"'),
        ({"steps": 0}, "steps must be an integer of 1 or more"),
        ({"targets": 0}, "targets must be an integer of 1 or more"),
        ({"epsilon": -0.1}, "epsilon must be a finite number of 0 or more"),
        ({"alpha_max": 1.5}, r"alpha_max must be in \[0, 1\]"),
        ({"beta": -0.1}, r"beta must be in \[0, 1\]"),
        ({"eta": 0.9}, "eta must be 1 or more"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fab(**options)
