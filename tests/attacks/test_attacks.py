"""Every attack, through one table of checks; closed forms; the combinators."""

from functools import partial
from inspect import isfunction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advjax.attacks
from advjax import (
    Failure,
    fgs,
    fgv,
    from_function,
    hard_positive,
    hot_cold,
    hot_cold_sign,
    perturb,
    pgd,
    stack,
)  # fmt: skip
from advjax.attacks import (
    All,
    BestOf,
    Box,
    Chain,
    CrossEntropy,
    Finish,
    Fixed,
    LinfBall,
    Margin,
    Move,
    Quantize,
    Repeat,
    Sign,
    Stack,
    Targeted,
    added,
    apgd,
    auto_attack,
    boundary_attack,
    carlini_wagner,
    ddn,
    deepfool,
    di_fgsm,
    ead,
    estimated,
    expectation_over,
    fab,
    fmn,
    homography,
    hop_skip_jump,
    jsma,
    lbfgs,
    localized_pgd,
    mi_fgsm,
    ni_fgsm,
    one_pixel,
    pasted,
    random_sign,
    si_fgsm,
    spatial,
    square,
    steepest,
    targeted,
    ti_fgsm,
    vmi_fgsm,
)  # fmt: skip
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear, linear_weights

MASK = np.zeros((8, 8, 1), np.int32)
MASK[2:7, 1:6] = 1
SIGNS = np.random.default_rng(2).choice(np.float32([-1, 1]), (8, 8, 1))
BASIS = np.random.default_rng(1).normal(size=(20, 8, 8, 1)).astype(np.float32)


def blurred(image, key):
    return image + 0.05 * jax.random.normal(key, image.shape, image.dtype)


