"""Szegedy's attack: each minimum against SciPy's L-BFGS-B, the distance against the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from advjax import fgv, from_function, perturb
from advjax.attacks import lbfgs, targeted
from advjax.attacks.attack import Problem, first_state
from advjax.attacks.checks import check_asked
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear

CLASSIFIER = from_function(convolutional, convolutional_weights())


def corners(seed, shape=(6, 8, 8, 1)):
    """Images of which many pixels are 0 or 1, as those of digits are."""
    images = grid_images(seed, shape)
    return np.where(images < 0.5, np.float32(0), np.where(images > 0.85, np.float32(1), images))


def smooth(weights, images):
    """Logits of a network without kinks, so that a minimum is one."""
    return jnp.tanh(images.reshape(images.shape[0], -1) @ weights["hidden"]) @ weights["out"]


def test_each_minimum_is_that_of_scipy():
    rng = np.random.default_rng(0)
    weights = {
        "hidden": rng.normal(size=(64, 20)).astype(np.float32) / 4,
        "out": rng.normal(size=(20, 5)).astype(np.float32),
    }
    attack = lbfgs(steps=100, searches=1, levels=None)

    def logits_of(x):
        return smooth(weights, x[None])[0]

    @jax.jit
    @jax.value_and_grad
    def graded(x, origin, target, c):
        return c * jnp.sum((x - origin) ** 2) - jax.nn.log_softmax(logits_of(x))[target]

    @jax.jit
    def ours(image, target, c):
        problem = Problem(logits_of, image, (target + 1) % 5, logits_of(image))
        return attack._search(problem, target, c, c, first_state(problem, jax.random.key(0))).point

    for image, target, c in zip(corners(0), (0, 1, 2, 3, 4, 0), np.float32([0.1, 0.3, 1, 3, 10, 30]), strict=True):

        def objective(x, image=image, target=target, c=c):
            height, gradient = graded(x.reshape(8, 8, 1).astype(np.float32), image, target, c)
            return float(height), np.asarray(gradient, np.float64).ravel()

        found = np.asarray(ours(image, np.int32(target), c))
        assert 0 <= found.min() <= found.max() <= 1
        start = image.ravel().astype(np.float64)
        scipys = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * 64)
        # Several local minima are possible: ours is as low, or lower.
        assert objective(found)[0] <= scipys.fun * 1.001 + 1e-4


@pytest.mark.parametrize("shape", [(6, 6, 1), (3, 4, 3)])
def test_the_distance_is_the_closed_form_of_a_linear_model(shape):
    rng = np.random.default_rng(0)
    w = 0.3 * rng.normal(size=(36, 2))
    classifier = from_function(linear, {"w": jnp.asarray(w, jnp.float32), "b": jnp.zeros(2)})
    images = (0.5 + 0.02 * rng.normal(size=(9, *shape))).astype(np.float32)
    logits = images.reshape(9, -1).astype(np.float64) @ w
    distance = np.abs(logits[:, 0] - logits[:, 1]) / np.linalg.norm(w[:, 0] - w[:, 1])
    result = perturb(lbfgs(searches=24, levels=None), classifier, jnp.asarray(images), jnp.asarray(logits.argmax(1)))
    # Closer than 0.01 even the largest c crosses by more than that.
    far = distance > 0.01
    assert far.sum() >= 5
    assert np.all(np.asarray(result.success)[far])
    np.testing.assert_allclose(np.asarray(result.l2)[far], distance[far], rtol=0.01)


def test_the_target_is_reached_at_no_more_than_the_distance_of_one_ray():
    images = jnp.asarray(corners(1, (12, 8, 8, 1)))
    labels = CLASSIFIER(images).argmax(-1)
    by_ray = perturb(targeted(fgv(), 2), CLASSIFIER, images, labels)
    result = perturb(lbfgs(2), CLASSIFIER, images, labels)
    others = np.asarray(labels) != 2
    np.testing.assert_array_equal(np.asarray(result.prediction)[others], 2)
    there = others & (np.asarray(by_ray.prediction) == 2)
    assert there.any()
    assert np.all(np.asarray(result.l2)[there] <= np.asarray(by_ray.l2)[there] + 1e-3)


def test_a_target_out_of_reach_leaves_the_image_as_it_was():
    images = jnp.asarray(corners(2))
    labels = CLASSIFIER(images).argmax(-1)
    other = (labels + 1) % 5
    nowhere = perturb(lbfgs(other, mask=np.zeros((8, 8, 1)), steps=5, searches=3), CLASSIFIER, images, labels)
    assert nowhere.summary() == "0 of 6 succeeded; 6 NO_BOUNDARY"
    np.testing.assert_array_equal(nowhere.image, images)
    itself = perturb(lbfgs(labels, mask=np.ones((8, 8, 1)), steps=5, searches=3), CLASSIFIER, images, labels)
    assert not np.any(itself.success)


def test_an_image_is_done_when_its_minima_are_found():
    images = jnp.asarray(corners(3))
    labels = CLASSIFIER(images).argmax(-1)
    targets = jnp.where(jnp.arange(6) == 4, labels, (labels + 1) % 5)
    few, many = (perturb(lbfgs(targets, searches=4, steps=steps), CLASSIFIER, images, labels) for steps in (60, 1000))
    np.testing.assert_array_equal(few.calls, many.calls)
    np.testing.assert_array_equal(few.image, many.image)
    assert len(np.unique(few.calls)) > 3
    # But for the clean image and the verdict nothing is asked where there is nothing to reach.
    assert few.calls[4] == 2


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="c_range must be two numbers 0 < least < greatest"):
        lbfgs(c_range=(1.0, 0.5))
    with pytest.raises(ValueError, match="searches must be an integer of 1 or more"):
        lbfgs(searches=0)
    with pytest.raises(ValueError, match="targets must be classes from 0 to 4"):
        check_asked(lbfgs(7), 5)
