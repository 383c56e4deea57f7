"""The health check: each warning fires on a model built to have its fault, and none on a sound one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advjax
from advjax import estimated, expectation_over, from_function, perturb, pgd, square
from advjax.attacks import Margin
from advjax.data import load
from advjax.evaluate import health_check
from advjax.evaluate.health import _findings
from tests.models_for_tests import linear

KEY, ONE = jax.random.key(2), jax.devices()[:1]
WEIGHTS = np.where(np.random.default_rng(0).random(36) < 0.5, -1, 1).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(3, 8, (40, 6, 6, 1)).astype(np.float32) / np.float32(10)


def logits(images, weights=WEIGHTS):
    """Of two classes, one hyperplane through the middle of the cube: 0 where <w, x - 1/2> > 0."""
    score = (images - 0.5).reshape(images.shape[0], -1) @ weights[:, None]
    return jnp.concatenate([score, -score], axis=-1)


LABELS = np.asarray(logits(IMAGES).argmax(-1), np.int32)

SOUND = {"hills": 0, "rounded": 0, "thresholds": 0, "scale": 1, "decoy": 0, "probabilities": 0, "slope": 0}
ROUNDED, SATURATED, JAGGED = {"rounded": 1}, {"scale": 1e6}, {"hills": 0.05}
THRESHOLDS = {"thresholds": 1}
DECOY, PROBABILITIES, SLOPE = {"decoy": 1}, {"probabilities": 1}, {"slope": 1}


def model(fault, images):
    """Logits with the faults that are switched on; one function, so that the tests compile it once."""
    # Hills a tenth apart; at the clean images, which are tenths, their slope is the one of the whole.
    images = images + fault["hills"] * jnp.sin(20 * np.pi * images)
    images = jnp.where(fault["rounded"] > 0, jnp.round(images * 10) / 10, images)
    images = jnp.where(fault["thresholds"] > 0, (images > 0.45).astype(images.dtype), images)
    found = logits(images) * fault["scale"]
    # The slope of a square root at 0 is infinite, and 0 times infinity is NaN. `where` would let it through.
    found = jax.lax.cond(fault["slope"] > 0, lambda x: x + jnp.sqrt(0 * x), lambda x: x, found)
    # What the model answers has no gradient; what has one points the wrong way.
    found = jnp.where(fault["decoy"] > 0, jax.lax.stop_gradient(found) - 1e-4 * found, found)
    return jnp.where(fault["probabilities"] > 0, jax.nn.softmax(found), found)


def classifier(fault):
    return from_function(model, {name: np.float32(number) for name, number in (SOUND | fault).items()})


def check(fault, **options):
    options = {"epsilon": 0.2, "key": KEY, "steps": 20, "queries": 50, "devices": ONE, **options}
    return {warning.name: warning for warning in health_check(classifier(fault), (IMAGES, LABELS), **options)}


def test_a_sound_linear_model_has_no_warning():
    assert check({}) == {}


@pytest.mark.parametrize(
    ("fault", "name", "numbers"),
    [
        (ROUNDED, "vanishing gradients", {"images": 1}),
        (SLOPE, "gradients not finite", {"images": 1}),
        (SLOPE, "vanishing gradients", {"images": 1}),
        (ROUNDED, "black box beats white box", {"under square": 0}),
        (DECOY, "unbounded attack fails", {"accuracy left": 1}),
        (DECOY, "black box beats white box", {"accuracy under pgd": 1}),
        (JAGGED, "one step beats many", {"accuracy under one step": 0}),
        (PROBABILITIES, "probabilities", {"images": 1}),
    ],
)
def test_each_fault_is_found(fault, name, numbers):
    warning = check(fault)[name]
    for part, number in numbers.items():
        assert warning.numbers[part] == pytest.approx(number, abs=0.05)
    assert str(warning).startswith(f"{name}: ")


def test_faults_are_told_apart():
    assert set(check(DECOY)) == {"unbounded attack fails", "black box beats white box"}
    assert "vanishing gradients" not in check(JAGGED)
    assert set(check(PROBABILITIES)) == {"probabilities"}


def test_saturated_logits_have_no_gradient():
    found = check(SATURATED)
    assert found["vanishing gradients"].numbers["images"] > 0.5
    assert "gradients not finite" not in found


def test_a_surrogate_is_a_black_box_too():
    # One query of Square fools few; the surrogate's gradients fool all.
    warning = check(DECOY, queries=1, surrogate=classifier({}))["black box beats white box"]
    assert warning.numbers["under transfer"] < 0.1
    assert warning.numbers["under transfer"] < warning.numbers["under square"]


def test_one_pixel_without_a_slope_is_found_before_it_hides_anything():
    """Only that pixel is lost to the attacks, which succeed all the same."""

    def model(weights, images):
        return logits(images) + jnp.sqrt(images[:, 0, 0])

    images = IMAGES.copy()
    images[:10, 0, 0] = 0
    labels = np.asarray(logits(images).argmax(-1), np.int32)
    options = {"epsilon": 0.2, "key": KEY, "steps": 5, "queries": 5, "devices": ONE}
    (found,) = health_check(from_function(model, None), (images, labels), **options)
    assert (found.name, found.numbers) == ("gradients not finite", {"images": 0.25})


def test_models_in_training_mode_and_random_ones_are_found():
    def tied(weights, images):
        return logits(images) - logits(images).mean(0, keepdims=True)

    options = {"epsilon": 0.2, "key": KEY, "steps": 1, "queries": 1, "devices": ONE}
    for model, variables, name in ((tied, None, "batch dependent"), (hiding, jax.random.key(0), "random")):
        found = health_check(from_function(model, variables), (IMAGES, LABELS), **options)
        assert [(each.name, each.numbers) for each in found[:1]] == [(name, {"images": 1.0})]


def hiding(key, images):
    """Sees a ninth of the pixels, at random."""
    kept = jax.random.bernoulli(key, 1 / 9, (1, *images.shape[1:])).astype(images.dtype)
    return 20 * logits(0.5 + kept * (images - 0.5))


@pytest.mark.filterwarnings("ignore:the classifier draws random numbers")
def test_a_random_defence_is_beaten_by_what_the_check_recommends():
    random = from_function(hiding, jax.random.key(0))
    climb = pgd(0.1, step_size=0.03, steps=8, levels=None, random_start=False)
    assert "expectation_over" in _findings(*arrays(random=100))[0].explanation
    left = []
    for attack in (climb, expectation_over(climb, draws=20)):
        images = perturb(attack, random, jnp.asarray(IMAGES), LABELS, KEY).image
        keys = jax.random.split(jax.random.key(7), 61)
        answers = jax.vmap(lambda key, images: random.reseeded(key)(images).argmax(-1), (0, None))(keys, images)
        left.append(np.mean(np.mean(np.asarray(answers) == LABELS, axis=0) > 0.5))
    assert left[0] > 0.3
    assert left[1] < 0.05


@pytest.mark.filterwarnings("ignore:the classifier seems to return probabilities")
@pytest.mark.parametrize(
    ("fault", "warning", "recommended", "attack", "attacked"),
    [
        (ROUNDED, "vanishing gradients", "`estimated(pgd(", lambda: estimated(CLIMB, samples=40, sigma=0.1), ROUNDED),
        (THRESHOLDS, "vanishing gradients", "(`square`)", lambda: square(0.2, queries=300, levels=None), THRESHOLDS),
        (SATURATED, "vanishing gradients", "`pgd(objective=Margin())`", lambda: ON_MARGIN, SATURATED),
        (SATURATED | PROBABILITIES, "probabilities", "(`Margin`)", lambda: ON_MARGIN, SATURATED),
    ],
)
def test_a_broken_defence_is_beaten_by_what_the_check_recommends(fault, warning, recommended, attack, attacked):
    assert recommended in check(fault)[warning].explanation
    defended, images = classifier(fault), jnp.asarray(IMAGES)
    labels = defended(images).argmax(-1).astype(jnp.int32)

    def left(crafted):
        return np.mean(defended(crafted).argmax(-1) == labels)

    assert left(perturb(CLIMB, defended, images, labels, KEY).image) > 0.5
    assert left(perturb(attack(), classifier(attacked), images, labels, KEY).image) < 0.05


CLIMB = pgd(0.2, step_size=0.025, steps=20, levels=None)
ON_MARGIN = pgd(0.2, step_size=0.025, steps=20, levels=None, objective=Margin())


def test_what_is_recommended_exists():
    texts = " ".join(
        text
        for name, text in vars(advjax.evaluate.health).items()
        if name.isupper() and name[0] == "_" and isinstance(text, str)
    )
    names = {
        name
        for code in re.findall("`([^`]+)`", texts)
        for name in re.findall(r"([A-Za-z_]\w+)\(|^([a-zA-Z_]\w+)$", code)
    }
    names = {first or second for first, second in names}
    assert {"expectation_over", "estimated", "straight_through", "square", "Margin", "pgd", "apgd"} <= names
    for name in names:
        assert hasattr(advjax, name) or hasattr(advjax.attacks, name), name


def hidden_layer(weights, images):
    hidden = jax.nn.relu(images.reshape(images.shape[0], -1) @ weights["hidden"])
    return hidden @ weights["output"]


@pytest.fixture(scope="module")
def trained():
    """A network with one hidden layer after a few seconds on digits."""
    train = load("digits", "train")
    images, labels = jnp.asarray(train.images / np.float32(255)), jnp.asarray(train.labels)
    rng, optimizer = np.random.default_rng(0), optax.sgd(0.1, momentum=0.9)
    shapes = {"hidden": (784, 48), "output": (48, 10)}
    weights = {name: jnp.asarray(rng.normal(size=shape) * 0.05, jnp.float32) for name, shape in shapes.items()}

    @jax.jit
    def step(weights, state, rows):
        def loss(weights):
            found = hidden_layer(weights, images[rows])
            return optax.softmax_cross_entropy_with_integer_labels(found, labels[rows]).mean()

        updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    state = optimizer.init(weights)
    for _ in range(300):
        weights, state = step(weights, state, rng.integers(0, len(labels), 64))
    return from_function(hidden_layer, weights)


@pytest.mark.slow
def test_a_sound_trained_network_has_no_warning(trained):
    test = load("digits", "test[:200]")
    accuracy = np.mean(trained(jnp.asarray(test.images / np.float32(255))).argmax(-1) == test.labels)
    assert accuracy > 0.9
    assert health_check(trained, test, epsilon=0.05, key=KEY, queries=100, devices=ONE) == []


def arrays(**given):
    """100 images: fooled by every attack, unless given otherwise."""
    fooled = {name: np.ones(100, bool) for name in ("fgs", "pgd", "unbounded", "square")}
    names = ("batch dependent", "random", "probabilities", "not finite", "zero")
    probes = {name: np.zeros(100, bool) for name in names}
    for name, count in given.items():
        (probes if name in probes else fooled)[name] = np.arange(100) < count
    return probes, fooled


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, []),
        ({"zero": 5}, []),
        ({"zero": 6}, ["vanishing gradients"]),
        ({"not finite": 1}, []),
        ({"not finite": 2}, ["gradients not finite"]),
        ({"batch dependent": 1}, ["batch dependent"]),
        ({"batch dependent": 100, "random": 100}, ["random"]),
        ({"unbounded": 99}, []),
        ({"unbounded": 98}, ["unbounded attack fails"]),
        ({"probabilities": 99}, []),
        ({"fgs": 50, "pgd": 45, "square": 0}, []),  # five more could be chance: 2^-5 is above 1 %
        ({"fgs": 52, "pgd": 45, "square": 0}, ["one step beats many"]),
        ({"fgs": 0, "pgd": 45, "square": 52}, ["black box beats white box"]),
    ],
)
def test_thresholds(given, names):
    assert [warning.name for warning in _findings(*arrays(**given))] == names


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epsilon": 0}, ValueError, "epsilon must be above 0 and at most 1, got 0"),
        ({"epsilon": 8}, ValueError, "epsilon must be above 0 and at most 1, got 8"),
        ({"steps": 0}, ValueError, "steps must be an integer of 1 or more"),
        ({"queries": 0.5}, ValueError, "queries must be an integer of 1 or more"),
        ({"key": None}, TypeError, "key must be jax.random.key"),
        ({"surrogate": linear}, TypeError, r"models\['surrogate'\] must be a Classifier"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        check({}, **change)