ATTACKS = {
    "fgs": lambda **o: fgs(**o),
    "fgs fixed": lambda **o: fgs(0.1, **o),
    "fgv": lambda **o: fgv(**o),
    "fgv fixed": lambda **o: fgv(0.3, **o),
    "hot_cold": lambda **o: hot_cold(2, **o),
    "hot_cold targets": lambda **o: hot_cold(targets=3, **o),
    "hot_cold abs": lambda **o: hot_cold(cold="abs", **o),
    "hot_cold ranks": lambda **o: hot_cold(ranks=range(1, 5), **o),
    "hot_cold_sign": lambda **o: hot_cold_sign(1, **o),
    "hard_positive": lambda **o: hard_positive(hot_cold(1, **o), 1.1),
    "hard_positive of ranks": lambda **o: hard_positive(hot_cold(ranks=(1, 2), **o), 1.05),
    "steepest linf": lambda **o: steepest("linf", 0.1, **o),
    "steepest l2": lambda **o: steepest("l2", 1.0, **o),
    "steepest l1": lambda **o: steepest("l1", 3.0, pixels=4, **o),
    "steepest tangent": lambda **o: steepest("l2", 2.0, basis=BASIS, **o),
    "localized_pgd after": lambda **o: localized_pgd("exact", 0.3, step_size=0.1, steps=4, **o),
    "localized_pgd inside": lambda **o: localized_pgd(
        "background", 0.3, step_size=0.1, steps=4, localize="inside", **o
    ),
    "lbfgs": lambda **o: lbfgs(steps=6, searches=5, **o),
    "deepfool": lambda **o: deepfool(**o),
    "deepfool linf": lambda **o: deepfool(norm="linf", steps=8, overshoot=0.1, classes=3, **o),
    "ddn": lambda **o: ddn(steps=20, **o),
    "fmn": lambda **o: fmn(steps=20, **o),
    "fmn linf": lambda **o: fmn("linf", steps=20, **o),
    "fmn l1": lambda **o: fmn("l1", steps=20, **o),
    "fmn l0": lambda **o: fmn("l0", steps=20, **o),
    "carlini_wagner": lambda **o: carlini_wagner(searches=3, steps=15, step_size=0.05, first_c=1.0, **o),
    "ead": lambda **o: ead(searches=3, steps=15, first_c=1.0, **o),
    "apgd linf": lambda **o: apgd(0.1, steps=6, **o),
    "apgd l2": lambda **o: apgd(1.0, norm="l2", steps=6, objective="dlr-targeted", targets=2, **o),
    "apgd l1": lambda **o: apgd(3.0, norm="l1", steps=10, objective="dlr", **o),
    "fab linf": lambda **o: fab(steps=6, **o),
    "fab l1 in a ball": lambda **o: fab(3.0, norm="l1", steps=4, targets=2, restarts=2, **o),
    "auto_attack": lambda **o: auto_attack("linf", 0.1, steps=4, targets=2, queries=20, **o),
    "square linf": lambda **o: square(0.1, queries=60, **o),
    "square l2": lambda **o: square(1.0, norm="l2", queries=60, **o),
    "boundary_attack": lambda **o: boundary_attack(queries=300, **o),
    "hop_skip_jump l2": lambda **o: hop_skip_jump(queries=300, samples=20, **o),
    "hop_skip_jump linf": lambda **o: hop_skip_jump(norm="linf", queries=300, samples=20, **o),
    "spatial grid": lambda **o: spatial(30, 1, rotations=5, translations=3, **o),
    "spatial random": lambda **o: spatial(30, 1, search="random", **o),
    "spatial gradient": lambda **o: spatial(30, 1, search="gradient", tries=5, **o),
    "homography": lambda **o: homography(1.5, tries=5, **o),
    "jsma": lambda **o: jsma(**o),
    "jsma single": lambda **o: targeted(jsma(-0.3, 0.5, pairs=False, **o), 2),
    "one_pixel": lambda **o: one_pixel(2, generations=3, population=8, **o),
    "pasted": lambda **o: pasted(np.float32(SIGNS[:5, :6] > 0), max_rotation=20, scales=(0.8, 1.1), **o),
    "random_sign": lambda **o: random_sign(0.9, **o),
    "random_sign of the batch": lambda **o: random_sign(0.9, 0.3, "batch", mean=0.5, **o),
    "added": lambda **o: added(0.1 * SIGNS, **o),
    "targeted boundary": lambda **o: targeted(fgv(**o), 2),
    "targeted": lambda **o: targeted(pgd(0.3, step_size=0.1, steps=4, restarts=2, **o), 2),
    "pgd linf": lambda **o: pgd(0.1, step_size=0.03, steps=4, **o),
    "pgd l2": lambda **o: pgd(1.0, norm="l2", step_size=0.4, steps=4, **o),
    "pgd l1": lambda **o: pgd(3.0, norm="l1", step_size=1.0, steps=4, restarts=2, **o),
    "mi_fgsm": lambda **o: mi_fgsm(0.1, steps=4, **o),
    "ni_fgsm": lambda **o: ni_fgsm(0.1, steps=4, **o),
    "di_fgsm": lambda **o: di_fgsm(0.1, steps=4, **o),
    "si_fgsm": lambda **o: si_fgsm(0.1, steps=4, copies=2, **o),
    "ti_fgsm": lambda **o: ti_fgsm(0.1, steps=4, kernel=3, **o),
    "vmi_fgsm": lambda **o: vmi_fgsm(0.1, steps=4, neighbors=2, **o),
    "expectation_over": lambda **o: expectation_over(fgs(**o), blurred, draws=2),
    "estimated": lambda **o: estimated(pgd(0.1, step_size=0.05, steps=3, **o), samples=20, method="spsa"),
}
BALLS = {
    "fgs fixed": ("linf", 0.1),
    "steepest linf": ("linf", 0.1),
    "steepest l2": ("l2", 1.0),
    "steepest l1": ("l1", 3.0),
    "steepest tangent": ("l2", 2.0),
    "localized_pgd after": ("linf", 0.3),
    "localized_pgd inside": ("linf", 0.3),
    "apgd linf": ("linf", 0.1),
    "apgd l2": ("l2", 1.0),
    "apgd l1": ("l1", 3.0),
    "fab l1 in a ball": ("l1", 3.0),
    "auto_attack": ("linf", 0.1),
    "square linf": ("linf", 0.1),
    "square l2": ("l2", 1.0),
    "added": ("linf", 0.1),
    "targeted": ("linf", 0.3),
    "pgd linf": ("linf", 0.1),
    "pgd l2": ("l2", 1.0),
    "pgd l1": ("l1", 3.0),
    **{f"{kind}_fgsm": ("linf", 0.1) for kind in ("mi", "ni", "di", "si", "ti", "vmi")},
    "estimated": ("linf", 0.1),
}


