"""DDN, FMN, C&W and EAD: their algorithms written out, closed forms, targets, and what they leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, carlini_wagner, ddn, ead, fmn, from_function, perturb
from advjax.attacks import targeted
from tests.models_for_tests import grid_images, linear, linear_weights

ORDER = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}


def curved(weights, images):
    """Far from linear: a step does not arrive."""
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ weights["w"]) @ weights["out"]


CURVED = {"w": linear_weights(3, 16, 12)["w"], "out": linear_weights(4, 12, 5)["w"]}
CLASSIFIER = from_function(curved, CURVED)
# Some pixels are 0 and some 1, so that clipping matters.
IMAGES = np.clip(np.round(grid_images(5, (6, 4, 4, 1)) * 380 - 62), 0, 255).astype(np.float32) / np.float32(255)
LABELS = np.asarray(CLASSIFIER(jnp.asarray(IMAGES)).argmax(-1))


def falling(k, steps):
    return (1 + np.cos(np.pi * k / steps)) / 2


def rounded(image):
    return np.round(np.clip(image, 0, 1) * 255) / 255


def reader(label):
    """x [16] -> the model's margin, its gradient, and that of the cross-entropy, in float64."""
    w, out = (np.asarray(CURVED[name], np.float64) for name in ("w", "out"))

    def read(x):
        hidden = np.tanh((x - 0.5) @ w)
        logits = hidden @ out
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        other = np.argmax(np.where(np.arange(5) == label, -np.inf, logits))
        slopes = (w * (1 - hidden**2)) @ out
        return logits[other] - logits[label], slopes[:, other] - slopes[:, label], slopes @ shares - slopes[:, label]

    return read


def best_of(images, origin, distance, least=0.0):
    """The nearest of (image, margin) that is fooled, or the clean one."""
    fooled = [image for image, margin in images if margin > 0 and margin >= least]
    return min(fooled, key=lambda image: distance(image - origin), default=origin)


def ddn_written_out(read, x, steps, init_norm, gamma):
    image, norm, seen = x, init_norm, []
    for k in range(steps):
        margin, _, gradient = read(image)
        seen.append((image, margin))
        norm = min(norm * (1 - gamma if margin > 0 else 1 + gamma), np.linalg.norm(np.maximum(x, 1 - x)))
        change = image - x + (0.01 + 0.99 * falling(k, steps)) * gradient / np.linalg.norm(gradient)
        image = rounded(x + norm * change / np.linalg.norm(change))
    return best_of(seen, x, np.linalg.norm)


def projected(change, norm, radius):
    if norm == "linf":
        return np.clip(change, -radius, radius)
    if norm == "l2":
        return change * min(1, radius / max(np.linalg.norm(change), 1e-12))
    if norm == "l0":
        kept = np.zeros_like(change)
        top = np.argsort(-np.abs(change), kind="stable")[: int(radius)]
        kept[top] = change[top]
        return kept
    low, high = 0.0, np.abs(change).max()
    if np.abs(change).sum() <= radius:
        return change
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(np.abs(change) - middle, 0).sum() > radius else (low, middle)
    return np.sign(change) * np.maximum(np.abs(change) - high, 0)


def fmn_written_out(read, x, norm, steps, step_size, gamma):
    point, radius, seen, best = x, float(norm == "l0"), [], np.inf
    dual = {"linf": 1, "l2": 2, "l1": np.inf, "l0": 1}[norm]
    for k in range(steps):
        share, image = falling(k, steps), rounded(point)
        factor = 0.001 + (gamma - 0.001) * share
        margin, gradient, _ = read(image)
        seen.append((image, margin))
        distance = np.linalg.norm(image - x, ORDER[norm])
        if margin > 0:
            best = min(best, distance)
            smaller = (
                max(min(radius - 1, np.floor(radius * (1 - factor))), 1) if norm == "l0" else radius * (1 - factor)
            )
            radius = min(smaller, best)
        elif norm == "l0":
            radius = max(radius + 1, np.floor(radius * (1 + factor)))
        else:
            ahead = 0 if best < np.inf else distance + abs(margin) / np.linalg.norm(gradient, dual)
            radius = max(radius * (1 + factor), ahead)
        radius = min(radius, np.linalg.norm(np.maximum(x, 1 - x), ORDER[norm]))
        moved = point - x + step_size * (0.01 + 0.99 * share) * gradient / np.linalg.norm(gradient)
        point = np.clip(x + projected(moved, norm, radius), 0, 1)
    return best_of(seen, x, lambda change: np.linalg.norm(change, ORDER[norm]))


