"""PGD, steepest and targeted attacks against NumPy in float64: network, gradient, projection and loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, from_function, hot_cold, perturb, pgd, stack
from advjax.attacks import (
    L1,
    L2,
    All,
    Boundary,
    Box,
    CrossEntropy,
    Inside,
    Move,
    Sign,
    Targeted,
    lbfgs,
    localized_pgd,
    square,
    steepest,
    targeted,
)  # fmt: skip
from tests.models_for_tests import grid_images, linear


def network(weights, images):
    """Two dense layers."""
    return jax.nn.relu(images.reshape(images.shape[0], -1) @ weights["hidden"]) @ weights["out"]


def network_weights():
    rng = np.random.default_rng(0)
    return {"hidden": rng.normal(size=(36, 24)) / 4, "out": rng.normal(size=(24, 5)) / 2}


def numpy_gradient(weights, x, label):
    """grad_x of the cross-entropy of one flat image, by hand."""
    before = x @ weights["hidden"]
    logits = np.maximum(before, 0) @ weights["out"]
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    softmax[label] -= 1
    return weights["hidden"] @ ((before > 0) * (weights["out"] @ softmax))


def numpy_project(norm, change, epsilon):
    if norm == "linf":
        return np.clip(change, -epsilon, epsilon)
    if norm == "l2":
        return change * min(1.0, epsilon / max(np.linalg.norm(change), 1e-30))
    if epsilon == 0 or np.abs(change).sum() <= epsilon:
        return change if epsilon else np.zeros_like(change)
    # Duchi et al. 2008, figure 1.
    sizes = np.sort(np.abs(change))[::-1]
    excess = (np.cumsum(sizes) - epsilon) / np.arange(1, change.size + 1)
    shift = excess[np.nonzero(sizes > excess)[0][-1]]
    return np.sign(change) * np.maximum(np.abs(change) - shift, 0)


def numpy_ray(norm, g, x, pixels):
    if norm == "linf":
        return np.sign(g)
    if norm == "l2":
        return g / np.linalg.norm(g)
    if x is not None:
        g = np.where(((x <= 0) & (g < 0)) | ((x >= 1) & (g > 0)), 0, g)
    ray = np.zeros_like(g)
    top = np.argsort(-np.abs(g))[:pixels]
    ray[top] = np.sign(g[top]) / pixels
    return ray


def given(seed=0, count=8):
    """Images with many pixels at 0 and 1, and labels."""
    images = grid_images(seed, (count, 6, 6, 1)).astype(np.float64)
    images = np.where(images < 0.3, 0.0, np.where(images > 0.9, 1.0, images))
    return images, np.arange(count, dtype=np.int32) % 5


@pytest.mark.parametrize(
    ("norm", "epsilon", "step", "pixels"),
    [
        ("linf", 0.25, 0.0625, 1),
        ("l2", 1.5, 0.25, 1),
        ("l1", 4.0, 0.75, 1),
        ("l1", 4.0, 0.75, 5),
    ],
)
def test_pgd_is_numpys_loop_in_float64(norm, epsilon, step, pixels):
    weights, (images, labels) = network_weights(), given()
    # A radius for each image, of numbers that float32 has.
    radii = np.float32(epsilon) * np.array([1, 0.5, 0.25, 0, 1, 2, 1, 1], np.float32)
    with jax.enable_x64(True):
        attack = pgd(radii, norm=norm, step_size=step, steps=9, pixels=pixels, random_start=False, levels=None)
        classifier = from_function(network, jax.tree.map(jnp.asarray, weights))
        result = np.asarray(perturb(attack, classifier, jnp.asarray(images), jnp.asarray(labels)).image)
    for clean, label, radius, got in zip(images.reshape(8, -1), labels, radii, result.reshape(8, -1), strict=True):
        x = clean
        for _ in range(9):
            ray = numpy_ray(norm, numpy_gradient(weights, x, label), x, pixels)
            x = np.clip(clean + numpy_project(norm, x + step * ray - clean, float(radius)), 0, 1)
        np.testing.assert_allclose(got, x, atol=1e-9)


@pytest.mark.parametrize(("norm", "pixels"), [("linf", 1), ("l2", 1), ("l1", 1), ("l1", 4)])
def test_steepest_is_eq_11_in_float64_and_clips_nothing_if_told_so(norm, pixels):
    weights, (images, labels) = network_weights(), given(1)
    with jax.enable_x64(True):
        attack = steepest(norm, 2.0, pixels=pixels, levels=None, box=False)
        classifier = from_function(network, jax.tree.map(jnp.asarray, weights))
        result = np.asarray(perturb(attack, classifier, jnp.asarray(images), jnp.asarray(labels)).image)
    for clean, label, got in zip(images.reshape(8, -1), labels, result.reshape(8, -1), strict=True):
        ray = numpy_ray(norm, numpy_gradient(weights, clean, label), None, pixels)
        np.testing.assert_allclose(got, clean + 2.0 * ray, atol=1e-12)
    assert result.min() < 0
    assert result.max() > 1


@pytest.mark.parametrize("rank", [1, 3])
def test_steepest_in_the_tangent_space_is_eq_13(rank):
    weights, (images, labels) = network_weights(), given(2)
    # Neither orthonormal nor independent: the last vector is twice the first.
    basis = np.random.default_rng(3).normal(size=(rank, 36))
    basis = np.concatenate([basis, 2 * basis[:1]]).astype(np.float32)
    with jax.enable_x64(True):
        attack = steepest("l2", 0.5, basis=basis.reshape(-1, 6, 6, 1), levels=None, box=False)
        classifier = from_function(network, jax.tree.map(jnp.asarray, weights))
        result = np.asarray(perturb(attack, classifier, jnp.asarray(images), jnp.asarray(labels)).image)
    projector = np.linalg.pinv(basis.astype(np.float64)) @ basis.astype(np.float64)
    for clean, label, got in zip(images.reshape(8, -1), labels, result.reshape(8, -1), strict=True):
        ray = projector @ numpy_gradient(weights, clean, label)
        np.testing.assert_allclose(got - clean, 0.5 * ray / np.linalg.norm(ray), atol=1e-7)


@pytest.mark.parametrize(("shape", "batch"), [((6, 6, 1), 9), ((3, 4, 3), 1), ((2, 9, 2), 4)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_boundary_of_a_linear_model_is_the_closed_form(norm, shape, batch):
    rng = np.random.default_rng(4)
    w = rng.normal(size=(36, 2)) * 0.3
    images = (0.5 + 0.02 * rng.normal(size=(batch, *shape))).astype(np.float32)
    slope = w[:, 1] - w[:, 0]
    dual = {"linf": np.abs(slope).sum(), "l2": np.linalg.norm(slope), "l1": np.abs(slope).max()}[norm]
    logits = images.reshape(batch, -1).astype(np.float64) @ w
    # Moved along the slope to these distances from the boundary, within [0, 1].
    distances = np.linspace(0.3, 1.0, batch) * {"linf": 0.1, "l2": 0.3, "l1": 0.3}[norm]
    shift = (logits[:, 0] - logits[:, 1] - distances * dual) / (slope @ slope)
    images = (images + np.multiply.outer(shift, slope.reshape(shape))).astype(np.float32)
    classifier = from_function(linear, {"w": jnp.asarray(w, jnp.float32), "b": jnp.zeros(2)})
    ray = {"linf": Sign(), "l2": L2(), "l1": L1()}[norm]
    attack = Move(CrossEntropy(), ray, Boundary(), All((Box(),)))
    result = perturb(attack, classifier, jnp.asarray(images), jnp.zeros(batch, jnp.int32))
    assert np.all(result.success)
    np.testing.assert_allclose(getattr(result, norm), distances, rtol=0.01)


def test_the_l1_ray_looks_past_pixels_that_cannot_move():
    image = jnp.asarray([[[0.0], [1.0], [0.5], [0.0]]])
    gradient = jnp.asarray([[[-5.0], [4.0], [1.0], [2.0]]])
    inside, _ = Inside().update(gradient, (), image)
    np.testing.assert_array_equal(inside.ravel(), [0, 0, 1, 2])
    with pytest.raises(ValueError, match="Inside needs the image"):
        Inside().update(gradient, ())


def test_targeted_is_the_objective_and_success_stays_untargeted():
    images, labels = given(3)
    images, targets = jnp.asarray(images, jnp.float32), (labels + 1) % 5
    weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), network_weights())
    classifier = from_function(network, weights)
    options = {"step_size": 0.05, "steps": 20, "random_start": False}
    by_name = perturb(targeted(pgd(0.5, **options), targets), classifier, images, jnp.asarray(labels))
    by_part = perturb(pgd(0.5, objective=Targeted(targets), **options), classifier, images, jnp.asarray(labels))
    np.testing.assert_array_equal(by_name.image, by_part.image)
    labels = classifier(images).argmax(-1)
    away = perturb(targeted(pgd(0.5, **options), (labels + 1) % 5), classifier, images, labels)
    assert np.mean(np.asarray(away.prediction) == (np.asarray(labels) + 1) % 5) > 0.8
    np.testing.assert_array_equal(away.success, np.asarray(away.prediction) != np.asarray(labels))


def test_targeted_restarts_keep_the_image_nearest_to_the_target():
    images, _ = given(4)
    images = jnp.asarray(images, jnp.float32)
    classifier = from_function(network, jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), network_weights()))
    labels = classifier(images).argmax(-1)
    targets = (labels + 1) % 5

    def margin(restarts):
        attack = targeted(pgd(0.15, step_size=0.05, steps=3, restarts=restarts), targets)
        logits = np.array(classifier(perturb(attack, classifier, images, labels, jax.random.key(0)).image))
        own = np.take_along_axis(logits, np.asarray(targets)[:, None], 1)[:, 0]
        np.put_along_axis(logits, np.asarray(targets)[:, None], -np.inf, 1)
        return own - logits.max(1)

    assert np.all(margin(6) >= margin(1) - 1e-6)
    assert np.any(margin(6) > margin(1))


def test_targeted_takes_every_attack_with_an_objective():
    for attack in (fgs(), steepest("l2", 1.0), localized_pgd("exact", 0.3, step_size=0.1, steps=2), square(0.1)):
        assert targeted(attack, 3) != attack


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: steepest("l2", 1.0, box=False), "levels must be None with box=False"),
        (lambda: steepest("linf", 1.0, basis=np.ones((1, 2, 2, 1))), 'basis goes with norm="l2" alone'),
        (lambda: steepest("l2", 1.0, pixels=2), 'pixels is an option of norm="l1" alone'),
        (lambda: steepest("l0", 1.0), 'norm must be "linf", "l2" or "l1"'),
        (lambda: steepest("l1", 1.0, pixels=0), "pixels must be an integer of 1 or more"),
        (lambda: steepest("l2", -1.0), "radius must be a finite number of 0 or more"),
        (lambda: pgd(0.3, step_size=-0.1, steps=2), "step_size must be a finite number of 0 or more"),
        (lambda: localized_pgd("exact", 0.3, step_size=[0.1, -0.1], steps=2), "step_size must be a finite number"),
        (lambda: targeted(hot_cold(), 1), "attack must climb the cross-entropy or the margin"),
        (lambda: targeted(lbfgs(), 1), "attack must climb the cross-entropy or the margin"),
        (lambda: targeted(targeted(fgs(), 1), 2), "without a target"),
        (lambda: targeted(stack([fgs()]), 1), "attack must be a single attack"),
        (lambda: L1(5).check_image_shape((2, 2, 1)), "pixels must be at most 4"),
        (
            lambda: perturb(steepest("l2", 1.0, basis=np.ones((1, 3, 3, 1))), from_function(network, None),
                            jnp.zeros((1, 6, 6, 1)), jnp.zeros(1, jnp.int32)),
            r"basis must be \[k, 6, 6, 1\]",
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