TRACES = []


def traced(weights, images):
    TRACES.append(images.shape)
    return convolutional(weights, images)


@pytest.fixture(scope="module")
def problem():
    classifier = from_function(traced, convolutional_weights())
    images = jnp.asarray(grid_images(3, (12, 8, 8, 1)))
    return classifier, images, classifier(images).argmax(-1).astype(jnp.int32)


# Masks of all kinds are in `BOUND` too; of these two the masked image goes through the whole table in each run.
MASKED = ("fgs", "hot_cold ranks")


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        pytest.param(name, masked, marks=[pytest.mark.slow] if masked and name not in MASKED else [])
        for name in ATTACKS
        for masked in (False, True)
    ],
)
def test_every_attack(name, masked, problem):
    classifier, images, labels = problem
    attack = ATTACKS[name](mask=MASK) if masked else ATTACKS[name]()
    result = perturb(attack, classifier, images, labels, jax.random.key(0))
    pixels = np.asarray(result.image)
    stacked = result.success.shape[:-1]
    # Shape and type kept; in [0, 1]; on the grid, bit for bit; the clean image's bits outside the mask.
    assert pixels.shape == (*stacked, *images.shape)
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    np.testing.assert_array_equal(pixels, np.round(pixels * 255).astype(np.uint8) / np.float32(255))
    clean = np.broadcast_to(np.asarray(images), pixels.shape)
    if masked:
        outside = np.broadcast_to(MASK == 0, pixels.shape)
        np.testing.assert_array_equal(pixels[outside], clean[outside])
    # In the ball.
    if name in BALLS:
        norm, radius = BALLS[name]
        assert np.asarray(getattr(result, norm)).max() <= radius + 1e-5
    # The distances are those of the images returned.
    np.testing.assert_allclose(result.linf, np.abs(pixels - clean).max((-1, -2, -3)), atol=1e-6)
    np.testing.assert_array_equal(result.l0, (pixels != clean).any(-1).sum((-1, -2)))
    # Success is what the model says of exactly these images.
    again = np.asarray(classifier(jnp.asarray(pixels.reshape(-1, 8, 8, 1))).argmax(-1)).reshape(result.success.shape)
    success = np.asarray(result.success)
    np.testing.assert_array_equal(again, result.prediction)
    assert np.all(again[success] != np.asarray(result.label)[success])
    assert np.all((np.asarray(result.failure) == Failure.NONE) == success)
    # It attacks at all, unless the mask or the target leaves too little.
    assert success.any() or masked or "l1" in name or name == "localized_pgd after"
    # Built anew it is the same program; same key, same bits.
    attack = ATTACKS[name](mask=MASK.copy()) if masked else ATTACKS[name]()
    traces = len(TRACES)
    repeated = perturb(attack, classifier, images, labels, jax.random.key(0))
    assert len(TRACES) == traces
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, result, repeated)))
    # Nothing was wrong.
    assert not np.any(result.non_finite)
    assert not np.any(result.faults)


@jax.custom_jvp
def undifferentiable(array):
    return array


@undifferentiable.defjvp
def _refused(primals, tangents):
    raise AssertionError("a gradient was taken")


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name]().asks != "gradients"])
def test_an_attack_asks_no_more_of_the_model_than_it_says(name, problem):
    classifier, images, labels = problem
    attack = ATTACKS[name]()

    def decided(weights, images, lead):
        scores = convolutional(weights, images)
        return lead * jax.nn.one_hot(scores.argmax(-1), scores.shape[-1])

    if attack.asks == "decisions":
        # Not the scores: where these lead by a rounding error alone, that is no decision.
        classifier = from_function(partial(decided, lead=4.0), convolutional_weights())
    result = perturb(attack, classifier, images, labels, jax.random.key(0))
    assert result.asks == attack.asks

    def less(weights, images):
        decisions = result.asks == "decisions"
        return undifferentiable(decided(weights, images, 9.0) if decisions else convolutional(weights, images))

    again = perturb(attack, from_function(less, convolutional_weights()), images, labels, jax.random.key(0))
    np.testing.assert_array_equal(again.image, result.image)


