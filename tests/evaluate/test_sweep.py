"""Sweeps and minimal epsilons: one program, the accuracies of single evaluations, closed forms on linear models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, from_function, pgd, stack
from advjax.attacks import targeted
from advjax.attacks.perturb import perturb_in_silence
from advjax.evaluate import MinimalEpsilon, accuracy_epsilon_figure, evaluate, minimal_epsilon, sweep
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear, linear_weights

MODEL = from_function(convolutional, convolutional_weights(0))
IMAGES = grid_images(3, (11, 8, 8, 1))
LABELS = np.array(MODEL(jnp.asarray(IMAGES)).argmax(-1), np.int32)
LABELS[0] = (LABELS[0] + 1) % 5
KEY, ONE = jax.random.key(5), jax.devices()[:1]
EPSILONS = [0.0, 0.02, 0.05, 0.1]
OPTIONS = {"key": KEY, "batch_size": 4, "devices": ONE}


def pgd_at(epsilon):
    return pgd(epsilon, step_size=epsilon / 2, steps=3)


def test_a_sweep_is_the_evaluation_at_each_epsilon():
    found = sweep(MODEL, pgd_at, EPSILONS, (IMAGES, LABELS), **OPTIONS)
    attacks = {f"epsilon {epsilon:g}": pgd_at(epsilon) for epsilon in EPSILONS}
    expected = evaluate({"model": MODEL}, attacks, (IMAGES, LABELS), **OPTIONS)
    for one, other in zip(found.report.cells, expected.cells, strict=True):
        assert one.attack == other.attack
        np.testing.assert_array_equal(one.correct, other.correct)
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-4, atol=1e-6)
    shares = [accuracy.value for accuracy in found.accuracies]
    assert shares[0] == 10 / 11
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0]


def test_all_epsilons_and_batches_are_one_program(jit_compilations):
    traces = []

    def model(weights, images):
        traces.append(images.shape)
        return convolutional(weights, images)

    first, other = (from_function(model, convolutional_weights(seed)) for seed in range(2))
    sweep(first, fgs, EPSILONS, (IMAGES[:4], LABELS[:4]), **OPTIONS)
    few, before = len(traces), jit_compilations()
    found = sweep(other, fgs, [0.3, 0.2, 0.1, 0.05], (IMAGES, LABELS), **OPTIONS)
    assert jit_compilations() == before
    assert len(found.accuracies) == 4
    # Another number of epsilons is another shape, but no more traces than for four.
    traces.clear()
    sweep(first, fgs, np.linspace(0, 1, 20), (IMAGES, LABELS), **OPTIONS)
    assert len(traces) <= few


def test_a_monotone_sweep_is_the_worst_of_the_evaluations_up_to_each_epsilon():
    """What it finds is, to the bit, what attacks on all images find; an image that was got stays as it was."""
    attacks = {f"epsilon {epsilon:g}": pgd_at(epsilon) for epsilon in EPSILONS}
    cells = evaluate({"model": MODEL}, attacks, (IMAGES, LABELS), **OPTIONS).cells[1:]
    shuffled = [EPSILONS[place] for place in (2, 0, 3, 1)]
    found = sweep(MODEL, pgd_at, shuffled, (IMAGES, LABELS), monotone=True, **OPTIONS)
    assert [cell.attack for cell in found.report.cells[1:]] == [f"epsilon {epsilon:g}" for epsilon in shuffled]
    by_name = {cell.attack: cell for cell in found.report.cells}
    names = ("correct", "loss", "prediction", "l2", "linf", "failure")
    hardest = np.zeros(11, int)
    for index, plain in enumerate(cells):
        # The first epsilon that got the image, or before that the one of the largest loss.
        worse = cells_at(cells, hardest, "correct") & (
            ~plain.correct | (plain.loss >= cells_at(cells, hardest, "loss"))
        )
        hardest = np.where(worse, index, hardest)
        for name in names:
            np.testing.assert_array_equal(getattr(by_name[plain.attack], name), cells_at(cells, hardest, name))
    assert len(np.unique(hardest)) == 4


def cells_at(cells, which, name):
    return np.stack([getattr(cell, name) for cell in cells])[which, np.arange(len(which))]


def test_what_a_smaller_epsilon_fooled_stays_fooled_and_is_not_attacked_again(monkeypatch):
    """Here the larger ones do nothing, so that the curve would rise."""
    batches = []

    def counted(attack, *arguments):
        batches.append(attack)
        return perturb_in_silence(attack, *arguments)

    monkeypatch.setattr("advjax.evaluate.measure.perturb_in_silence", counted)
    strength = {0.05: 0.02, 0.3: 0.05, 0.4: 0.0, 0.5: 0.0}
    found = sweep(MODEL, lambda e: fgs(strength[e]), list(strength), (IMAGES, LABELS), monotone=True, **OPTIONS)
    left = [cell.correct.sum() for cell in found.report.cells[1:]]
    assert 11 > left[0] > left[1] == left[2] == left[3] > 0
    assert 11 - left[0] > 2
    assert len(batches) == 3 + sum(-(-count // 4) for count in left[:-1])
    # Nor does it make the others better than they were.
    np.testing.assert_array_equal(found.report.cells[4].loss, found.report.cells[2].loss)
    # What an image was asked adds up over the attacks that it was left to.
    calls, right = (np.stack([getattr(cell, name) for cell in found.report.cells[1:]]) for name in ("calls", "correct"))
    np.testing.assert_array_equal(calls[1:] - calls[:-1], np.where(right[:-1], calls[0], 0))


def test_a_monotone_sweep_where_nothing_is_left():
    labels = np.where(np.arange(11) == 0, LABELS, (LABELS + 1) % 5)
    found = sweep(MODEL, lambda e: fgs(0.0), [0.1, 0.2], (IMAGES, labels), monotone=True, **OPTIONS)
    assert [cell.accuracy.value for cell in found.report.cells] == [0, 0, 0]


def test_all_of_a_monotone_sweep_is_one_program(jit_compilations):
    traces = []

    def model(weights, images):
        traces.append(images.shape)
        return convolutional(weights, images)

    first, other = (from_function(model, convolutional_weights(seed)) for seed in (1, 0))
    sweep(first, fgs, [0.05, 0.0], (IMAGES, LABELS), monotone=True, **OPTIONS)
    before = jit_compilations()
    sweep(other, fgs, [0.02, 0.1], (IMAGES, LABELS), monotone=True, **OPTIONS)
    assert jit_compilations() == before
    # Nor is it another program for more epsilons, which leave other numbers of images.
    few = len(traces)
    found = sweep(other, fgs, [0.3, 0.02, 0.1, 0.05, 0.2], (IMAGES, LABELS), monotone=True, **OPTIONS)
    assert len({cell.correct.sum() for cell in found.report.cells}) > 2
    # What is asked for its number of classes, not compiled.
    assert len(traces) - few <= 2


def test_a_monotone_sweep_goes_on_until_the_target_is_reached():
    targets = (LABELS + 2) % 5

    def attack(epsilon):
        return targeted(pgd(epsilon, step_size=epsilon / 4, steps=10), targets)

    cells = sweep(MODEL, attack, [0.05, 0.1, 0.3], (IMAGES, LABELS), monotone=True, **OPTIONS).report.cells[1:]
    reached = np.stack([cell.prediction == targets for cell in cells])
    np.testing.assert_array_equal(reached, np.maximum.accumulate(reached))
    right = np.stack([cell.correct for cell in cells])
    np.testing.assert_array_equal(right, np.minimum.accumulate(right))
    on_the_way = ~cells[0].correct & ~reached[0] & cells[2].success
    assert reached[2][on_the_way].all()
    assert on_the_way.any()


def test_a_monotone_sweep_on_several_devices():
    one = sweep(MODEL, fgs, EPSILONS, (IMAGES, LABELS), monotone=True, **OPTIONS)
    three = sweep(MODEL, fgs, EPSILONS, (IMAGES, LABELS), monotone=True, **{**OPTIONS, "devices": jax.devices()[:3]})
    for cell, other in zip(one.report.cells, three.report.cells, strict=True):
        np.testing.assert_array_equal(cell.correct, other.correct)


def test_curves_are_drawn_in_order():
    found = sweep(MODEL, fgs, [0.1, 0.02], (IMAGES, LABELS), **OPTIONS)
    axis = accuracy_epsilon_figure({"FGS": found, "again": found}, title="t").axes[0]
    places, heights = axis.lines[0].get_data()
    np.testing.assert_allclose(places, [0.02, 0.1])
    np.testing.assert_allclose(heights, [100 * found.accuracies[1].value, 100 * found.accuracies[0].value])
    assert len(axis.collections) == 2


@pytest.mark.parametrize(
    ("make_attack", "epsilons", "error", "message"),
    [
        (fgs, [], ValueError, "epsilons must be distinct finite numbers of 0 or more"),
        (fgs, [0.1, -0.1], ValueError, "epsilons must be"),
        (fgs, [0.1, 0.1], ValueError, "got duplicates in"),
        (fgs(0.1), [0.1], TypeError, "make_attack must be a function from epsilon to an attack"),
        (lambda e: pgd(e, step_size=0.1, steps=1 + int(e)), [0.1, 1.0], ValueError, "attacks must have one structure"),
    ],
)
def test_bad_sweeps(make_attack, epsilons, error, message):
    with pytest.raises(error, match=message):
        sweep(MODEL, make_attack, epsilons, (IMAGES, LABELS), **OPTIONS)


@pytest.mark.parametrize(("norm", "size", "batch_size"), [("linf", 7, 3), ("linf", 4, 4), ("l2", 7, 3)])
def test_minimal_epsilon_is_the_distance_to_a_hyperplane(norm, size, batch_size):
    # Two classes and pixels far from 0 and 1, so that the distance is |margin| / dual norm of the difference.
    weights = jax.tree.map(lambda w: w * 0.1, linear_weights(0, 36, 2))
    rng = np.random.default_rng(1)
    images = rng.uniform(0.45, 0.55, (size, 6, 6, 1)).astype(np.float32)
    model = from_function(linear, weights)
    logits = np.asarray(model(jnp.asarray(images)), np.float64)
    labels = logits.argmax(-1)
    labels[1] = 1 - labels[1]
    difference = np.asarray(weights["w"][:, 0] - weights["w"][:, 1], np.float64)
    dual = np.abs(difference).sum() if norm == "linf" else np.linalg.norm(difference)
    expected = np.abs(logits[:, 0] - logits[:, 1]) / dual
    expected[1] = 0

    def attack(epsilon):
        if norm == "linf":
            return fgs(epsilon, levels=None)
        return pgd(epsilon, norm="l2", step_size=epsilon, steps=1, random_start=False, levels=None)

    assert expected.max() < {"linf": 0.45, "l2": 1.0}[norm]
    options = {"maximum": 1.0, "steps": 16, "key": KEY, "batch_size": batch_size, "devices": ONE}
    found = minimal_epsilon(model, attack, (images, labels), **options)
    np.testing.assert_allclose(found.epsilon, expected, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found.epsilon - found.failed, np.where(np.arange(size) == 1, 0, 2**-16), rtol=1e-6)
    middle = float(np.median(expected[expected > 0]) + 1e-4)
    assert found.accuracy(middle).value == np.mean(expected > middle)


def test_bisection_on_several_devices():
    model, options = from_function(linear, linear_weights(0, 64, 5)), {"maximum": 0.3, "steps": 6}
    one = minimal_epsilon(model, fgs, (IMAGES, LABELS), **options, **OPTIONS)
    three = minimal_epsilon(model, fgs, (IMAGES, LABELS), **options, **{**OPTIONS, "devices": jax.devices()[:3]})
    np.testing.assert_array_equal(three.epsilon, one.epsilon)
    assert len(np.unique(one.epsilon)) > 1


def test_bisection_compiles_nothing_for_more_rounds_and_batches(jit_compilations):
    def model(weights, images):
        return convolutional(weights, images)

    options = {"maximum": 0.2, **OPTIONS}
    minimal_epsilon(from_function(model, convolutional_weights(0)), fgs, (IMAGES[:4], LABELS[:4]), steps=1, **options)
    before = jit_compilations()
    minimal_epsilon(from_function(model, convolutional_weights(1)), fgs, (IMAGES, LABELS), steps=5, **options)
    assert jit_compilations() == before


def test_the_accuracy_at_an_epsilon_tried_does_not_depend_on_its_type():
    found = MinimalEpsilon(np.float32([0.3]), np.float32([0.2]), 0.3)
    assert [found.accuracy(kind(0.3)).value for kind in (float, np.float32, np.float64)] == [0, 0, 0]


def test_images_that_nothing_fools_have_no_minimal_epsilon():
    found = minimal_epsilon(MODEL, fgs, (IMAGES, LABELS), maximum=1 / 255, steps=2, **OPTIONS)
    assert found.epsilon[0] == 0
    assert np.isinf(found.epsilon[1:]).any()
    assert (found.failed[np.isinf(found.epsilon)] == np.float32(1 / 255)).all()
    assert np.isinf(found.median) == (np.isinf(found.epsilon).sum() >= 6)
    with pytest.raises(ValueError, match=r"epsilon must be from 0 to 0\.0039"):
        found.accuracy(0.1)


@pytest.mark.parametrize(
    ("make_attack", "change", "error", "message"),
    [
        (fgs(0.1), {}, TypeError, "make_attack must be a function from epsilons"),
        (lambda e: fgs(0.1), {}, ValueError, "in which no number is given per image"),
        (lambda e: stack([fgs(e), fgs(e)]), {}, ValueError, "attack must be a single attack"),
        (lambda e: fgs(np.ones(3)), {}, ValueError, "step_size has one entry for each of 3 images"),
        (fgs, {"maximum": 0.0}, ValueError, "maximum must be a finite number above 0, got 0.0"),
        (fgs, {"steps": 0}, ValueError, "steps must be an integer of 1 or more, got 0"),
    ],
)
def test_bad_bisections(make_attack, change, error, message):
    with pytest.raises(error, match=message):
        minimal_epsilon(MODEL, make_attack, (IMAGES, LABELS), **{"maximum": 0.5, **OPTIONS, **change})
