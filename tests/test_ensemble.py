"""Ensembles: their answers and the gradients that attacks climb, against those of the members."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import ensemble, expectation_over, fgs, from_function, perturb, steepest
from tests.models_for_tests import grid_images, linear, linear_weights

WEIGHTS = [linear_weights(seed, 16, 3) for seed in range(3)]
MEMBERS = [from_function(linear, weights) for weights in WEIGHTS]
IMAGES = jnp.asarray(grid_images(0, (5, 4, 4, 1)))
LABELS = jnp.array([0, 1, 2, 0, 1])


def logits(images):
    return jnp.stack([linear(weights, images) for weights in WEIGHTS])


def test_answers_are_the_weighted_means():
    shares, answers = np.float32([0.2, 0.3, 0.5])[:, None, None], logits(IMAGES)
    mean = ensemble(MEMBERS, weights=[2, 3, 5])(IMAGES)
    np.testing.assert_allclose(mean, (shares * answers).sum(0), rtol=1e-5)
    mixed = ensemble(MEMBERS, weights=[2, 3, 5], of="probabilities")(IMAGES)
    np.testing.assert_allclose(jnp.exp(mixed), (shares * jax.nn.softmax(answers)).sum(0), rtol=1e-5)
    np.testing.assert_allclose(ensemble(MEMBERS)(IMAGES), answers.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        ensemble(MEMBERS, of="losses")(IMAGES), ensemble(MEMBERS, of="probabilities")(IMAGES), rtol=1e-5
    )


def loss(answers):
    return optax.softmax_cross_entropy_with_integer_labels(answers, LABELS).sum()


CLIMBED = {
    "losses": lambda x: sum(map(loss, logits(x))),
    "logits": lambda x: loss(logits(x).mean(0)),
    "probabilities": lambda x: loss(jnp.log(jax.nn.softmax(logits(x)).mean(0))),
}


@pytest.mark.parametrize("of", CLIMBED)
def test_attacks_climb_what_it_says(of):
    slope = np.asarray(jax.grad(CLIMBED[of])(IMAGES))
    expected = 0.5 * slope / np.linalg.norm(slope, axis=(1, 2), keepdims=True)
    attack = steepest("l2", 0.5, levels=None, box=False)
    result = perturb(attack, ensemble(MEMBERS, of=of), IMAGES, LABELS)
    np.testing.assert_allclose(result.image - IMAGES, expected, atol=1e-5)
    if of == "losses":
        # Through a view, which sees the members too.
        seen = perturb(expectation_over(attack, unmoved, draws=2), ensemble(MEMBERS, of=of), IMAGES, LABELS,
                       jax.random.key(0))  # fmt: skip
        np.testing.assert_allclose(seen.image - IMAGES, expected, atol=1e-5)


def unmoved(image, key):
    return image


def noisy(key, images):
    return jax.random.normal(key, (images.shape[0], 3))


def test_members_that_draw_draw_anew():
    both = ensemble([MEMBERS[0], from_function(noisy, jax.random.key(1))])
    assert both.draws(IMAGES)
    assert not ensemble(MEMBERS).draws(IMAGES)
    assert np.all(np.asarray(both.reseeded(jax.random.key(2))(IMAGES) != both(IMAGES)))


def test_other_weights_are_the_same_program():
    traces = []

    def traced(weights, images):
        traces.append(1)
        return linear(weights, images)

    members = [from_function(traced, weights) for weights in WEIGHTS]
    perturb(fgs(0.1), ensemble(members), IMAGES, LABELS)
    count = len(traces)
    perturb(fgs(0.1), ensemble(members[::-1], weights=[1, 2, 3]), IMAGES, LABELS)
    assert len(traces) == count


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ensemble([]), ValueError, "classifiers must hold at least one"),
        (lambda: ensemble([linear]), TypeError, "classifiers must hold Classifiers, got function"),
        (lambda: ensemble(MEMBERS, of="votes"), ValueError, 'of must be "logits", "losses" or "probabilities"'),
        (lambda: ensemble(MEMBERS, weights=[1, 2]), ValueError, "weights must be 3 numbers of 0 or more"),
        (lambda: ensemble(MEMBERS, weights=[1, 2, -1]), ValueError, "weights must be 3 numbers of 0 or more"),
        (lambda: ensemble(MEMBERS, weights=[0, 0, 0]), ValueError, "not all 0"),
        (lambda: ensemble(MEMBERS, weights=[1, 1, 1], of="losses"), ValueError, "weights must be None"),
        (
            lambda: ensemble([MEMBERS[0], from_function(linear, linear_weights(0, 16, 4))])(IMAGES),
            ValueError,
            "classifiers must be of the same classes",
        ),
    ],
)
def test_bad_arguments_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
