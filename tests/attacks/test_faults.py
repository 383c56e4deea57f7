"""Faults: what a user's own `jit` cannot raise for, its results carry out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, from_function, hot_cold, perturb, stack
from advjax.attacks import Fault, image_faults, steepest, targeted
from tests.models_for_tests import grid_images, linear, linear_weights

CLASSIFIER = from_function(linear, linear_weights(1))
GOOD = grid_images(0, (6, 6, 6, 1))
LABELS = jnp.array([0, 1, 2, 3, 0, 1], jnp.int32)


def spoiled():
    """One image for each fault, and the last two as they should be."""
    images = GOOD.copy()
    images[0, 1, 2, 0] = np.nan
    images[1, 0, 0, 0] = 1.7
    images[2, 3, 3, 0] = 0.40123
    return images, LABELS.at[3].set(4)


BITS = [
    Fault.NOT_FINITE,
    # 1.7 is on the grid, as far as it goes: 433.5 is half a level off.
    Fault.OUT_OF_RANGE | Fault.OFF_GRID,
    Fault.OFF_GRID,
    Fault.UNKNOWN_LABEL,
    Fault.NONE,
    Fault.NONE,
]


def test_each_image_has_its_own_faults():
    images, labels = spoiled()
    np.testing.assert_array_equal(image_faults(fgs(), images, labels, 4), BITS)
    np.testing.assert_array_equal(jax.jit(lambda *batch: image_faults(fgs(), *batch, 4))(images, labels), BITS)
    # Without a grid nothing is off it.
    without = [bits & ~Fault.OFF_GRID for bits in BITS]
    np.testing.assert_array_equal(image_faults(fgs(levels=None), images, labels, 4), without)
    np.testing.assert_array_equal(image_faults(None, images, labels, 4), without)
    # Float error of a bit is none, and neither are the levels themselves.
    slightly = np.nextafter(np.clip(GOOD, 0, 1), np.float32(2))
    assert not np.any(image_faults(stack([fgs(0.1), fgs(0.2)]), slightly, LABELS, 4))


@pytest.fixture(scope="module")
def jitted():
    return jax.jit(lambda images, labels: perturb(fgs(0.1), CLASSIFIER, images, labels))


def test_the_result_of_a_users_jit_carries_them(jitted):
    images, labels = spoiled()
    result = jitted(images, labels)
    np.testing.assert_array_equal(result.faults, BITS)
    told = "faults: 1 NOT_FINITE, 1 OUT_OF_RANGE, 2 OFF_GRID, 1 UNKNOWN_LABEL"
    assert result.summary().endswith(told)
    with pytest.raises(ValueError, match=r"got NaN or infinity \(1 of 6\); .* belong inside the model\) \(1 of 6\);"):
        result.check()
    good = jitted(GOOD, LABELS)
    assert not good.faults.any()
    good.check()
    assert "faults" not in good.summary()


def test_normalized_images_do_not_pass_in_silence(jitted):
    normalized = (GOOD - GOOD.mean()) / GOOD.std()
    with pytest.raises(ValueError, match="images that are normalized by mean and standard deviation"):
        jitted(normalized, LABELS).check()
    with pytest.raises(ValueError, match="they seem to be normalized"):
        perturb(fgs(0.1), CLASSIFIER, normalized, LABELS)


def test_levels_between_the_grid_do_not_pass_in_silence():
    run = jax.jit(lambda images: perturb(steepest("linf", 8 / 255), CLASSIFIER, images, LABELS))
    between = np.float32(0.8) * GOOD + np.float32(0.01)
    with pytest.raises(ValueError, match=r"images must be on the grid of the attack's levels .* \(6 of 6\)"):
        run(between).check()


def test_a_stack_carries_them_for_each_attack():
    images, labels = spoiled()
    run = jax.jit(lambda *batch: perturb(stack([fgs(0.1), fgs(0.2)]), CLASSIFIER, *batch))
    np.testing.assert_array_equal(run(images, labels).faults, [BITS, BITS])


def test_targets_and_ranks_beyond_the_classes_do_not_pass_in_silence():
    targets = np.array([0, 1, 2, 3, 4, 1], np.int32)
    result = jax.jit(lambda images: perturb(targeted(fgs(0.1), targets), CLASSIFIER, images, LABELS))(GOOD)
    np.testing.assert_array_equal(result.faults, [0, 0, 0, 0, Fault.UNKNOWN_TARGET, 0])
    with pytest.raises(ValueError, match=r"targets must be classes of the model, .* \(1 of 6\)"):
        result.check()
    ranks = jax.jit(lambda images: perturb(hot_cold(ranks=(3, 4)), CLASSIFIER, images, LABELS))(GOOD)
    np.testing.assert_array_equal(ranks.faults, [[0] * 6, [Fault.UNKNOWN_TARGET] * 6])


def test_probabilities_are_told_of_the_model_with_every_image():
    softmax = from_function(lambda weights, images: jax.nn.softmax(linear(weights, images)), linear_weights(1))
    result = jax.jit(lambda images: perturb(fgs(0.1), softmax, images, LABELS))(GOOD)
    np.testing.assert_array_equal(result.faults, [Fault.PROBABILITIES] * 6)
    assert result.summary().endswith("faults: PROBABILITIES")
    with pytest.warns(UserWarning, match="seems to return probabilities"):
        result.check()


def test_check_inside_the_jit_says_that_it_belongs_outside():
    with pytest.raises(ValueError, match=r"check\(\) reads values"):
        jax.jit(lambda images: perturb(fgs(0.1), CLASSIFIER, images, LABELS).check())(GOOD)
