"""PassAtLeast: what is returned scores tau or more, and as little as possible is pulled back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, from_function, perturb
from advjax.attacks import (
    All,
    Box,
    CrossEntropy,
    Finish,
    Fixed,
    LinfBall,
    Move,
    PassAtLeast,
    Quantize,
    Repeat,
    Sign,
    pass_bounded,
)
from advjax.scores import pass_score
from tests.models_for_tests import convolutional, convolutional_weights

CLASSIFIER = from_function(convolutional, convolutional_weights(size=16))


@pytest.fixture(scope="module")
def images():
    y, x = np.mgrid[:16, :16]
    waves = [np.sin(x / a + y / b + a) for a, b in ((2, 3), (3, 2), (4, 5), (2, 9))]
    return jnp.asarray(np.round(127 + 100 * np.stack(waves))[..., None] / 255, jnp.float32)


@pytest.mark.parametrize("grid", [Quantize(256, "inward"), None])
def test_the_result_holds_and_lies_on_the_ray(images, grid):
    noise = np.random.default_rng(0).choice([-1, 1], images.shape)
    candidates = jnp.clip(
        images + jnp.asarray(noise * np.array([0.3, 0.2, 0.1, 0.001]).reshape(4, 1, 1, 1), jnp.float32), 0, 1
    )
    constraint = PassAtLeast(0.9, grid)
    result = jax.jit(jax.vmap(constraint))(candidates, images)
    scores = np.asarray(pass_score(result, images).score)
    assert np.all(scores >= 0.9 - 1e-6)
    # The first three are pulled back to the bar, not to the original; the last one stays.
    assert np.all(scores[:3] < 0.95)
    if grid is None:
        np.testing.assert_array_equal(result[3], candidates[3])
        share = np.asarray(result - images).reshape(4, -1) / np.asarray(candidates - images).reshape(4, -1)
        np.testing.assert_allclose(share, share.mean(1, keepdims=True) * np.ones_like(share), atol=1e-3)
    else:
        np.testing.assert_array_equal(result, np.round(np.asarray(result) * 255) / np.float32(255))


def test_an_attack_that_looks_too_different_has_failed(images):
    labels = CLASSIFIER(images).argmax(-1)
    free = perturb(fgs(), CLASSIFIER, images, labels)
    score = np.asarray(pass_score(free.image, images).score)
    tau = float(np.sort(score)[2])
    bound = perturb(Finish(fgs(), PassAtLeast(tau)), CLASSIFIER, images, labels)
    np.testing.assert_array_equal(np.asarray(bound.success), np.asarray(free.success) & (score >= tau))
    assert np.all(np.asarray(pass_score(bound.image, images).score) >= tau - 1e-6)


def test_inside_the_steps_of_an_attack(images):
    labels = CLASSIFIER(images).argmax(-1)
    allowed = All((LinfBall(0.2), Box(), PassAtLeast(0.95, steps=6)))
    attack = Repeat(Move(CrossEntropy(), Sign(), Fixed(0.05), allowed), 4)
    result = perturb(attack, CLASSIFIER, images, labels)
    assert np.all(np.asarray(pass_score(result.image, images).score) >= 0.95 - 1e-6)
    assert np.any(np.asarray(result.linf) > 0.02)


@pytest.mark.parametrize("tau", [0.0, 1.5, np.nan])
def test_tau_must_be_a_score(tau):
    with pytest.raises(ValueError, match=r"tau must be in \(0, 1\]"):
        PassAtLeast(tau)


def test_a_bounded_attack_looks_like_the_image_and_is_no_nearer_than_it_must_be(images):
    bounded = perturb(pass_bounded(fgs(0.3), 0.95), CLASSIFIER, images, CLASSIFIER(images).argmax(-1))
    scores = np.asarray(pass_score(bounded.image, images).score)
    assert np.all(scores >= 0.95)
    assert np.all(scores < 0.98)
