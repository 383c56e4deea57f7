"""Interval bounds against NumPy, closed forms and random images; certificates against an attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax import from_function, from_nnx, perturb, pgd
from advjax.certify import bounds, certified
from advjax.certify.interval import _bounds
from tests.models_for_tests import NnxNet, convolutional, convolutional_weights, grid_images, linear, linear_weights


def two_layers(weights, images):
    hidden = jnp.maximum(images.reshape(images.shape[0], -1) @ weights["in"] + weights["b"][None], 0.0)
    return hidden @ weights["out"]


def two_layer_weights():
    rng = np.random.default_rng(3)
    shapes = {"in": (16, 12), "b": (12,), "out": (12, 3)}
    return {name: jnp.asarray(rng.normal(size=shape) * 0.5, jnp.float32) for name, shape in shapes.items()}


def by_hand(weights, image, epsilon):
    """The bounds of the hidden units and of the logits, in float64, by positive and negative parts of the weights."""

    def through(lower, upper, kernel, bias=0.0):
        plus, minus = np.maximum(kernel, 0), np.minimum(kernel, 0)
        return lower @ plus + upper @ minus + bias, upper @ plus + lower @ minus + bias

    w = {name: np.asarray(each, np.float64) for name, each in weights.items()}
    x = np.asarray(image, np.float64).reshape(-1)
    hidden = through(np.clip(x - epsilon, 0, 1), np.clip(x + epsilon, 0, 1), w["in"], w["b"])
    hidden = tuple(np.maximum(end, 0) for end in hidden)
    return hidden, through(*hidden, w["out"])


def test_bounds_are_those_by_hand():
    weights, images = two_layer_weights(), grid_images(0, (4, 4, 4, 1))
    radii = np.array([0.0, 0.01, 0.1, 0.4], np.float32)
    lower, upper = bounds(from_function(two_layers, weights), images, radii)
    for i, radius in enumerate(radii):
        _, expected = by_hand(weights, images[i], radius)
        np.testing.assert_allclose(lower[i], expected[0], atol=1e-5)
        np.testing.assert_allclose(upper[i], expected[1], atol=1e-5)


def test_certificates_bound_the_difference_of_two_logits_over_the_hidden_layer():
    """Radii between those that the logits' own bounds prove and those that elision proves tell the two apart."""
    weights, images = two_layer_weights(), grid_images(1, (6, 4, 4, 1))
    classifier = from_function(two_layers, weights)
    labels = np.asarray(classifier(images).argmax(-1))
    only_elided = 0
    for epsilon in np.linspace(0.002, 0.06, 15):
        expected, by_logits = [], []
        for image, label in zip(images, labels, strict=True):
            (low, high), (lower, upper) = by_hand(weights, image, epsilon)
            out, others = np.asarray(weights["out"], np.float64), np.arange(3) != label
            difference = (out - out[:, [label]])[:, others]
            worst = high @ np.maximum(difference, 0) + low @ np.minimum(difference, 0)
            expected.append(np.all(worst < 0))
            by_logits.append(np.all(upper[others] < lower[label]))
        got = np.asarray(certified(classifier, images, labels, float(epsilon)))
        np.testing.assert_array_equal(got, expected)
        only_elided += np.sum(got & ~np.array(by_logits))
    assert only_elided > 3


def test_a_linear_network_is_certified_up_to_its_boundary():
    """The nearest image of class j, inside the box, is (h_y - h_j) / ||w_y - w_j||_1 away in linf: a closed form."""
    weights, images = linear_weights(pixels=16), 0.5 + 0.1 * grid_images(2, (12, 4, 4, 1)) - 0.05
    classifier = from_function(linear, weights)
    logits = np.asarray(classifier(images), np.float64)
    labels = logits.argmax(-1)
    kernel = np.asarray(weights["w"], np.float64)
    distance = np.full(12, np.inf)
    for i, y in enumerate(labels):
        for j in set(range(4)) - {y}:
            distance[i] = min(distance[i], (logits[i, y] - logits[i, j]) / np.abs(kernel[:, y] - kernel[:, j]).sum())
    assert distance.max() < 0.4  # so that the box plays no part
    for factor, proven in ((0.999, True), (1.001, False)):
        got = certified(classifier, images, labels, (factor * distance).astype(np.float32))
        assert got.tolist() == [proven] * 12
    assert not np.any(certified(classifier, images, (labels + 1) % 4, 0.0))


CONV = from_function(convolutional, convolutional_weights())
NORMED = from_nnx(NnxNet(nnx.Rngs(1)))


@settings(max_examples=8)
@given(seed=st.integers(0, 2**20), epsilon=st.sampled_from([0.0, 0.02, 0.3]), normed=st.booleans())
def test_no_image_of_the_ball_leaves_the_bounds(seed, epsilon, normed):
    classifier, image = NORMED if normed else CONV, grid_images(seed, (1, 8, 8, 1))
    lower, upper = bounds(classifier, image, epsilon)
    rng = np.random.default_rng(seed)
    moves = np.concatenate([rng.uniform(-1, 1, (32, 8, 8, 1)), rng.choice([-1, 1], (32, 8, 8, 1))])
    logits = classifier(np.clip(image + epsilon * moves, 0, 1).astype(np.float32))
    assert np.all((lower - 1e-5 <= logits) & (logits <= upper + 1e-5))
    if epsilon == 0:
        np.testing.assert_allclose(upper, lower, atol=1e-5)


