"""Gradients that hold NaN or infinity: the rest of the gradient still counts, and the result says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, fgs, from_function, perturb, pgd
from advjax.attacks import BestOf, apgd, ddn, deepfool, ead, fmn, lbfgs, square
from advjax.attacks.attack import made_finite
from tests.models_for_tests import grid_images, linear, linear_weights

IMAGES = grid_images(7, (9, 6, 6, 1))
IMAGES[:, 0, 0, 0] = 0
WEIGHTS = linear_weights(3) | {"b": jnp.zeros(4)}
ATTACKS = {
    "fgs": fgs(),
    "fgs fixed": fgs(0.1),
    "pgd": pgd(0.1, step_size=0.05, steps=3, random_start=False),
    "restarts": BestOf(pgd(1.0, norm="l2", step_size=0.5, steps=3), 2),
    "apgd": apgd(0.1, steps=4, random_start=False),
    "lbfgs": lbfgs(steps=4, searches=4),
    "deepfool": deepfool(),
    "ddn": ddn(steps=20),
    "fmn": fmn("l1", steps=20),
    "ead": ead(searches=3, steps=10),
}
SLOW = {"pgd", "restarts", "fmn", "ead"}


@jax.custom_vjp
def broken(images, amount):
    """The images, whose first pixel's gradient is `amount`."""
    return images


broken.defvjp(
    lambda images, amount: (images, amount),
    lambda amount, cotangent: (cotangent.at[:, 0, 0, 0].set(amount), jnp.zeros_like(amount)),
)


def breaking(variables, images):
    return linear(variables["weights"], broken(images, variables["amount"]))


def with_gradient(amount):
    weights = WEIGHTS | {"w": WEIGHTS["w"].at[0].set(0.0)}
    return from_function(breaking, {"weights": weights, "amount": jnp.float32(amount)})


# What the attacks do where nothing is wrong: the first pixel plays no part.
PLAIN = with_gradient(0.0)
LABELS = PLAIN(IMAGES).argmax(-1).astype(jnp.int32)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ATTACKS])
def test_one_entry_that_is_not_finite_leaves_the_rest_of_the_attack(name):
    plain = perturb(ATTACKS[name], PLAIN, IMAGES, LABELS, jax.random.key(0))
    assert plain.success.mean() > 0.5
    assert not plain.non_finite.any()
    for amount in (np.nan, np.inf, -np.inf):
        result = perturb(ATTACKS[name], with_gradient(amount), IMAGES, LABELS, jax.random.key(0))
        np.testing.assert_array_equal(result.success, plain.success)
        assert np.isfinite(np.asarray(result.image)).all()
        assert result.non_finite.all()
        assert result.summary() == plain.summary() + "; 9 with gradients not finite"


def test_an_attack_without_gradients_has_none_that_is_not_finite():
    result = perturb(square(0.1, queries=3), with_gradient(np.nan), IMAGES, LABELS, jax.random.key(0))
    assert not result.non_finite.any()


def rooted(variables, images):
    """A network that begins with a root, of some pixels or of all; the gradient of a black one is infinite or NaN."""
    return linear(variables["weights"], jnp.where(variables["where"], jnp.sqrt(images), images))


@pytest.mark.parametrize("attack", [fgs(0.2), pgd(0.2, step_size=0.1, steps=3)], ids=["fgs", "pgd"])
def test_a_root_of_black_pixels_does_not_look_robust(attack):
    images, key = IMAGES * (np.random.default_rng(0).random((9, 6, 6, 1)) < 0.4), jax.random.key(0)
    for share in (1 / 36, 1.0):
        where = (np.arange(36) < 36 * share).reshape(6, 6, 1)
        classifier = from_function(rooted, {"weights": WEIGHTS, "where": where})
        result = perturb(attack, classifier, images, classifier(images).argmax(-1), key)
        assert result.success.mean() > 0.8
        assert result.non_finite.any()


@jax.custom_vjp
def overflowing(images):
    """The images, whose gradient is beyond what float32 holds."""
    return images


overflowing.defvjp(lambda images: (images, ()), lambda _, cotangent: (cotangent * 1e38 * 1e38,))


def test_a_gradient_of_infinities_still_says_which_way():
    def model(variables, images):
        return linear(variables, overflowing(images))

    weights = PLAIN.variables["weights"]
    result = perturb(fgs(), from_function(model, weights), IMAGES, LABELS)
    plain = perturb(fgs(), PLAIN, IMAGES, LABELS)
    np.testing.assert_array_equal(result.image[:, 1:], plain.image[:, 1:])
    assert result.success.all()
    assert result.non_finite.all()


def test_a_gradient_of_nan_alone_is_no_direction():
    def lost(weights, images):
        return linear(weights, images) + 0 * jnp.sqrt(images - images).sum((1, 2, 3))[:, None]

    classifier = from_function(lost, WEIGHTS)
    result = perturb(fgs(), classifier, IMAGES, classifier(IMAGES).argmax(-1))
    assert set(np.asarray(result.failure)) == {Failure.NO_DIRECTION}
    np.testing.assert_array_equal(result.image, IMAGES)
    assert result.non_finite.all()


def test_what_is_made_finite():
    gradient = jnp.array([1.0, -3.0, jnp.nan, jnp.inf, -jnp.inf, 0.0])
    finite, was_not = made_finite(gradient)
    np.testing.assert_array_equal(finite, [1, -3, 0, 3, -3, 0])
    assert was_not
    np.testing.assert_array_equal(made_finite(jnp.array([jnp.inf, 0.0]))[0], [1, 0])
    same, was_not = made_finite(gradient[:2])
    np.testing.assert_array_equal(same, gradient[:2])
    assert not was_not
