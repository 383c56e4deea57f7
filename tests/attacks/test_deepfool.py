"""DeepFool against closed forms, against the algorithm written out, and where there is no boundary to go to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, deepfool, from_function, perturb
from tests.models_for_tests import grid_images, linear, linear_weights

# Far from 0 and 1, so that the box does not matter.
IMAGES = (0.5 + 0.02 * np.random.default_rng(0).normal(size=(8, 6, 6, 1))).astype(np.float32)
# The class that comes next is not the one whose boundary is nearest.
WEIGHTS = {"w": linear_weights(7)["w"] * jnp.array([[0.1, 0.1, 0.4, 0.05]]), "b": jnp.zeros(4)}
LINEAR = from_function(linear, WEIGHTS)
LABELS = LINEAR(jnp.asarray(IMAGES)).argmax(-1).astype(jnp.int32)


def attacked(attack, classifier=LINEAR, images=IMAGES, labels=LABELS):
    return perturb(attack, classifier, jnp.asarray(images), labels)


def nearest(norm, classes, mask=1.0):
    """The way to the nearest boundary of the linear model, of those of the label with the next best classes."""
    w = np.asarray(WEIGHTS["w"], np.float64) * np.ravel(np.broadcast_to(mask, (6, 6, 1)))[:, None]
    logits = IMAGES.reshape(8, -1).astype(np.float64) @ np.asarray(WEIGHTS["w"], np.float64)
    ways = []
    for row in logits:
        order = np.argsort(-row)[:classes]
        found = []
        for k in order[1:]:
            slope, gap = w[:, k] - w[:, order[0]], row[order[0]] - row[k]
            size = np.linalg.norm(slope, 2 if norm == "l2" else 1)
            ray = slope / size if norm == "l2" else np.sign(slope)
            found.append((gap / size, gap / size * ray))
        ways.append(min(found, key=lambda pair: pair[0])[1].reshape(6, 6, 1))
    return np.stack(ways)


@pytest.mark.parametrize(("norm", "classes"), [("l2", 4), ("l2", 2), ("linf", 10)])
def test_a_linear_model_takes_one_step_of_the_closed_form(norm, classes):
    overshoot = np.linspace(0.01, 0.4, 8, dtype=np.float32)
    result = attacked(deepfool(norm=norm, classes=classes, overshoot=overshoot, levels=None))
    way = (1 + overshoot[:, None, None, None]) * nearest(norm, classes)
    np.testing.assert_allclose(np.asarray(result.image) - IMAGES, way, atol=2e-6)
    if classes == 2:
        assert np.abs(nearest(norm, 4) - nearest(norm, 2)).max() > 1e-2
    # A gradient for each other class, and a look at what came of it.
    np.testing.assert_array_equal(result.calls, np.full(8, 2 + min(classes, 4)))
    assert result.success.all()


def test_inside_a_mask_the_boundary_is_farther():
    mask = np.zeros((6, 6, 1))
    mask[:4] = 1
    result = attacked(deepfool(mask=mask, levels=None))
    np.testing.assert_allclose(np.asarray(result.image) - IMAGES, 1.02 * nearest("l2", 4, mask), atol=2e-6)
    assert result.success.all()


def curved(weights, images):
    """Far from linear: a step does not arrive."""
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ weights["w"]) @ weights["out"]


CURVED = {"w": linear_weights(3, classes=12)["w"] * 1.5, "out": linear_weights(4, pixels=12, classes=5)["w"]}


def written_out(image, label, steps, overshoot, classes):
    """The authors' loop, and the clip to [0, 1]."""
    read = jax.jit(lambda x: curved(CURVED, x[None])[0])
    slopes_of = jax.jit(jax.jacrev(read))
    order = np.argsort(-np.asarray(read(image)))[:classes]
    x, total = np.asarray(image), np.zeros_like(image)
    for step in range(steps):
        logits = np.asarray(read(x))
        if logits.argmax() != label:
            return x, step
        slopes = np.asarray(slopes_of(x))
        ways = [(abs(logits[k] - logits[label]), slopes[k] - slopes[label]) for k in order[1:]]
        gap, slope = min(ways, key=lambda way: way[0] / np.linalg.norm(way[1]))
        total = total + gap / np.linalg.norm(slope) ** 2 * slope
        x = np.clip(image + (1 + overshoot) * total, 0, 1).astype(np.float32)
    return x, steps