def asked_by(attack, image, label):
    """The result on one image, and how often the model was evaluated for it, beside the checks of the model."""
    count = []

    def counted(weights, images):
        jax.debug.callback(lambda _: count.append(1), images[0, 0, 0, 0])
        return convolutional(weights, images)

    result = perturb(attack, from_function(counted, convolutional_weights()), image, label, jax.random.key(0))
    jax.effects_barrier()
    return result, len(count)


def takes_gradients(attack):
    return not isinstance(attack, Stack) and attack.asks == "gradients"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "estimates"),
    [(name, False) for name in ATTACKS] + [(name, True) for name in ATTACKS if takes_gradients(ATTACKS[name]())],
)
def test_no_attack_asks_the_model_more_often_than_it_says(name, estimates, problem):
    _, images, labels = problem
    attack = estimated(ATTACKS[name](), samples=2) if estimates else ATTACKS[name]()
    nothing, checks = asked_by(added(np.zeros((8, 8, 1), np.float32)), images[:1], labels[:1])
    result, asked = asked_by(attack, images[:1], labels[:1])
    assert asked - checks <= np.sum(result.calls - nothing.calls)


def test_every_named_attack_is_in_the_table():
    own = {name for name in advjax.__all__ if isfunction(getattr(advjax, name)) and name in advjax.attacks.__all__}
    assert own - {"perturb", "stack", "universal_perturbation", "universal_patch"} == {
        name.split()[0] for name in ATTACKS
    }


@pytest.mark.parametrize("build", [fgs, fgv], ids=["sign", "value"])
@pytest.mark.parametrize("shape", [(6, 6, 1), (3, 4, 3)])
def test_boundary_of_a_linear_model_is_the_closed_form(build, shape):
    weights = linear_weights(1, classes=2)
    classifier = from_function(linear, weights)
    # Far from 0 and 1, so that the box does not matter; and off the grid.
    images = jnp.asarray(0.5 + 0.02 * np.random.default_rng(0).normal(size=(9, *shape)), jnp.float32)
    w, b = np.asarray(weights["w"], np.float64) * 0.05, np.zeros(2)
    classifier = from_function(linear, {"w": jnp.asarray(w, jnp.float32), "b": jnp.zeros(2)})
    logits = np.asarray(images, np.float64).reshape(9, -1) @ w + b
    labels = logits.argmax(-1)
    gap, slope = np.abs(logits[:, 0] - logits[:, 1]), w[:, 1] - w[:, 0]
    gain = np.abs(slope).sum() if build is fgs else (slope**2).sum() / np.abs(slope).max()
    result = perturb(build(levels=None), classifier, images, jnp.asarray(labels))
    inside = gap / gain < 0.4
    assert inside.sum() >= 4
    assert np.all(np.asarray(result.success)[inside])
    np.testing.assert_allclose(np.asarray(result.scale)[inside], (gap / gain)[inside], rtol=0.01, atol=2e-5)


def test_hot_cold_ranks_are_the_single_ranks(problem):
    together = perturb(hot_cold(ranks=range(1, 5)), *problem)
    for index in range(4):
        alone = perturb(hot_cold(index + 1), *problem)
        np.testing.assert_array_equal(together.image[index], alone.image)
        np.testing.assert_array_equal(together.success[index], alone.success)


def test_targets_by_class_reach_what_ranks_reach(problem):
    classifier, images, labels = problem
    logits = np.array(classifier(images))
    logits[np.arange(12), np.asarray(labels)] = -np.inf
    second = jnp.asarray(np.argsort(-logits, axis=-1)[:, 1], jnp.int32)
    by_class = perturb(hot_cold(targets=second), classifier, images, labels)
    by_rank = perturb(hot_cold(2), classifier, images, labels)
    np.testing.assert_array_equal(by_class.image, by_rank.image)


