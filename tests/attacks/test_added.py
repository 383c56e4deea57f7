"""The attack `added`: its image, its numbers, and that evaluation and training take it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax import added, from_function, perturb, stack
from advjax.evaluate import evaluate
from advjax.training import Batch, create, train_step
from tests.models_for_tests import grid_images, linear, linear_weights

IMAGES = grid_images(0, (4, 6, 6, 1))
LEVELS = np.random.default_rng(1).integers(-90, 91, (4, 6, 6, 1)).astype(np.float32)
TRACES = []


def traced(weights, images):
    TRACES.append(images.shape)
    return linear(weights, images)


CLASSIFIER = from_function(traced, linear_weights())
LABELS = CLASSIFIER(jnp.asarray(IMAGES)).argmax(-1).astype(jnp.int32)


def attacked(attack):
    return perturb(attack, CLASSIFIER, jnp.asarray(IMAGES), LABELS)


def test_it_adds_clips_and_rounds_towards_the_clean_image():
    between = (LEVELS[0] + 0.7 * np.sign(LEVELS[0])) / 255
    exact = attacked(added(between, levels=None))
    np.testing.assert_allclose(exact.image, np.clip(IMAGES + between, 0, 1), atol=1e-7)
    rounded = attacked(added(between))
    np.testing.assert_array_equal(rounded.image, attacked(added(LEVELS[0] / 255)).image)
    np.testing.assert_allclose(np.asarray(rounded.image) * 255, np.clip(IMAGES * 255 + LEVELS[0], 0, 255), atol=1e-4)
    assert np.all(rounded.linf <= np.abs(between).max())
    np.testing.assert_array_equal(rounded.calls, [2] * 4)


def test_one_program_for_every_perturbation_one_for_each_image_and_a_stack_of_them():
    alone = [attacked(added(v)).image for v in LEVELS / 255]
    traces = len(TRACES)
    assert np.any(np.asarray(alone[0]) != np.asarray(alone[1]))
    np.testing.assert_array_equal(attacked(added(LEVELS[0] / 255)).image, alone[0])
    assert len(TRACES) == traces
    each = attacked(added(LEVELS / 255)).image
    np.testing.assert_array_equal(each, np.stack([alone[index][index] for index in range(4)]))
    np.testing.assert_array_equal(attacked(stack([added(v) for v in LEVELS / 255])).image, np.stack(alone))


def test_evaluation_and_training_take_it():
    attack = added(LEVELS[0] / 255)
    result = attacked(attack)
    report = evaluate({"net": CLASSIFIER}, {"added": attack}, (IMAGES, np.asarray(LABELS)), key=jax.random.key(0))
    np.testing.assert_array_equal(report.cell("net", "added").correct, ~np.asarray(result.success))
    # A step on perturbed images is the step on images that were perturbed before.
    model, optimizer = (
        nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(36, 4, rngs=nnx.Rngs(0))),
        optax.sgd(0.1),
    )
    state = create(model, optimizer)
    clean = Batch(jnp.asarray(np.round(IMAGES * 255).astype(np.uint8)), LABELS)
    moved = clean._replace(image=jnp.asarray(result.to_uint8()))
    through, _ = train_step(optimizer, attack=attack)(state, clean, jax.random.key(0))
    before, _ = train_step(optimizer)(state, moved, jax.random.key(0))
    same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), through.params, before.params)
    assert all(jax.tree.leaves(same))


def test_what_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match=r"perturbation must be \[6, 6, 1\], or one for each image .* got shape \(6, 6, 3\)"
    ):
        attacked(added(np.zeros((6, 6, 3))))
    with pytest.raises(ValueError, match="perturbation has one entry for each of 3 images, but the batch has 4"):
        attacked(added(np.zeros((3, 6, 6, 1))))
    with pytest.raises(ValueError, match=r"perturbation must be finite numbers \[H, W, C\]"):
        added(np.full((6, 6, 1), np.nan))
    with pytest.raises(TypeError, match="perturbation must be finite numbers"):
        added(None)
