"""Targeted attacks in an evaluation: success is the target's class, asked of whoever answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, fgs, from_function, perturb, pgd, stack
from advjax.attacks import targeted
from advjax.evaluate import Report, evaluate, minimal_epsilon, sweep
from tests.models_for_tests import grid_images, linear, linear_weights

MODEL, OTHER = (from_function(linear, linear_weights(seed, 16, 4)) for seed in (0, 1))
IMAGES = grid_images(3, (40, 4, 4, 1))
LABELS = np.array(MODEL(jnp.asarray(IMAGES)).argmax(-1), np.int32)
LABELS[:3] = (LABELS[:3] + 1) % 4  # answered wrongly when clean
TARGETS = np.full(40, 2, np.int32)
TARGETS[20:] = 1
OPTIONS = {"key": jax.random.key(0), "batch_size": 16, "devices": jax.devices()[:1]}
RIGHT = np.arange(40) >= 3
POSSIBLE = TARGETS != LABELS


def run(attacks, models=None, **options):
    return evaluate(models or {"m": MODEL}, attacks, (IMAGES, LABELS), **{**OPTIONS, **options})


def answers(model, images):
    return np.asarray(model(images).argmax(-1))


def test_success_is_the_target():
    attack = targeted(fgs(0.1), TARGETS)
    report = run({"fgs": attack, "untargeted": fgs(0.1)})
    cell, expected = report.cell("m", "fgs"), perturb(attack, MODEL, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    prediction = answers(MODEL, expected.image)
    reached = RIGHT & POSSIBLE & (prediction == TARGETS)
    missed = RIGHT & POSSIBLE & (prediction != TARGETS) & (prediction != LABELS)
    assert reached.any()
    assert missed.any()  # wrong, but not with the target
    np.testing.assert_array_equal(cell.prediction, prediction)
    np.testing.assert_array_equal(cell.success, reached)
    np.testing.assert_array_equal(cell.success, expected.success)
    np.testing.assert_array_equal(cell.failure, expected.failure)
    np.testing.assert_array_equal(cell.correct, prediction == LABELS)
    assert cell.success_rate == reached.sum() / (RIGHT & POSSIBLE).sum()
    assert cell.failures["LABEL_IS_TARGET"] == (RIGHT & ~POSSIBLE).sum()
    np.testing.assert_allclose(cell.mean_distances["l2"], np.asarray(expected.l2)[reached].mean(), rtol=1e-5)
    free = report.cell("m", "untargeted")
    np.testing.assert_array_equal(free.success, RIGHT & (free.prediction != LABELS))
    np.testing.assert_array_equal(report.cell("m", "clean").prediction, answers(MODEL, jnp.asarray(IMAGES)))
    np.testing.assert_array_equal(Report.from_json(report.to_json()).cell("m", "fgs").prediction, prediction)


def test_a_boundary_search_goes_on_to_the_target():
    cell = run({"boundary": targeted(fgs(), TARGETS)}).cell("m", "boundary")
    np.testing.assert_array_equal(cell.prediction[cell.success], TARGETS[cell.success])
    assert cell.success_rate > 0.5


def test_transferred_it_is_the_answer_of_the_other_model():
    attack = targeted(pgd(0.3, step_size=0.2, steps=3), TARGETS)
    report = run({"pgd": attack}, {"a": MODEL, "b": OTHER}, transfer=True)
    keys = jax.random.fold_in(OPTIONS["key"], 0)
    images = perturb(attack, MODEL, jnp.asarray(IMAGES), jnp.asarray(LABELS), keys).image
    cell, clean = report.cell("b", "pgd", "a"), report.cell("b", "clean")
    prediction = answers(OTHER, images)
    np.testing.assert_array_equal(cell.prediction, prediction)
    np.testing.assert_array_equal(cell.success, clean.correct & POSSIBLE & (prediction == TARGETS))
    # Also where the other model, and not the one attacked, answers the clean image rightly.
    np.testing.assert_array_equal(cell.failure == Failure.LABEL_IS_TARGET, clean.correct & ~POSSIBLE)
    assert (clean.correct & ~POSSIBLE & ~RIGHT).any()


def test_members_of_a_stack_have_targets_of_their_own():
    members = [targeted(fgs(0.3), target) for target in (1, 2, TARGETS)]
    with pytest.raises(ValueError, match="attacks must have one structure"):
        stack(members)
    each = [run({"a": member}).cells[1] for member in members[:2]]
    both = run({"a": stack(members[:2])}).cells[1]
    np.testing.assert_array_equal(both.success, each[0].success | each[1].success)
    np.testing.assert_array_equal(np.isin(both.prediction, (1, 2))[both.success], True)


def test_the_smallest_epsilon_that_reaches_the_target():
    def attack(epsilon):
        return targeted(fgs(epsilon, levels=None), 2)

    data = IMAGES, LABELS
    found = minimal_epsilon(MODEL, attack, data, maximum=0.5, steps=8, **OPTIONS)
    reached = np.isfinite(found.epsilon) & RIGHT
    assert reached.any()
    assert (LABELS[reached] != 2).all()
    assert np.isinf(found.epsilon[RIGHT & (LABELS == 2)]).all()
    images = perturb(attack(np.where(reached, found.epsilon, 0)), MODEL, jnp.asarray(IMAGES), jnp.asarray(LABELS)).image
    assert (answers(MODEL, images)[reached] == 2).all()
    levels = sweep(MODEL, attack, [0.1, 0.5], data, **OPTIONS).report
    np.testing.assert_array_equal(levels.cell("model", "epsilon 0.5").success, reached)