def test_hard_positive_scales_the_continuous_perturbation(problem):
    classifier, images, labels = problem
    minimal = perturb(fgv(), classifier, images, labels)
    hard = perturb(hard_positive(fgv(), 1.1), classifier, images, labels)
    np.testing.assert_allclose(hard.scale, minimal.scale * 1.1, rtol=1e-5)
    gradient = np.asarray(jax.grad(lambda x: optax.softmax_cross_entropy_with_integer_labels(
        classifier(x), labels).sum())(images))  # fmt: skip
    ray = gradient / np.abs(gradient).max((1, 2, 3), keepdims=True)
    exact = np.asarray(images) + np.asarray(hard.scale)[:, None, None, None] * ray
    # To the gray level, but where float error may round to the next one. The rounded difference of the minimal image,
    # scaled, would be a level off for a fifth of the pixels.
    sure = np.abs(exact * 255 % 1 - 0.5) > 1e-2
    assert sure.mean() > 0.95
    levels = np.clip(np.round(exact * 255), 0, 255)
    np.testing.assert_array_equal(np.round(np.asarray(hard.image) * 255)[sure], levels[sure])
    origin = np.asarray(images) * 255
    scaled = np.clip(np.round(origin + 1.1 * (np.round(np.asarray(minimal.image) * 255) - origin)), 0, 255)
    assert (scaled != levels)[sure].mean() > 0.1


def test_per_image_numbers_are_those_of_single_calls(problem):
    classifier, images, labels = problem
    radii = np.linspace(0, 0.3, 12, dtype=np.float32)
    together = perturb(fgs(radii), classifier, images, labels)
    for index in (0, 5, 11):
        one = slice(index, index + 1)
        alone = perturb(fgs(radii[index]), classifier, images[one], labels[one])
        np.testing.assert_array_equal(together.image[one], alone.image)


def test_per_image_masks(problem):
    classifier, images, labels = problem
    masks = np.random.default_rng(0).integers(0, 2, (12, 8, 8, 1))
    result = perturb(fgs(0.1, mask=masks), classifier, images, labels)
    changed = np.asarray(result.image) != np.asarray(images)
    assert changed.any()
    assert not changed[masks == 0].any()


BOUND = {
    "fgs": lambda e, **o: fgs(e, **o),
    "fgv": lambda e, **o: fgv(e, **o),
    "hot_cold_sign": lambda e, **o: hot_cold_sign(1, epsilon=e, **o),
    "steepest linf": lambda e, **o: steepest("linf", e, **o),
    "steepest l2": lambda e, **o: steepest("l2", e, **o),
    "steepest l1": lambda e, **o: steepest("l1", e, pixels=3, **o),
    "pgd linf": lambda e, **o: pgd(e, step_size=0.1, steps=3, **o),
    "pgd l2": lambda e, **o: pgd(e, norm="l2", step_size=0.4, steps=3, **o),
    "pgd l1": lambda e, **o: pgd(e, norm="l1", step_size=1.0, steps=3, pixels=2, **o),
    "localized linf": lambda e, **o: localized_pgd("broad", e, step_size=0.1, steps=3, **o),
    "apgd linf": lambda e, **o: apgd(e, steps=5, **o),
    "apgd l2": lambda e, **o: apgd(e, norm="l2", steps=5, **o),
    "apgd l1": lambda e, **o: apgd(e, norm="l1", steps=5, **o),
    "fab l2": lambda e, **o: fab(e, norm="l2", steps=4, targets=1, **o),
    "square linf": lambda e, **o: square(e, queries=20, **o),
    "square l2": lambda e, **o: square(e, norm="l2", queries=20, **o),
    "added linf": lambda e, **o: added(np.reshape(e, (-1, 1, 1, 1)) * SIGNS, **o),
    "lbfgs": lambda _e, **o: lbfgs(1, steps=4, searches=3, **o),
    "deepfool": lambda _e, **o: deepfool(steps=4, **o),
    "ddn": lambda _e, **o: ddn(steps=6, **o),
    "fmn": lambda _e, **o: fmn("l0", steps=6, **o),
    "ead": lambda _e, **o: ead(searches=2, steps=4, first_c=10.0, **o),
}
FREE = ("lbfgs", "deepfool", "ddn", "fmn", "ead")


