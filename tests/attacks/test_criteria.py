"""Criteria: rounding error is that of the logits compared; masked classes and offsets change no verdict; targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, fgs, fgv, from_function, hot_cold, perturb, pgd, stack
from advjax.attacks import Misclassified, TargetReached, apgd, criterion_of, lbfgs, square, targeted
from advjax.evaluate import evaluate, minimal_epsilon
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear, linear_weights

LOW = [0.0, -3.0, -6.0, -9.0, -12.0, -15.0]


@pytest.mark.parametrize(
    ("logits", "met"),
    [
        # Beyond and within what another batch may make of it: the logits are spread over 20.
        ([5, 5.001, *LOW], True),
        ([5, 5.00002, *LOW], False),
        # Masked classes set no bar, however many and whatever the mask.
        ([5, 5.001, *LOW, -1e9], True),
        ([5, 5.001, *LOW, -1e6], True),
        ([5, 5.001, *LOW, -np.inf], True),
        ([5, 5.00002, *LOW, -1e9], False),
        ([5, 5.01, *[-1e9] * 6], True),
        ([5, 5.01, *[-np.inf] * 6], True),
        ([5, 5.01, -1e9], True),
        ([5, 5.00002, *[-1e9] * 6], False),
        # A common offset: float32's own steps there, of 1/128.
        ([1e5, 1e5 + 0.0625, *[1e5 + low for low in LOW]], True),
        ([1e5, 1e5 + 0.0078125, *[1e5 + low for low in LOW]], False),
        ([-1e5, -1e5 + 0.0625, *[-1e5 + low for low in LOW]], True),
        ([1e5, 1e5 + 0.0625, *[1e5 + low for low in LOW], -1e9], True),
        # Two classes alone have no spread.
        ([-1e-6, 1e-6], True),
        ([-1e6, 1e6], True),
        ([5, 5.00001], True),
        ([5, 5.000002], False),
        ([1e5, 1e5 + 0.25], True),
        ([1e5, 1e5 + 0.03125], False),
        # A class above all others, which is the label or is not.
        ([1e6, 5, *LOW], False),
        ([5, 1e6, *LOW], True),
        ([5, 4.999, *LOW], False),
        ([5, 5, *LOW], False),
        # Logarithms of probabilities: the label's is 0.
        ([-np.inf, 0.5, *LOW], True),
        ([5, np.inf, *LOW], True),
        ([np.inf, 5, *LOW], False),
        ([5, np.nan, *LOW], False),
        ([np.nan, 5, *LOW], False),
        ([-np.inf, -np.inf, -np.inf], False),
    ],
)
def test_a_verdict_is_beyond_the_rounding_error_of_the_two_that_are_compared(logits, met):
    given = jnp.asarray(logits, jnp.float32)
    assert bool(Misclassified()(given, jnp.int32(0))) == met
    # The same two classes, asked for the other one.
    assert bool(TargetReached(1)(given, jnp.int32(0))) == met
    # The order of the classes means nothing.
    assert bool(Misclassified()(given[::-1], jnp.int32(len(logits) - 1))) == met


def test_a_margin_is_that_of_the_target_over_all_others_and_of_none_where_it_is_the_label():
    logits = jnp.array([1.0, 4.0, 2.0])
    assert [float(Misclassified().margin(logits, jnp.int32(label))) for label in range(3)] == [3, -2, 2]
    assert [float(TargetReached(t).margin(logits, jnp.int32(0))) for t in range(3)] == [-np.inf, 2, -2]
    assert not TargetReached(1)(logits, jnp.int32(1))


def test_the_criterion_of_an_attack_is_found_wherever_it_stands():
    descent = pgd(0.1, step_size=0.1, steps=2, restarts=2)
    assert criterion_of(descent) == criterion_of(lbfgs()) == criterion_of(hot_cold(targets=3)) == Misclassified()
    for attack in (fgs(), descent, apgd(0.1), square(0.1)):
        assert criterion_of(targeted(attack, 3)) == TargetReached(3)
    assert criterion_of(lbfgs(3)) == TargetReached(3)
    assert criterion_of(stack([targeted(fgv(), t) for t in (1, 2)])).target.tolist() == [1, 2]


def masked(variables, images):
    """A linear network beside a class whose logit is given, all of them moved by an offset."""
    logits = linear(variables["weights"], images)
    last = jnp.broadcast_to(variables["last"], (images.shape[0], 1))
    return jnp.concatenate([logits, last], axis=-1) + variables["offset"]


def masked_classifier(last, offset=0.0):
    return from_function(
        masked, {"weights": linear_weights(2), "last": jnp.float32(last), "offset": jnp.float32(offset)}
    )


IMAGES = jnp.asarray(grid_images(5, (10, 6, 6, 1)))
# A class so low that no exponential in float32 sees it, but that is no mask.
PLAIN = masked_classifier(-90.0)
LABELS = PLAIN(IMAGES).argmax(-1).astype(jnp.int32)
EPSILON = 0.05


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(fgs(EPSILON), id="fgs"),
        pytest.param(fgs(), id="fgs boundary"),
        pytest.param(hot_cold(1), id="hot_cold", marks=pytest.mark.slow),
        pytest.param(pgd(EPSILON, step_size=0.02, steps=3, restarts=2), id="pgd", marks=pytest.mark.slow),
        pytest.param(apgd(EPSILON, steps=4, restarts=2), id="apgd", marks=pytest.mark.slow),
        pytest.param(apgd(EPSILON, steps=4, objective="dlr-targeted", targets=3), id="apgd dlr"),
        pytest.param(square(EPSILON, queries=30), id="square"),
        pytest.param(lbfgs(steps=4, searches=4), id="lbfgs", marks=pytest.mark.slow),
        pytest.param(targeted(fgs(), 1), id="targeted"),
    ],
)
def test_a_masked_class_or_an_offset_changes_no_result(attack):
    def attacked(classifier):
        return perturb(attack, classifier, IMAGES, LABELS, jax.random.key(0))

    plain = attacked(PLAIN)
    assert np.any(plain.success)
    assert not np.any(plain.non_finite)
    for last in (-1e6, -1e9, -np.inf):
        result = attacked(masked_classifier(last))
        np.testing.assert_array_equal(result.success, plain.success)
        # Early stops are where they were, and the boundary too.
        np.testing.assert_array_equal(result.calls, plain.calls)
        np.testing.assert_array_equal(result.image, plain.image)
        assert not np.any(result.non_finite)
    # Hot/cold goes by the logits themselves.
    for offset in () if attack == hot_cold(1) else (1e5, -1e5):
        result = attacked(masked_classifier(-90.0, offset))
        # All but those that lead by no more than float32's steps of 1/128 at 1e5 allow.
        margin = jax.vmap(Misclassified().margin)(PLAIN(plain.image), LABELS)
        sure = (np.abs(margin) > 0.1) | (np.asarray(plain.scale) > 0)
        np.testing.assert_array_equal(np.asarray(result.success)[sure], np.asarray(plain.success)[sure])


def test_a_class_above_all_others_is_no_success():
    result = perturb(fgs(), masked_classifier(1e6), IMAGES, LABELS)
    assert set(np.asarray(result.failure)) == {Failure.ALREADY_MISCLASSIFIED}
    result = perturb(fgs(), masked_classifier(1e6), IMAGES, jnp.full_like(LABELS, 4))
    assert not np.any(result.success)


def test_reports_see_a_masked_model_as_they_see_the_model():
    def measured(classifier):
        data, key = (np.asarray(IMAGES), np.asarray(LABELS)), jax.random.key(0)
        options = {"key": key, "batch_size": 10, "devices": jax.devices()[:1]}
        report = evaluate({"model": classifier}, {"fgs": fgs()}, data, **options)
        smallest = minimal_epsilon(classifier, fgs, data, maximum=0.5, steps=6, **options)
        return report.cells[-1], smallest.epsilon

    (cell, epsilon), (masked_cell, masked_epsilon) = measured(PLAIN), measured(masked_classifier(-1e9))
    assert cell.success_rate == masked_cell.success_rate == 1
    np.testing.assert_array_equal(cell.linf, masked_cell.linf)
    assert np.isfinite(epsilon).all()
    np.testing.assert_array_equal(epsilon, masked_epsilon)


def test_the_boundary_search_finds_the_target_on_every_ray_that_comes_to_it():
    classifier = from_function(convolutional, convolutional_weights())
    pictures = jnp.asarray(grid_images(4, (40, 8, 8, 1)))
    labels = classifier(pictures).argmax(-1).astype(jnp.int32)
    target = (labels + 1 + jnp.arange(40) % 4) % 5
    gradient = jax.grad(lambda x: jnp.take_along_axis(jax.nn.log_softmax(classifier(x)), target[:, None], 1).sum())
    ray, pixels = np.sign(np.asarray(gradient(pictures))), np.asarray(pictures)
    scan = np.stack([np.round(np.clip(pixels + k / 255 * ray, 0, 1) * 255) / np.float32(255) for k in range(256)])
    answers = np.asarray(classifier(jnp.asarray(scan.reshape(-1, 8, 8, 1), jnp.float32)).argmax(-1))
    there = answers.reshape(256, 40) == np.asarray(target)
    result = perturb(targeted(fgs(), target), classifier, pictures, labels)
    reached = np.asarray(result.prediction == target)
    np.testing.assert_array_equal(result.success, reached)
    # Sections that are an eighth of their distance long, and a level for the rounding, are found; most others are.
    sure = np.array([any(one[a : a + a // 8 + 2].all() for a in range(1, 226)) for one in there.T])
    assert 10 < sure.sum() < 40
    assert reached[sure].all()
    assert np.mean(reached == there.any(0)) > 0.9
    assert not np.any(reached & ~there.any(0))
    # The rays that miss it mostly cross another wrong class, which is no success.
    assert set(np.asarray(result.failure)[~reached]) == {Failure.NO_BOUNDARY}
    # And the nearest crossing, but for those in sections that the doubling steps jump over.
    nearest = np.where(there.any(0), there.argmax(0) / 255, np.inf)
    assert np.mean(np.asarray(result.scale)[reached] <= nearest[reached] + 0.51 / 255) > 0.9


FIVE = from_function(linear, linear_weights(4, classes=5))
PICTURES = jnp.asarray(grid_images(4, (30, 6, 6, 1)))
CLASSES = FIVE(PICTURES).argmax(-1).astype(jnp.int32)


@pytest.mark.parametrize(
    ("attack", "stops"),
    [(fgs(0.1), False), (apgd(0.1, steps=4, restarts=2), True), (square(0.2, queries=40), True)],
    ids=["fgs", "apgd", "square"],
)
def test_success_and_early_stops_are_at_the_target(attack, stops):
    # One label is wrong, and some are the target.
    labels = CLASSES.at[0].set((CLASSES[0] + 1) % 5)
    target = jnp.where(jnp.arange(30) % 5 == 1, labels, (labels + 2) % 5)
    result = perturb(targeted(attack, target), FIVE, PICTURES, labels, jax.random.key(0))
    right = np.asarray(result.clean_prediction == labels)
    itself = np.asarray(target == labels)
    reached = np.asarray(result.prediction == target)
    np.testing.assert_array_equal(result.success, reached & right & ~itself)
    assert result.success.any()
    np.testing.assert_array_equal(np.asarray(result.failure) == Failure.LABEL_IS_TARGET, itself & right)
    assert result.failure[0] == Failure.ALREADY_MISCLASSIFIED
    # Those that were turned into another class went on looking.
    elsewhere = right & ~itself & ~reached & np.asarray(result.prediction != labels)
    assert elsewhere.any()
    calls = np.asarray(result.calls)
    assert set(calls[elsewhere]) == {calls.max()}
    assert np.any(calls < calls.max()) == stops


def test_hot_cold_takes_any_wrong_class_as_the_paper_does():
    target = (CLASSES + 2) % 5
    result = perturb(hot_cold(targets=target), FIVE, PICTURES, CLASSES)
    assert np.asarray(result.success).all()
    assert np.any(np.asarray(result.prediction) != np.asarray(target))
    with pytest.raises(ValueError, match="attack must climb the cross-entropy or the margin"):
        targeted(hot_cold(targets=target), 1)


def test_lbfgs_succeeds_at_its_own_target_alone():
    images, labels = PICTURES[:6], CLASSES[:6]
    target = jnp.where(jnp.arange(6) == 3, labels, (labels + 1) % 5)
    result = perturb(lbfgs(target, steps=6, searches=5), FIVE, images, labels)
    np.testing.assert_array_equal(result.success, [True] * 3 + [False] + [True] * 2)
    np.testing.assert_array_equal(np.asarray(result.prediction), np.asarray(target))
    assert result.failure[3] == Failure.LABEL_IS_TARGET