def over_c(minimize, searches, c):
    """All images that were read, of each c."""
    low, high, seen = 0.0, np.inf, []
    for _ in range(searches):
        found, reached = minimize(c)
        seen += found
        low, high = (low, c) if reached else (c, high)
        c = 10 * c if high == np.inf else (low + high) / 2
    return seen


def carlini_wagner_written_out(read, x, searches, steps, step_size, c, confidence):
    def minimize(c):
        point, first, second, seen = x, np.zeros_like(x), np.zeros_like(x), []
        for k in range(1, steps + 1):
            image = rounded(point)
            margin, gradient, _ = read(image)
            reached = margin > 0 and margin >= confidence
            seen.append((image, margin))
            slope = 2 * (point - x) - (0 if reached else c) * gradient
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            step = first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.999**k)) + 1e-8)
            point = np.clip(point - step_size * step, 0, 1)
        return seen, any(margin > 0 and margin >= confidence for _, margin in seen)

    return best_of(over_c(minimize, searches, c), x, np.linalg.norm, confidence)


def ead_written_out(read, x, searches, steps, step_size, c, beta, rule):
    def minimize(c):
        point, ahead, seen = x, x, []
        for k in range(steps):
            margin, gradient, _ = read(rounded(ahead))
            slope = 2 * (ahead - x) - (0 if margin > 0 else c) * gradient
            z = ahead - step_size * np.sqrt(1 - k / steps) * slope
            z = np.where(z - x > beta, np.minimum(z - beta, 1), np.where(z - x < -beta, np.maximum(z + beta, 0), x))
            point, ahead = z, z + k / (k + 3) * (z - point)
            seen.append((rounded(point), read(rounded(point))[0]))
        return seen, any(margin > 0 for _, margin in seen)

    def distance(change):
        l1 = np.abs(change).sum()
        return l1 if rule == "L1" else (change**2).sum() + beta * l1

    return best_of(over_c(minimize, searches, c), x, distance)


def ead_of(rule):
    options = {"searches": 4, "steps": 12, "step_size": 0.0625, "beta": 0.015625}
    return (
        ead(**options, first_c=0.03125, rule=rule),
        lambda read, x: ead_written_out(read, x, **options, c=0.03125, rule=rule),
    )


# Numbers that float32 has exactly.
WRITTEN_OUT = {
    "ddn": (ddn(steps=14, init_norm=0.5, gamma=0.125), lambda read, x: ddn_written_out(read, x, 14, 0.5, 0.125)),
    **{
        f"fmn {norm}": (
            fmn(norm, steps=14, step_size=0.5, gamma=0.25),
            lambda read, x, norm=norm: fmn_written_out(read, x, norm, 14, 0.5, 0.25),
        )
        for norm in ORDER
    },
    "carlini_wagner": (
        carlini_wagner(searches=4, steps=12, step_size=0.03125, first_c=0.03125, confidence=0.25),
        lambda read, x: carlini_wagner_written_out(read, x, 4, 12, 0.03125, 0.03125, 0.25),
    ),
    "ead EN": ead_of("EN"),
    "ead L1": ead_of("L1"),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_it_is_the_algorithm_written_out(name):
    attack, written_out = WRITTEN_OUT[name]
    with jax.enable_x64(True):
        images = np.round(IMAGES.astype(np.float64) * 255) / 255
        weights = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), CURVED)
        result = perturb(attack, from_function(curved, weights), jnp.asarray(images), jnp.asarray(LABELS, jnp.int32))
        want = np.stack([written_out(reader(y), x.reshape(-1)) for x, y in zip(images, LABELS, strict=True)])
    assert result.success.mean() > 0.5
    np.testing.assert_allclose(np.asarray(result.image).reshape(6, -1), want, atol=1e-9)


