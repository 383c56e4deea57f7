"""A trained generator as an attack value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax import from_function, from_nnx, perturb
from advjax.attacks import stack
from advjax.evaluate import evaluate
from advjax.generators import generated
from advjax.training import Batch, create, train_step
from tests.generators.players_for_tests import SHAPE, Tapped, known_set, players

CLASSIFIER = from_nnx(Tapped(10))


@pytest.fixture(scope="module")
def generator():
    network = players(2).generator
    network.decoder.norm.mean[...] = jnp.full(4, 0.3, jnp.float32)  # what evaluation mode alone reads
    return network


@pytest.fixture(scope="module")
def data():
    held = known_set(6)
    return jnp.asarray(held.images / 255, jnp.float32), jnp.asarray(held.labels)


def test_it_is_the_generator_in_evaluation_mode_clipped_and_rounded(generator, data):
    images, labels = data
    generator.train()
    result = perturb(generated(generator), CLASSIFIER, images, labels)
    generator.eval()
    whole = np.asarray(generator.perturbed(images))
    generator.train()
    assert whole.min() < 0
    np.testing.assert_allclose(result.image, np.round(np.clip(whole, 0, 1) * 255) / 255, atol=1e-6)
    unrounded = perturb(generated(generator, levels=None), CLASSIFIER, images, labels)
    np.testing.assert_allclose(unrounded.image, np.clip(whole, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(result.prediction, CLASSIFIER(result.image).argmax(-1))
    assert result.calls.tolist() == [2] * 6


def test_outside_the_mask_nothing_changes(generator, data):
    mask = np.zeros((*SHAPE[:2], 1))
    mask[2:4] = 1
    result = perturb(generated(generator, mask=mask), CLASSIFIER, *data)
    changed = np.asarray(result.image != data[0]).any((0, 3))
    assert changed[2:4].any()
    assert not np.delete(changed, [2, 3], axis=0).any()


def test_other_weights_are_no_other_program(generator, data):
    traced = []

    def counting(variables, images):
        traced.append(images.shape)
        return CLASSIFIER.apply(variables, images)

    counted = from_function(counting, CLASSIFIER.variables)
    first = perturb(generated(generator), counted, *data)
    before = len(traced)
    other = perturb(generated(players(5).generator), counted, *data)
    assert len(traced) == before > 0
    assert bool((first.image != other.image).any())


def test_it_goes_into_training_and_evaluation(generator, data):
    images, labels = data
    step = train_step(optax.sgd(0.1), attack=generated(generator))
    plain = train_step(optax.sgd(0.1))
    made = perturb(generated(generator), CLASSIFIER, images, labels).image
    trained, _ = jax.jit(step)(create(Tapped(10), step.optimizer), Batch(images, labels), jax.random.key(0))
    wanted, _ = jax.jit(plain)(create(Tapped(10), plain.optimizer), Batch(made, labels), jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained.params, wanted.params)
    attacks = {"generated": generated(generator)}
    report = evaluate({"small": CLASSIFIER}, attacks, (images, labels), key=jax.random.key(0))
    assert "generated" in str(report)


def test_it_is_not_stacked_since_each_image_would_get_weights_of_its_own(generator, data):
    attack = generated(generator)
    with pytest.raises(ValueError, match="variables is shared by all images: run attacks that hold it in turn"):
        perturb(stack([attack, attack]), CLASSIFIER, *data)


def test_what_is_no_generator_is_named():
    with pytest.raises(TypeError, match=r"generator must be a Generator of advjax\.generators, got Linear"):
        generated(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
