"""Estimated gradients against the true ones of linear models; what they cost; defences that they pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import estimated, fgs, from_function, perturb, pgd, stack
from advjax.attacks import Seeing, straight_through
from advjax.attacks.estimates import Estimated
from tests.models_for_tests import grid_images, linear, linear_weights

WEIGHTS = linear_weights(0, 16, 3)
CLASSIFIER = from_function(linear, WEIGHTS)
IMAGES = jnp.asarray(grid_images(3, (8, 4, 4, 1)))
LABELS = CLASSIFIER(IMAGES).argmax(-1).astype(jnp.int32)
KEY = jax.random.key(0)


@jax.jit
def pulled(view, key=KEY):
    """The estimate of `W v`, and W v itself."""
    v = jnp.array([[1.0, -2.0, 0.5]])
    _, pull = jax.vjp(lambda image: view(lambda image, key: CLASSIFIER(image[None]))(image, key), IMAGES[0])
    return pull(v)[0].ravel(), WEIGHTS["w"] @ v[0]


@pytest.mark.parametrize("method", ["nes", "spsa"])
@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_mean_of_many_estimates_is_the_gradient(method, sigma):
    estimate, true = pulled(Estimated(sigma, 10_000, method))
    assert np.linalg.norm(estimate - true) < 0.08 * np.linalg.norm(true)


def test_rays_are_normal_or_signs():
    """Of one sample the estimate is along the ray: the signs of SPSA have one size, the normals of NES have all."""
    signs = np.abs(pulled(Estimated(0.1, 1, "spsa"))[0])
    np.testing.assert_allclose(signs, signs[0], rtol=1e-3)
    normals = np.concatenate([pulled(Estimated(0.1, 1, "nes"), jax.random.key(i))[0] for i in range(20)])
    normals = normals.reshape(20, 16) / np.sqrt(np.mean(normals.reshape(20, 16) ** 2, axis=1, keepdims=True))
    # The fourth moment of a normal is 3, that of a sign 1, of a uniform draw 1.8.
    assert 2.2 < np.mean(normals**4) < 3.4


def test_each_gradient_is_counted_with_its_samples_and_other_evaluations_as_one():
    attack = estimated(pgd(0.1, step_size=0.05, steps=3), samples=5, sigma=0.1)
    assert set(np.asarray(perturb(attack, CLASSIFIER, IMAGES, LABELS, KEY).calls)) == {2 + 3 * 11}
    # A boundary search: one gradient, and a few dozen looks along the ray.
    found = perturb(estimated(fgs(), samples=5, sigma=0.1), CLASSIFIER, IMAGES, LABELS, KEY)
    assert found.asks == "scores"
    looks = np.asarray(found.calls) - (2 + 11)
    assert np.all((looks > 0) & (looks < 60))


QUANTIZED = np.random.default_rng(0).choice(np.float32([-1, 1]), (16, 1))


def rounded(images):
    return jnp.round(images * 10) / 10


def answers(images):
    score = (images - 0.52).reshape(images.shape[0], -1) @ QUANTIZED
    return jnp.concatenate([score, -score], -1)


def defended(weights, images):
    return answers(rounded(images))


def attacked(weights, images):
    return answers(straight_through(rounded)(images))


def test_rounding_in_the_model_hides_nothing_where_the_gradient_passes_it():
    classifier = from_function(defended, None)
    labels = classifier(IMAGES).argmax(-1).astype(jnp.int32)
    descent = pgd(0.3, step_size=0.1, steps=6, random_start=False)
    assert not np.any(perturb(descent, classifier, IMAGES, labels).success)
    passed = perturb(descent, from_function(attacked, None), IMAGES, labels)
    assert np.all(passed.success)
    assert np.all(classifier(passed.image).argmax(-1) != labels)


def test_straight_through_is_the_function_with_the_gradient_of_another():
    x = jnp.array([0.26, 0.5, 0.91])
    through = straight_through(rounded)
    np.testing.assert_array_equal(through(x), rounded(x))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(through(x) * jnp.arange(3.0)))(x), [0, 1, 2])
    surrogate = straight_through(jnp.sign, lambda x: jnp.tanh(2 * x))
    np.testing.assert_array_equal(surrogate(x), [1, 1, 1])
    np.testing.assert_allclose(
        jax.grad(lambda x: surrogate(x).sum())(x), 2 / np.cosh(2 * np.asarray(x)) ** 2, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: estimated(fgs(), samples=0), "samples must be an integer of 1 or more"),
        (lambda: estimated(fgs(), samples=5, sigma=0.0), "sigma must be a finite number above 0"),
        (lambda: estimated(fgs(), samples=5, method="rgf"), 'method must be "nes" or "spsa"'),
        (lambda: estimated(stack([fgs(0.1)]), samples=5), "attack must be a single attack"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_seen_is_the_model_itself():
    view = Estimated(0.1, 2, "nes")
    seen = view(lambda image, key: CLASSIFIER(image[None]))(IMAGES[0], KEY)
    np.testing.assert_array_equal(seen, CLASSIFIER(IMAGES[:1]))
    assert isinstance(estimated(fgs(), samples=1), Seeing)