# Far from 0 and 1, so that the box does not matter.
INNER = (0.5 + 0.06 * np.random.default_rng(0).normal(size=(6, 4, 4, 1))).astype(np.float32)
WEIGHTS = {"w": linear_weights(7, 16)["w"], "b": jnp.zeros(4)}
LINEAR = from_function(linear, WEIGHTS)


def linear_margins(images):
    """Logits, labels, and from the label to each other class the gap and the slope [16]; of one image a row."""
    w = np.asarray(WEIGHTS["w"], np.float64)
    logits = images.reshape(6, -1).astype(np.float64) @ w
    labels = logits.argmax(-1)
    ways = [
        [(row[y] - row[k], w[:, k] - w[:, y]) for k in range(4) if k != y]
        for row, y in zip(logits, labels, strict=True)
    ]
    return labels, ways


@pytest.mark.parametrize(
    ("attack", "norm", "most"),
    [
        # It follows the cross-entropy, towards all classes at once, and its radius changes by 5 % to the end.
        (ddn(steps=150, levels=None), "l2", 1.12),
        (fmn("l2", steps=150, levels=None), "l2", 1.03),
        # Two of the six go to a class that is not the nearest in this norm, since steps are in l2.
        (fmn("linf", steps=150, levels=None), "linf", 1.05),
        (fmn("l1", steps=150, levels=None), "l1", 1.03),
        (carlini_wagner(steps=60, step_size=0.005, first_c=0.1, levels=None), "l2", 1.03),
    ],
    ids=["ddn", "fmn l2", "fmn linf", "fmn l1", "carlini_wagner"],
)
def test_on_a_linear_model_the_nearest_is_the_closed_form(attack, norm, most):
    labels, ways = linear_margins(INNER)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    nearest = np.array([min(gap / np.linalg.norm(slope, dual) for gap, slope in row) for row in ways])
    result = perturb(attack, LINEAR, jnp.asarray(INNER), jnp.asarray(labels, jnp.int32))
    assert result.success.all()
    ratio = np.asarray(getattr(result, norm)) / nearest
    assert ratio.min() > 1 - 1e-4
    assert ratio.mean() < most


def test_on_a_linear_model_l0_is_the_fewest_entries():
    """Each entry goes as far as the box lets it: the fewest are those that gain most by that."""
    labels, ways = linear_margins(IMAGES)
    fewest = []
    for x, row in zip(IMAGES.reshape(6, -1).astype(np.float64), ways, strict=True):
        gains = [(gap, np.sort(np.where(s > 0, s * (1 - x), -s * x))[::-1].cumsum()) for gap, s in row]
        fewest.append(min(np.searchsorted(total, gap) + 1 for gap, total in gains))
    result = perturb(fmn("l0", steps=60), LINEAR, jnp.asarray(IMAGES), jnp.asarray(labels, jnp.int32))
    assert result.success.all()
    assert np.all(np.asarray(result.l0) >= fewest)
    assert np.mean(np.asarray(result.l0) - fewest) < 0.5


SHORT = {
    "ddn": ddn(steps=40),
    "fmn": fmn(steps=40),
    "carlini_wagner": carlini_wagner(searches=4, steps=25, step_size=0.05, first_c=0.1),
    "ead": ead(searches=4, steps=25, step_size=0.1, first_c=0.1),
}