@pytest.mark.parametrize("name", BOUND)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.0, 1.0, width=32))
def test_any_mask_and_per_image_radius_hold_on_every_pixel(name, seed, scale):
    rng = np.random.default_rng(seed)
    norm = name.split()[-1]
    largest = {"l2": 4.0, "l1": 8.0}.get(norm, 1.0)
    radii = (rng.random(4) * scale * largest).astype(np.float32)
    mask = rng.integers(0, 2, (4, 8, 8, 1))
    classifier = from_function(convolutional, convolutional_weights(seed % 7))
    images = grid_images(seed, (4, 8, 8, 1)) * rng.integers(0, 2, (4, 8, 8, 1)).astype(np.float32)
    attack = BOUND[name](radii, mask=mask)
    result = perturb(attack, classifier, jnp.asarray(images), jnp.asarray(rng.integers(0, 5, 4)), jax.random.key(seed))
    pixels = np.asarray(result.image)
    np.testing.assert_array_equal(pixels[mask == 0], images[mask == 0])
    np.testing.assert_array_equal(pixels, np.round(pixels * 255).astype(np.uint8) / np.float32(255))
    if name not in FREE:
        change = (pixels - images).reshape(4, -1).astype(np.float64)
        size = np.linalg.norm(change, {"l2": 2, "l1": 1}.get(norm, np.inf), axis=1)
        # Rounding inward keeps a level within 1e-4 of it: 1e-4/255 on each of 64 pixels at most.
        assert np.all(size <= radii * (1 + 1e-5) + 64e-4 / 255)


def test_reasons_of_failure(problem):
    classifier, images, labels = problem
    wrong = (labels + 1) % 5
    assert set(np.asarray(perturb(fgs(), classifier, images, wrong).failure)) == {Failure.ALREADY_MISCLASSIFIED}
    nowhere = perturb(fgs(mask=np.zeros((8, 8, 1))), classifier, images, labels)
    assert set(np.asarray(nowhere.failure)) == {Failure.NO_DIRECTION}
    np.testing.assert_array_equal(nowhere.image, images)
    assert set(np.asarray(perturb(fgs(0.0), classifier, images, labels).failure)) == {Failure.NOT_FOOLED}
    # A margin that no image in the box can close.
    certain = from_function(linear, {"w": jnp.full((64, 2), 1e-3).at[:, 0].mul(2), "b": jnp.array([9.0, 0.0])})
    stuck = perturb(fgs(), certain, images, jnp.zeros(12, jnp.int32))
    assert set(np.asarray(stuck.failure)) == {Failure.NO_BOUNDARY}
    np.testing.assert_array_equal(stuck.image, images)


def test_calls_are_counted(problem):
    # Clean logits, a gradient for each step, the verdict.
    assert set(np.asarray(perturb(fgs(0.1), *problem).calls)) == {3}
    assert set(np.asarray(perturb(pgd(0.1, step_size=0.02, steps=7), *problem, jax.random.key(0)).calls)) == {9}


def test_pgd_is_the_loop_written_out(problem):
    classifier, images, labels = problem
    attack = pgd(0.1, step_size=0.03, steps=5, random_start=False, levels=None)
    result = perturb(attack, classifier, images, labels)
    gradient = jax.grad(lambda x: optax.softmax_cross_entropy_with_integer_labels(classifier(x), labels).sum())
    clean = np.asarray(images)
    x = clean
    for _ in range(5):
        x = x + np.float32(0.03) * np.sign(np.asarray(gradient(jnp.asarray(x))))
        x = np.clip(np.clip(x, clean - np.float32(0.1), clean + np.float32(0.1)), 0, 1)
    assert np.mean(np.abs(np.asarray(result.image) - x) < 1e-5) > 0.995


def test_restarts_keep_the_largest_margin(problem):
    classifier, _images, labels = problem

    def margins(restarts):
        result = perturb(pgd(0.05, step_size=0.02, steps=2, restarts=restarts), *problem, jax.random.key(4))
        logits = np.array(classifier(result.image))
        own = logits[np.arange(12), np.asarray(labels)].copy()
        logits[np.arange(12), np.asarray(labels)] = -np.inf
        return logits.max(-1) - own

    assert np.all(margins(6) >= margins(1) - 1e-6)
    assert np.any(margins(6) > margins(1))