SIGNS = jnp.array([1.0, -2.0, 0.5])


def pooled(x, operation, start):
    return jax.lax.reduce_window(x[:, None, :], start, operation, (1, 1, 2), (1, 1, 1), "VALID")[:, 0]


def rolled(x):
    return jnp.concatenate([x[:, 1:], x[:, :1]], 1)


# Each entry of the result goes only up or only down with each pixel, so that its ends are at corners of the box.
OPERATIONS = {
    "sub": lambda x: rolled(x) - x,
    "constant less": lambda x: 0.3 - x,
    "neg": lambda x: -x,
    "mul": lambda x: x * SIGNS[None],
    "product": lambda x: (rolled(x) - 0.6) * (x - 0.4),
    "div": lambda x: x / SIGNS[None],
    "dot": lambda x: x @ jnp.array([[1.0, -1.0], [-2.0, 0.5], [0.0, 3.0]]),
    "constant first": lambda x: (jnp.array([[1.0, -1.0, 2.0]]) @ x.T).T,
    "max": lambda x: jnp.maximum(x, x[:, ::-1]) + jnp.minimum(x, 0.4),
    "clip": lambda x: jnp.clip(x, 0.3, 0.6),
    "tanh": lambda x: jnp.tanh(4 * x - 2) + jnp.exp(x) + jax.nn.sigmoid(x),
    "where": lambda x: jnp.where(SIGNS[None] > 0, x, -x),
    "pool": lambda x: pooled(x, jax.lax.max, -jnp.inf) - 2 * pooled(-x, jax.lax.min, jnp.inf),
    "average": lambda x: pooled(x, jax.lax.add, 0.0) * -0.5,
    "sum": lambda x: jnp.concatenate([x.sum(1, keepdims=True), x.max(1, keepdims=True), x.min(1, keepdims=True)], 1),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 1)), constant_values=0.5)[:, ::2] + jnp.cumsum(x, 1)[:, :1],
    "checkpoint": jax.checkpoint(lambda x: jax.nn.relu(0.5 - x)),
}


def test_one_operation_is_bounded_by_what_it_reaches():
    """All side by side in one program, three results each."""
    classifier = from_function(
        lambda _, images: jnp.concatenate([each(images.reshape(-1, 3))[:, :3] for each in OPERATIONS.values()], 1), ()
    )
    image, epsilon = np.array([0.2, 0.5, 0.9], np.float32), 0.15
    corners = np.clip(image + epsilon * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T, 0, 1)
    reached = np.asarray(classifier(corners.astype(np.float32).reshape(8, 3, 1, 1)))
    lower, upper = bounds(classifier, image.reshape(1, 3, 1, 1), epsilon)
    assert reached.shape[1] == lower.shape[1]
    np.testing.assert_allclose(lower[0], reached.min(0), atol=1e-6)
    np.testing.assert_allclose(upper[0], reached.max(0), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (jnp.sin, "sin"),
        (lambda x: 1 / x, "div"),
        (lambda x: x @ x.T, "dot_general"),
        (lambda x: jnp.where(x > 0.5, x, 0.0), "gt"),
    ],
)
def test_what_has_no_rule_is_named(function, name):
    classifier = from_function(lambda _, images: function(images.reshape(images.shape[0], -1)), ())
    with pytest.raises(NotImplementedError, match=f"no interval bounds for {name}"):
        bounds(classifier, np.full((1, 2, 2, 1), 0.5, np.float32), 0.1)


def test_an_attack_never_beats_a_certificate():
    images = grid_images(5, (16, 8, 8, 1))
    labels = CONV(images).argmax(-1)
    sure = np.asarray(certified(CONV, images, labels, 4 / 255))
    beaten = np.asarray(
        perturb(pgd(4 / 255, step_size=1 / 255, steps=8), CONV, images, labels, jax.random.key(0)).success
    )
    assert not np.any(sure & beaten)
    assert sure.any()
    assert beaten.any()


def test_other_radii_and_weights_are_the_same_program():
    images = grid_images(6, (2, 8, 8, 1))
    bounds(CONV, images, 0.1)
    before = _bounds._cache_size()
    bounds(CONV, images, 0.2)
    bounds(from_function(convolutional, convolutional_weights(seed=1)), images, np.array([0.1, 0.3]))
    assert _bounds._cache_size() == before


@pytest.mark.parametrize(
    ("images", "epsilon", "message"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), -0.1, "epsilon must be a finite number of 0 or more"),
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros(3), "one for each of 2 images"),
        (np.zeros((2, 8, 8, 1), np.uint8), 0.1, "images must be floats"),
        (np.zeros((8, 8, 1), np.float32), 0.1, "images must be floats"),
    ],
)
def test_bad_arguments_are_refused(images, epsilon, message):
    with pytest.raises(ValueError, match=message):
        bounds(CONV, images, epsilon)


def test_labels_must_be_one_for_each_image():
    with pytest.raises(ValueError, match=r"labels must be integers \[2\]"):
        certified(CONV, np.zeros((2, 8, 8, 1), np.float32), np.zeros(3, np.int32), 0.1)