@pytest.mark.parametrize("name", SHORT)
def test_towards_a_class_and_from_a_wrong_one(name):
    images = jnp.asarray(IMAGES)
    targets = jnp.asarray((LABELS + 1) % 5).at[2].set(int(LABELS[2]))
    result = perturb(targeted(SHORT[name], targets), CLASSIFIER, images, jnp.asarray(LABELS, jnp.int32))
    found = np.asarray(result.success)
    assert found.sum() >= 4
    np.testing.assert_array_equal(np.asarray(result.prediction)[found], np.asarray(targets)[found])
    # What cannot be had leaves the image alone.
    assert result.failure[2] == Failure.LABEL_IS_TARGET
    np.testing.assert_array_equal(np.asarray(result.image)[~found], IMAGES[~found])
    # It is farther than the nearest of all classes.
    anywhere = perturb(SHORT[name], CLASSIFIER, images, jnp.asarray(LABELS, jnp.int32))
    assert np.mean(np.asarray(anywhere.l2)[found] < np.asarray(result.l2)[found] + 1e-6) > 0.5
    # Images that are answered wrongly are left as they are.
    wrong = perturb(SHORT[name], CLASSIFIER, images, jnp.asarray((LABELS + 1) % 5, jnp.int32))
    assert set(np.asarray(wrong.failure)) == {Failure.ALREADY_MISCLASSIFIED}
    np.testing.assert_array_equal(wrong.image, IMAGES)


def test_a_wrong_answer_is_left_alone_however_much_confidence_is_wanted():
    labels = (LABELS + 1) % 5
    logits = np.asarray(CLASSIFIER(jnp.asarray(IMAGES)))
    margins = logits.max(-1) - logits[np.arange(6), labels]
    attack = carlini_wagner(searches=3, steps=25, step_size=0.05, first_c=1.0, confidence=margins + 0.1)
    result = perturb(attack, CLASSIFIER, jnp.asarray(IMAGES), jnp.asarray(labels, jnp.int32))
    np.testing.assert_array_equal(result.image, IMAGES)


@pytest.mark.parametrize("name", ["ddn", "carlini_wagner"])
def test_reasons_of_failure(name):
    attack = {
        "ddn": lambda **o: ddn(steps=5, **o),
        "carlini_wagner": lambda **o: carlini_wagner(steps=5, searches=2, **o),
    }
    labels = jnp.asarray(LABELS, jnp.int32)
    nowhere = perturb(attack[name](mask=np.zeros((4, 4, 1))), CLASSIFIER, jnp.asarray(IMAGES), labels)
    assert nowhere.summary() == "0 of 6 succeeded; 6 NO_DIRECTION"
    np.testing.assert_array_equal(nowhere.image, IMAGES)
    certain = from_function(linear, {"w": WEIGHTS["w"], "b": jnp.array([40.0, 0, 0, 0])})
    stuck = perturb(attack[name](), certain, jnp.asarray(IMAGES), jnp.zeros(6, jnp.int32))
    assert stuck.summary() == "0 of 6 succeeded; 6 NO_BOUNDARY"
    np.testing.assert_array_equal(stuck.image, IMAGES)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ddn(steps=0), "steps must be an integer of 1 or more"),
        (lambda: ddn(init_norm=0), "init_norm must be a finite number above 0"),
        (lambda: ddn(gamma=1), r"gamma must be in \(0, 1\)"),
        (lambda: fmn("l3"), 'norm must be "linf", "l2", "l1" or "l0"'),
        (lambda: fmn(step_size=-1), "step_size must be a finite number above 0"),
        (lambda: fmn(gamma=0), r"gamma must be in \(0, 1\)"),
        (lambda: carlini_wagner(searches=0), "searches must be an integer of 1 or more"),
        (lambda: carlini_wagner(first_c=0), "first_c must be a finite number above 0"),
        (lambda: carlini_wagner(confidence=-1), "confidence must be a finite number of 0 or more"),
        (lambda: ead(rule="L2"), 'rule must be "EN" or "L1"'),
        (lambda: ead(beta=-1), "beta must be a finite number of 0 or more"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
