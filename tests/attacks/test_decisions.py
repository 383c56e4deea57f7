"""The boundary attack and HopSkipJump: closed forms, what they start from, what they count, and the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, boundary_attack, from_function, hop_skip_jump, perturb
from advjax.attacks import targeted
from advjax.attacks.boundary import _Counted
from tests.models_for_tests import linear

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# Far from 0 and 1, so that the box does not matter; the boundary is 0.03 to 0.3 away in l2.
W = RNG.normal(size=(16, 2)).astype(np.float32)
IMAGES = jnp.asarray(np.round(255 * (0.5 + 0.04 * RNG.normal(size=(6, 4, 4, 1)))) / 255, jnp.float32)
SLOPE = np.float64(W[:, 1]) - W[:, 0]
MIDDLE = {"w": jnp.asarray(W), "b": -jnp.asarray(W.sum(0) / 2)}
GAPS = (np.asarray(IMAGES, np.float64).reshape(6, 16) - 0.5) @ SLOPE
CLASSIFIER, LABELS = from_function(linear, MIDDLE), jnp.asarray(GAPS > 0, jnp.int32)
ATTACKS = {
    "boundary": (boundary_attack, "l2"),
    "l2": (hop_skip_jump, "l2"),
    "linf": (lambda **o: hop_skip_jump(norm="linf", **o), "linf"),
}


def distances(norm):
    return np.abs(GAPS) / (np.linalg.norm(SLOPE) if norm == "l2" else np.abs(SLOPE).sum())


SLOW = {("boundary", None), ("l2", None), ("l2", 256)}


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        pytest.param(name, levels, id=f"{levels}-{name}", marks=[pytest.mark.slow] if (name, levels) in SLOW else [])
        for name in ATTACKS
        for levels in (None, 256)
    ],
)
def test_the_distance_to_a_linear_boundary_is_the_closed_form(name, levels):
    build, norm = ATTACKS[name]
    result = perturb(build(queries=1500, levels=levels), CLASSIFIER, IMAGES, LABELS, KEY)
    assert np.all(result.success)
    found, least = np.asarray(getattr(result, norm)), distances(norm)
    assert np.all(found >= least * (1 - 1e-4))
    # On the grid it may lie a level further.
    assert np.all(found <= 1.05 * least + (0.0 if levels is None else 1.5 / 255))


@pytest.mark.parametrize("build", [boundary_attack, hop_skip_jump])
def test_queries_are_counted_and_images_that_cannot_be_fooled_are_given_up(build):

    assert set(np.asarray(perturb(build(queries=150), CLASSIFIER, IMAGES, LABELS, KEY).calls)) == {152}
    certain = from_function(linear, {"w": MIDDLE["w"] * 1e-3, "b": jnp.array([9.0, 0.0])})
    result = perturb(build(queries=150), certain, IMAGES, jnp.zeros(6, jnp.int32), KEY)
    assert set(np.asarray(result.failure)) == {Failure.NO_BOUNDARY}
    assert set(np.asarray(result.calls)) == {102}
    np.testing.assert_array_equal(result.image, IMAGES)
    wrong = perturb(build(queries=150), CLASSIFIER, IMAGES, 1 - LABELS, KEY)
    assert set(np.asarray(wrong.calls)) == {2}
    np.testing.assert_array_equal(wrong.image, IMAGES)


@pytest.mark.parametrize("build", [pytest.param(boundary_attack, marks=pytest.mark.slow), hop_skip_jump])
def test_a_target_is_reached_and_no_other_class(build):
    w = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    classifier = from_function(linear, {"w": jnp.asarray(w), "b": -jnp.asarray(w.sum(0) / 2)})
    labels = classifier(IMAGES).argmax(-1)
    result = perturb(targeted(build(queries=300), (labels + 1) % 3), classifier, IMAGES, labels, KEY)
    np.testing.assert_array_equal(result.prediction, (labels + 1) % 3)


def test_step_sizes_change_after_full_windows_alone():
    no, yes = jnp.bool_(False), jnp.bool_(True)
    for hits, factor in ((0, 1 / 1.5), (2, 1.0), (5, 1.0), (6, 1.5)):
        counted = _Counted(jnp.int32(0), jnp.int32(0))
        for index in range(10):
            assert counted.factor(yes, 10, 0.2, 0.5) == 1
            counted = counted.after(no, yes, 10)
            counted = counted.after(yes, jnp.bool_(index < hits), 10)
        assert counted.factor(yes, 10, 0.2, 0.5) == pytest.approx(factor)
        assert counted.factor(no, 10, 0.2, 0.5) == 1
        assert tuple(map(int, counted.after(yes, yes, 10))) == (1, 1)


def test_bad_settings_are_refused():
    for build, message in (
        (lambda: boundary_attack(queries=0), "queries must be an integer of 1 or more"),
        (lambda: hop_skip_jump(queries=True), "queries must be an integer of 1 or more"),
        (lambda: hop_skip_jump(samples=1), "samples must be an integer of 2 or more"),
        (lambda: hop_skip_jump(norm="l1"), 'norm must be "l2" or "linf"'),
    ):
        with pytest.raises(ValueError, match=message):
            build()