def test_targeted_pgd_reaches_its_target(problem):
    classifier, images, labels = problem
    target = (labels + 2) % 5
    attack = pgd(0.5, step_size=0.05, steps=40, objective=Targeted(target), random_start=False)
    result = perturb(attack, classifier, images, labels)
    assert np.mean(np.asarray(result.prediction) == np.asarray(target)) > 0.9


def test_momentum_of_optax_is_a_direction(problem):
    classifier, images, labels = problem
    momentum = optax.trace(0.9)
    allowed = All((LinfBall(0.1), Box()))
    move = Move(Margin(), Chain((momentum, Sign())), Fixed(0.02), allowed)
    result = perturb(Finish(Repeat(move, 10), Quantize(256, "inward")), classifier, images, labels)
    gradient = jax.grad(lambda x: jnp.max(jnp.where(jax.nn.one_hot(labels, 5) > 0, -jnp.inf, classifier(x)), -1).sum()
                        - jnp.take_along_axis(classifier(x), labels[:, None], 1).sum())  # fmt: skip
    clean = np.asarray(images)
    x, velocity = clean, np.zeros_like(clean)
    for _ in range(10):
        velocity = 0.9 * velocity + np.asarray(gradient(jnp.asarray(x)))
        x = np.clip(np.clip(x + 0.02 * np.sign(velocity), clean - 0.1, clean + 0.1), 0, 1)
    assert np.mean(np.abs(np.asarray(result.image) - x) < 1.01 / 255) > 0.99
    assert np.asarray(result.linf).max() <= 0.1 + 1e-6


def test_a_stack_is_a_sweep(problem):
    sweep = perturb(stack([fgs(epsilon) for epsilon in (0.0, 0.1, 0.2)]), *problem)
    assert sweep.image.shape == (3, 12, 8, 8, 1)
    np.testing.assert_array_equal(sweep.image[1], perturb(fgs(0.1), *problem).image)
    assert np.all(np.diff(np.asarray(sweep.linf).mean(-1)) > 0)


def test_a_stack_with_per_image_masks_and_keys(problem):
    classifier, images, labels = problem
    masks = np.random.default_rng(0).integers(0, 2, (2, 12, 8, 8, 1))
    single = [pgd(0.1, step_size=0.05, steps=2, mask=mask) for mask in masks]
    together = perturb(stack(single), classifier, images, labels, jax.random.key(5))
    for index, attack in enumerate(single):
        alone = perturb(attack, classifier, images, labels, jax.random.key(5))
        np.testing.assert_array_equal(together.image[index], alone.image)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: stack([]), "attacks must hold at least one"),
        (lambda: stack([fgs(), fgv()]), "attacks must have one structure"),
        (lambda: stack([hot_cold(ranks=(1, 2))]), "attacks must be single attacks"),
        (lambda: hard_positive(fgs(0.1), 1.05), "attack must search the boundary"),
        (lambda: hard_positive(fgs(), 0.9), "factor must be a finite number of 1 or more"),
        (lambda: hot_cold(ranks=(1, 2), targets=3), "give one of rank, ranks and targets"),
        (lambda: Finish(hot_cold(ranks=(1, 2)), Box()), "attack must be a single attack, got a stack"),
        (lambda: Repeat(fgs(), 0), "steps must be an integer of 1 or more"),
        (lambda: BestOf(fgs(), 2.5), "restarts must be an integer of 1 or more"),
        (lambda: pgd(0.1, step_size=0.1, steps=2, random_start=False, restarts=3), "restarts must be 1 without"),
        (lambda: pgd(0.1, norm="l7", step_size=0.1, steps=2), 'norm must be "linf", "l2" or "l1"'),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_move_without_direction_needs_no_model_call_in_the_search(problem):
    classifier, images, labels = problem
    move = Move(CrossEntropy(), Sign(), Fixed(0.0), Box())
    np.testing.assert_array_equal(perturb(move, classifier, images, labels).image, images)
