"""Views: what is climbed through them, at which draws, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import deepfool, expectation_over, fgs, from_function, perturb, pgd, stack, steepest
from advjax.attacks import Attack, Diverse, Fault, Scaled, Seeing, targeted
from advjax.attacks.views import _bits
from advjax.value import value
from tests.models_for_tests import grid_images, linear, linear_weights

IMAGES = jnp.asarray(grid_images(3, (6, 8, 8, 1)))
PLANES = from_function(linear, linear_weights(0, 64))
SIDES = PLANES(IMAGES).argmax(-1).astype(jnp.int32)
KEY = jax.random.key(0)


def noisy(image, key):
    return image + 0.5 * jax.random.normal(key, image.shape, image.dtype)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_gradient_is_the_mean_of_the_gradients_of_the_loss():
    """Of a linear model, `W (E p - e_y)`; what climbs the mean probability is weighted by p_y, and goes elsewhere."""
    rng = np.random.default_rng(0)
    weights, image = rng.normal(size=(4, 3)) * 3, rng.random((1, 2, 2, 1)).astype(np.float32)
    classifier = from_function(linear, {"w": jnp.asarray(weights, jnp.float32), "b": jnp.zeros(3)})
    attack = expectation_over(steepest("l2", 1.0, levels=None, box=False), noisy, draws=4000)
    result = perturb(attack, classifier, jnp.asarray(image), jnp.array([1]), KEY)
    step = np.asarray(result.image - image).ravel()
    answers = softmax((image.reshape(1, 4) + 0.5 * rng.normal(size=(200_000, 4))) @ weights)

    def ray(shares):
        slope = weights @ (np.average(answers, axis=0, weights=shares) - np.eye(3)[1])
        return slope / np.linalg.norm(slope)

    assert step @ ray(None) > 0.998
    assert step @ ray(answers[:, 1]) < 0.99


@value
class Asked(Attack):
    """Writes into the image what the model says of it, of it again, and of another one."""

    random = True

    def step(self, problem, state):
        image = state.image
        others = (image, image, image + 1e-7, jnp.flip(image))
        return state._replace(image=jnp.stack([problem.logits(each)[0] for each in others]).reshape(2, 2, 1))


def mean(weights, images):
    return jnp.stack([images.mean((1, 2, 3)), 0 * images.mean((1, 2, 3))], -1)


def test_draws_are_others_at_other_images_and_the_same_at_the_same():
    image = jnp.asarray(grid_images(1, (2, 2, 2, 1)))
    asked = perturb(Seeing(Asked(), expectation_over(fgs(), noisy, draws=1).view), from_function(mean, None), image,
                    jnp.array([0, 0]), KEY).image.reshape(2, 4)  # fmt: skip
    again, other, flipped = (np.asarray(asked[:, place]) for place in (1, 2, 3))
    np.testing.assert_array_equal(asked[:, 0], again)
    for changed in (other, flipped):
        assert np.all(np.abs(changed - again) > 1e-3)


@given(st.integers(0, 10_000), st.integers(0, 11), st.integers(0, 11))
def test_any_change_of_an_image_changes_its_bits(seed, first, second):
    image = grid_images(seed, (12,))
    moved = image.copy()
    moved[first] = np.nextafter(image[first], np.float32(2))
    swapped = image.copy()
    swapped[[first, second]] = image[[second, first]]
    bits = [int(_bits(jnp.asarray(each))) for each in (image, moved, swapped)]
    assert bits[0] != bits[1]
    assert (bits[0] == bits[2]) == np.array_equal(image, swapped)


WEIGHTS = jnp.asarray(np.random.default_rng(5).choice(np.float32([-1, 1]), 64))
DIGITS = (np.random.default_rng(1).integers(100, 156, (20, 8, 8, 1)) / np.float32(255)).astype(np.float32)
TRUE = np.asarray((DIGITS.reshape(20, -1) - 0.5) @ np.asarray(WEIGHTS) < 0, np.int32)


def dropping(variables, images):
    """Sees an eighth of the pixels, at random."""
    key, weights = variables
    kept = jax.random.bernoulli(key, 1 / 8, (1, *images.shape[1:])).astype(images.dtype)
    score = ((images - 0.5) * kept).reshape(images.shape[0], -1) @ weights
    return 20 * jnp.stack([score, -score], -1)


def share_right(classifier, images):
    """Of 101 fresh draws."""
    answers = jax.vmap(lambda key: classifier.reseeded(key)(jnp.asarray(images)).argmax(-1))(
        jax.random.split(jax.random.key(9), 101)
    )
    return np.mean(np.asarray(answers) == TRUE, axis=0)


@pytest.mark.filterwarnings("ignore:the classifier draws random numbers")
def test_a_model_that_draws_is_beaten_by_the_mean_over_its_draws_alone():
    classifier = from_function(dropping, (jax.random.key(3), WEIGHTS))
    descent = pgd(0.05, step_size=0.02, steps=8, random_start=False)
    left = {}
    for name, attack in (("one draw", descent), ("mean", expectation_over(descent, draws=16))):
        result = perturb(attack, classifier, jnp.asarray(DIGITS), jnp.asarray(TRUE), KEY)
        assert np.all(result.faults == Fault.RANDOM)
        left[name] = np.mean(share_right(classifier, result.image) > 0.5)
    assert left["one draw"] > 0.3
    assert left["mean"] == 0


@pytest.mark.parametrize(
    ("build", "calls"),
    [
        (lambda: Seeing(fgs(0.1), Diverse()), 1),
        (lambda: expectation_over(Seeing(fgs(0.1), Scaled(3)), noisy, draws=2), 3 * 2),
    ],
)
def test_what_an_evaluation_costs_is_counted(build, calls):
    # Clean logits, the gradients, the verdict.
    assert set(np.asarray(perturb(build(), PLANES, IMAGES, SIDES, KEY).calls)) == {calls + 2}


def test_views_of_nothing_new_change_nothing():
    """Through DeepFool too, which asks for logits: those of three equal views are the model's, but for a constant."""
    attack = deepfool(steps=3, classes=3)
    plain = perturb(attack, PLANES, IMAGES, SIDES, KEY)
    thrice = perturb(expectation_over(attack, unmoved, draws=3), PLANES, IMAGES, SIDES, KEY)
    assert np.any(plain.success)
    np.testing.assert_array_equal(thrice.success, plain.success)
    assert np.abs(np.asarray(thrice.image - plain.image)).max() <= 1.01 / 255