def test_it_is_the_authors_loop_written_out():
    classifier = from_function(curved, CURVED)
    images = grid_images(5, (8, 6, 6, 1))
    labels = classifier(jnp.asarray(images)).argmax(-1).astype(jnp.int32)
    result = attacked(deepfool(overshoot=0.1, classes=4, levels=None), classifier, images, labels)
    ways = [written_out(*pair, 50, 0.1, 4) for pair in zip(images, np.asarray(labels), strict=True)]
    np.testing.assert_allclose(result.image, np.stack([image for image, _ in ways]), atol=1e-5)
    steps = np.array([step for _, step in ways])
    np.testing.assert_array_equal(result.calls, 2 + 4 * steps)
    assert result.success.all()
    assert steps.max() >= 3
    # Rounded on the way, and so still fooled.
    rounded = attacked(deepfool(overshoot=0.1, classes=4), classifier, images, labels)
    assert rounded.success.all()
    assert np.all(rounded.l2 < result.l2 + 0.05)
    # Cut short it returns what it has.
    short = attacked(deepfool(overshoot=0.1, classes=4, steps=1, levels=None), classifier, images, labels)
    first = np.stack([written_out(*pair, 1, 0.1, 4)[0] for pair in zip(images, np.asarray(labels), strict=True)])
    np.testing.assert_allclose(short.image, first, atol=1e-5)
    assert set(np.asarray(short.failure)) == {Failure.NONE, Failure.NOT_FOOLED}


def test_classes_without_a_boundary_are_passed_over():
    """One with the label's own gradient, and one that is masked."""
    w = np.asarray(WEIGHTS["w"])
    top = int(LABELS[0])
    same = np.asarray(LABELS) == top
    weights = {"w": jnp.asarray(np.c_[w, w[:, top], w[:, 0]]), "b": jnp.array([0, 0, 0, 0, -1e-3, -jnp.inf])}
    images, labels = IMAGES[same], LABELS[same]
    result = attacked(deepfool(levels=None), from_function(linear, weights), images, labels)
    np.testing.assert_allclose(result.image, attacked(deepfool(levels=None), LINEAR, images, labels).image, atol=1e-6)
    assert result.success.all()
    # Nothing but those.
    weights = {"w": jnp.asarray(np.c_[w[:, :1], w[:, :1]]), "b": jnp.array([1.0, 0.0])}
    nowhere = attacked(deepfool(), from_function(linear, weights), grid_images(0, (2, 6, 6, 1)), jnp.zeros(2, int))
    assert set(np.asarray(nowhere.failure)) == {Failure.NO_DIRECTION}
    np.testing.assert_array_equal(nowhere.image, grid_images(0, (2, 6, 6, 1)))


def test_from_the_boundary_itself_it_gets_away():
    weights = {"w": jnp.ones((36, 2)).at[:, 0].mul(-1), "b": jnp.array([18.0, -18.0])}
    result = attacked(deepfool(levels=None), from_function(linear, weights), np.full((1, 6, 6, 1), 0.5, np.float32),
                      jnp.zeros(1, int))  # fmt: skip
    assert result.success.all()
    assert 0 < result.l2[0] < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, 'norm must be "l2" or "linf"'),
        ({"steps": 0}, "steps must be an integer of 1 or more"),
        ({"classes": 1}, "classes must be 2 or more"),
        ({"classes": 2.5}, "classes must be an integer"),
        ({"overshoot": -0.1}, "overshoot must be a finite number of 0 or more"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        deepfool(**options)
