"""The universal perturbation: algorithm 1 written out, its ball, its order, when it stops, and what it may not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import added, deepfool, from_function, perturb, universal_perturbation
from tests.models_for_tests import linear, linear_weights

KEY = jax.random.key(0)
IMAGES = jnp.asarray(0.5 + 0.02 * np.random.default_rng(0).normal(size=(10, 6, 6, 1)), jnp.float32)
TRACES = []


def traced(weights, images):
    TRACES.append(images.shape)
    return linear(weights, images)


# Without what all images have in common, so that each class is answered.
W = np.array(linear_weights(1)["w"])
WEIGHTS = {"w": jnp.asarray(W), "b": -jnp.asarray(W.sum(0) * 0.5)}
CLASSIFIER = from_function(traced, WEIGHTS)


def answers(images, w=W):
    return (np.asarray(images, np.float64).reshape(len(images), -1) - 0.5) @ w.astype(np.float64)


def nearest(image, label):
    """The way from an image [36] over the nearest boundary of the linear model, 1.02 times."""
    logits = answers(image[None])[0]
    slopes = (W - W[:, [label]]).astype(np.float64)
    others = [k for k in range(4) if k != label]
    ways = [(logits[label] - logits[k]) / np.sum(slopes[:, k] ** 2) * slopes[:, k] for k in others]
    return 1.02 * min(ways, key=np.linalg.norm)


def written_out(epsilon, norm, passes, wanted, key=KEY):
    """Algorithm 1 in float64: v [36], the share fooled after each pass, and the calls."""
    flat = np.asarray(IMAGES, np.float64).reshape(10, -1)
    labels = answers(IMAGES).argmax(1)
    v, rates, calls = np.zeros(36), [], 10
    while len(rates) < passes and (not rates or rates[-1] < wanted):
        for index in np.asarray(jax.random.permutation(jax.random.fold_in(key, len(rates)), 10)):
            x = flat[index] + v
            calls += 1
            if answers(x[None]).argmax() == labels[index]:
                calls += 4  # three gradients, and a look at what came of them
                v = v + nearest(x, labels[index])
                v = np.clip(v, -epsilon, epsilon) if norm == "linf" else v * min(1, epsilon / np.linalg.norm(v))
        rates.append(np.mean(answers(flat + v).argmax(1) != labels))
        calls += 10
    return v, rates, calls


def found(epsilon=0.006, classifier=CLASSIFIER, images=IMAGES, key=KEY, **options):
    return universal_perturbation(classifier, images, key, epsilon=epsilon, **options)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.006), ("l2", 0.03)])
def test_it_is_algorithm_1_written_out(norm, epsilon):
    for wanted in (0.5, 1.0):
        result = found(epsilon, norm=norm, passes=4, fooling_rate=wanted)
        v, rates, calls = written_out(epsilon, norm, 4, wanted)
        np.testing.assert_allclose(result.perturbation.ravel(), v, atol=1e-6)
        assert result.passes == len(rates)
        assert (result.passes == 4) == (wanted == 1.0)
        np.testing.assert_allclose(result.fooling_rates, rates + rates[-1:] * (4 - len(rates)), atol=1e-6)
        assert result.calls == calls
        size = {"linf": jnp.max(jnp.abs(result.perturbation)), "l2": jnp.linalg.norm(result.perturbation)}[norm]
        assert size <= epsilon * (1 + 1e-6)
        assert not result.non_finite


def test_the_search_does_not_clip():
    """From a white image, the way leads up as far as down."""
    lead = np.float32([0, 0.1, 0.2, 0.3])
    classifier = from_function(linear, {"w": WEIGHTS["w"], "b": lead - jnp.asarray(W.sum(0))})
    result = found(1.0, classifier, jnp.ones((1, 6, 6, 1)), passes=1)
    slopes = (W - W[:, 3:]).astype(np.float64)
    way = min((1.02 * (0.3 - lead[k]) / np.sum(slopes[:, k] ** 2) * slopes[:, k] for k in range(3)), key=np.linalg.norm)
    np.testing.assert_allclose(result.perturbation.ravel(), way, atol=1e-6)
    assert result.fooling_rates[0] == 1


def test_one_program_for_other_numbers_images_weights_and_keys():
    first = found(passes=3)
    traces = len(TRACES)
    other = from_function(traced, {**WEIGHTS, "w": WEIGHTS["w"] * 2})
    found(0.01, other, IMAGES + 0.01, jax.random.key(1), passes=3, fooling_rate=0.3, overshoot=0.1)
    np.testing.assert_array_equal(found(passes=3).perturbation, first.perturbation)
    assert len(TRACES) == traces
    # The order decides, and the key the order.
    shuffled = found(passes=3, key=jax.random.key(7)).perturbation
    np.testing.assert_allclose(shuffled.ravel(), written_out(0.006, "linf", 3, 0.8, jax.random.key(7))[0], atol=1e-6)
    assert np.abs(np.asarray(shuffled) - np.asarray(first.perturbation)).max() > 1e-3
    # In a program of the user's too.
    inside = jax.jit(lambda images: found(passes=3, images=images))(IMAGES)
    np.testing.assert_allclose(inside.perturbation, first.perturbation, atol=1e-6)


def curved(weights, images):
    """Far from linear: a step does not arrive."""
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ weights["w"]) @ weights["out"]


@pytest.mark.parametrize("epsilon", [1.0, 0.004])
def test_from_one_image_it_is_what_deepfool_finds_projected(epsilon):
    weights = {"w": linear_weights(3, classes=12)["w"] * 2.5, "out": linear_weights(4, pixels=12, classes=5)["w"]}
    image = jnp.asarray(np.random.default_rng(1).uniform(0.3, 0.7, (1, 6, 6, 1)), jnp.float32)
    classifier = from_function(curved, weights)
    result = found(epsilon, classifier, image, passes=1, overshoot=0.1)
    fooled = perturb(deepfool(overshoot=0.1, levels=None), classifier, image, classifier(image).argmax(-1))
    assert fooled.calls[0] >= 2 + 2 * 5  # in two steps or more
    way = np.asarray(fooled.image - image)[0]
    assert np.abs(way).max() > 0.005
    np.testing.assert_allclose(result.perturbation, np.clip(way, -epsilon, epsilon), atol=1e-6)
    np.testing.assert_array_equal(result.fooling_rates, [epsilon == 1.0])


def cubic(weights, images):
    logits = linear(weights, images)
    return logits**3


def test_what_deepfool_does_not_arrive_at_leaves_v_as_it_is():
    """Near a boundary that is flat of third order, a step goes a third of the way."""
    weights = {"w": WEIGHTS["w"][:, :1] * jnp.array([[1.0, -1.0]]), "b": jnp.array([2.0, -2.0])}
    classifier = from_function(cubic, weights)
    short, enough = (found(1.0, classifier, passes=1, steps=steps) for steps in (2, 50))
    np.testing.assert_array_equal(short.perturbation, np.zeros((6, 6, 1)))
    assert short.calls == 10 + 10 * (1 + 2 * 2) + 10
    assert enough.fooling_rates[0] > 0.5


def test_one_direction_fools_one_side_of_a_linear_model():
    rng = np.random.default_rng(3)
    w = rng.normal(size=36)
    classifier = from_function(linear, {"w": jnp.asarray(np.c_[w, -w] / 2, jnp.float32), "b": jnp.zeros(2)})
    images = rng.uniform(0.3, 0.7, (40, 6, 6, 1))
    # Each is answered 0, by a lead from 0.1 to 0.5.
    leads = images.reshape(40, -1) @ w
    images -= ((leads - rng.uniform(0.1, 0.5, 40)) / (w @ w))[:, None, None, None] * w.reshape(6, 6, 1)
    result = found(0.05, classifier, jnp.asarray(images, jnp.float32), fooling_rate=0.95)
    assert result.fooling_rates[-1] >= 0.95
    cosine = np.asarray(result.perturbation).ravel() @ w / np.linalg.norm(w) / np.linalg.norm(result.perturbation)
    assert cosine < -0.99
    # Nothing is clipped here, so that the attack finds what the search did.
    judged = perturb(added(result.perturbation, levels=None), classifier, jnp.asarray(images, jnp.float32),
                     jnp.zeros(40, int))  # fmt: skip
    assert judged.success.mean() == result.fooling_rates[-1]
    assert judged.linf.max() <= 0.05 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": -0.1}, ValueError, "epsilon must be a finite number of 0 or more, got -0.1"),
        ({"epsilon": np.ones(10)}, ValueError, "epsilon must be a finite number"),
        ({"norm": "l1"}, ValueError, 'norm must be "linf" or "l2", got \'l1\''),
        ({"passes": 0}, ValueError, "passes must be an integer of 1 or more"),
        ({"fooling_rate": 0}, ValueError, r"fooling_rate must be a share in \(0, 1\], got 0"),
        ({"fooling_rate": 80}, ValueError, r"fooling_rate must be a share in \(0, 1\], got 80"),
        ({"overshoot": np.nan}, ValueError, "overshoot must be"),
        ({"steps": 0}, ValueError, "steps must be"),
        ({"classes": 1}, ValueError, "classes must be 2 or more"),
        ({"key": 0}, TypeError, r"key must be jax.random.key\(seed\), for the order of the images, got 0"),
        ({"images": IMAGES[0]}, ValueError, "images must be a float32 array"),
        ({"images": IMAGES * 255}, ValueError, r"images must be finite numbers in \[0, 1\], got values from"),
        ({"classifier": WEIGHTS}, TypeError, "classifier must be a Classifier"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        found(**{"passes": 3, **options})


def test_a_model_of_probabilities_is_warned_of():
    def softmax(weights, images):
        return jax.nn.softmax(linear(weights, images))

    with pytest.warns(UserWarning, match="the classifier seems to return probabilities"):
        found(classifier=from_function(softmax, WEIGHTS), passes=1)