def unmoved(image, key):
    return image


def test_targets_go_through_and_the_model_itself_judges():
    target = (SIDES + 2) % 4
    attack = targeted(Seeing(pgd(0.5, step_size=0.05, steps=20, random_start=False), Scaled(2)), target)
    result = perturb(attack, PLANES, IMAGES, SIDES, KEY)
    np.testing.assert_array_equal(result.prediction, PLANES(result.image).argmax(-1))
    np.testing.assert_array_equal(result.success, result.prediction == target)
    assert np.mean(result.success) > 0.5


def test_scales_are_the_mean_loss_of_the_image_divided():
    @jax.grad
    def slope_of(x):
        logits = jnp.stack([PLANES(x / 2**i) for i in range(3)])
        return -jnp.sum(jax.nn.log_softmax(logits)[:, jnp.arange(6), SIDES])

    slope = np.asarray(jax.jit(slope_of)(IMAGES))
    attack = Seeing(steepest("l2", 0.1, levels=None, box=False), Scaled(3))
    step = np.asarray(perturb(attack, PLANES, IMAGES, SIDES).image - IMAGES)
    np.testing.assert_allclose(step, 0.1 * slope / np.linalg.norm(slope, axis=(1, 2), keepdims=True), atol=1e-5)


def test_diverse_images_are_smaller_and_anywhere_on_black():
    white = jnp.ones((20, 10, 1))
    view = Diverse(rate=0.6)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: view.shrunk(white, key)))(jax.random.split(KEY, 300)))[..., 0]
    rows, columns = (drawn > 0.5).any(2), (drawn > 0.5).any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    assert set(heights) == set(range(12, 20))
    assert np.all(np.abs(widths - heights / 2) <= 0.5)
    # One block of ones, and zeros around it.
    np.testing.assert_allclose(drawn.sum((1, 2)), heights * widths, rtol=1e-5)
    np.testing.assert_allclose(drawn, rows[:, :, None] & columns[:, None, :], atol=1e-5)
    for seen, side, sizes in ((rows, 20, heights), (columns, 10, widths)):
        gap = seen.argmax(1)
        assert gap.min() == 0
        assert np.any(gap == side - sizes)
        assert abs(np.mean(gap / np.maximum(side - sizes, 1)) - 0.5) < 0.1


def test_a_share_of_the_images_is_diverse():
    white, shares = jnp.ones((6, 6, 1)), jnp.array([0.0, 0.3, 1.0])

    @jax.jit
    def moved(probability, keys):
        seen = Diverse(0.5, probability)(lambda image, key: image.reshape(1, -1))
        return jnp.mean(jnp.any(jax.vmap(lambda key: seen(white, key))(keys) < 0.5, axis=(1, 2)))

    keys = jax.random.split(KEY, 400)
    np.testing.assert_allclose([moved(share, keys) for share in shares], shares, atol=0.06)


@pytest.mark.peers
def test_a_diverse_image_is_that_of_torch():
    import torch

    image = grid_images(4, (12, 12, 3))
    for seed in range(5):
        small = np.asarray(Diverse(0.6).shrunk(jnp.asarray(image), jax.random.key(seed)))
        inside = (small != 0).any(-1)
        top, left, side = inside.any(1).argmax(), inside.any(0).argmax(), inside.any(1).sum()
        given = torch.tensor(image.transpose(2, 0, 1))[None]
        resized = torch.nn.functional.interpolate(given, size=[side, side], mode="bilinear", align_corners=False)
        around = (left, 12 - side - left, top, 12 - side - top)
        padded = torch.nn.functional.pad(resized, [int(p) for p in around])[0].numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(small, padded, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: expectation_over(fgs(), noisy, draws=0), ValueError, "draws must be an integer of 1 or more"),
        (lambda: expectation_over(fgs(), 3, draws=2), TypeError, "transform must be a function"),
        (lambda: expectation_over(stack([fgs(0.1)]), noisy, draws=2), ValueError, "attack must be a single attack"),
        (lambda: Seeing(fgs(), Scaled(0)), ValueError, "copies must be an integer of 1 or more"),
        (lambda: Diverse(rate=1.0), ValueError, r"rate must be in \(0, 1\)"),
        (lambda: Diverse(probability=1.5), ValueError, "probability must be from 0 to 1"),
    ],
)
def test_bad_settings_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
