"""What is wrong with a model is said once; an error says which attack it came up with."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax import fgs, from_function, from_nnx, pgd, square
from advjax.attacks import apgd
from advjax.evaluate import evaluate, health_check, minimal_epsilon, sweep
from advjax.evaluate.findings import naming
from tests.models_for_tests import grid_images, linear, linear_weights

IMAGES, LABELS = grid_images(0, (12, 4, 4, 1)), np.arange(12) % 2
DATA = IMAGES, LABELS
OPTIONS = {"key": jax.random.key(0), "batch_size": 4, "devices": jax.devices()[:1]}
MODEL = from_function(linear, linear_weights(0, 16, 3))


class Switched(nnx.Module):
    """With batch statistics, and a switch of this name."""

    def __init__(self, switch):
        self.norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(16, 3, rngs=nnx.Rngs(1))
        self.norm.mean[...] = jnp.array([0.2])
        self.switch = switch

    def __call__(self, x, **switches):
        x = self.norm(x, use_running_average=not switches.get(self.switch, True))
        return self.dense(x.reshape(x.shape[0], -1))


class Known(Switched):
    def __init__(self):
        super().__init__("is_train")

    def __call__(self, x, is_train=True):
        return super().__call__(x, is_train=is_train)


def test_a_known_switch_is_set():
    report = evaluate({"m": from_nnx(Known())}, {"fgs": fgs(0.1)}, DATA, **OPTIONS)
    passed = evaluate({"m": from_nnx(Switched("fitting"), fitting=False)}, {"fgs": fgs(0.1)}, DATA, **OPTIONS)
    for one, other in zip(report.cells, passed.cells, strict=True):
        np.testing.assert_array_equal(one.correct, other.correct)
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)


def probabilities(weights, images):
    return jax.nn.softmax(linear(weights, images))


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (from_nnx(Switched("fitting")), "beside other images.*BatchNorm in training mode"),
        (from_function(probabilities, linear_weights(0, 16, 3)), "seems to return probabilities"),
    ],
    ids=["training mode", "probabilities"],
)
def test_faults_of_a_model_are_said_once(classifier, message, tmp_path):
    """Not for each of three batches, two attacks and two restarts; and again when the batches come from disk."""

    def told(name, run):
        with pytest.warns(UserWarning, match=rf"^{re.escape(name)}: the classifier .*{message}") as warnings:
            run()
        assert len(warnings) == 1
        assert warnings[0].filename == __file__

    models, attacks = {"sound": MODEL, "m": classifier}, {"fgs": fgs(0.1), "pgd": pgd(0.1, step_size=0.1, steps=1)}
    for _ in range(2):
        told("models['m']", lambda: evaluate(models, attacks, DATA, restarts=2, folder=tmp_path, **OPTIONS))
    told("classifier", lambda: sweep(classifier, fgs, [0.1, 0.2], DATA, **OPTIONS))
    told("classifier", lambda: minimal_epsilon(classifier, fgs, DATA, maximum=0.1, steps=2, **OPTIONS))


def test_images_with_gradients_that_are_not_finite_are_counted():
    def model(weights, images):
        return linear(weights, images) + jnp.sqrt(images[:, 0, 0])

    images = np.maximum(IMAGES, np.float32(1 / 255))
    images[:3, 0, 0] = 0
    attacks = {"fgs": fgs(0.1), "square": square(0.1, queries=2)}
    report = evaluate({"m": from_function(model, linear_weights(0, 16, 3))}, attacks, (images, LABELS), **OPTIONS)
    np.testing.assert_array_equal(report.cell("m", "fgs").non_finite, np.arange(12) < 3)
    assert report.cell("m", "square").non_finite_share == 0  # it takes none
    assert report.cell("m", "clean").non_finite is None
    row = next(line for line in report.to_markdown().splitlines() if line.startswith("| m | fgs |"))
    assert "| 25.00 |" in row


def test_an_error_names_the_attack_that_it_came_up_with():
    message = "the difference-of-logits ratio needs 4 classes or more, got 3"
    attacks = {"fgs": fgs(0.1), "apgd": apgd(0.1, steps=2, objective="dlr-targeted")}
    with pytest.raises(ValueError, match=rf"attacks\['apgd'\] on models\['m'\]: {message}"):
        evaluate({"m": MODEL}, attacks, DATA, **OPTIONS)

    def make_attack(epsilon):
        return apgd(epsilon, steps=2, objective="dlr-targeted")

    with pytest.raises(ValueError, match=f"make_attack: {message}"):
        sweep(MODEL, make_attack, [0.1], DATA, **OPTIONS)
    with pytest.raises(ValueError, match=f"make_attack: {message}"):
        minimal_epsilon(MODEL, make_attack, DATA, maximum=0.1, **OPTIONS)


def test_an_error_of_the_model_names_the_check():
    def moody(weights, images):
        if images.shape[0] == 1 and isinstance(weights, jax.core.Tracer):
            raise ValueError("no single images")
        return linear(linear_weights(0, 16, 3), images) + weights

    with pytest.raises(ValueError, match=r"the check's attack 'fgs': .*no single images"):
        health_check(from_function(moody, jnp.zeros(())), DATA, epsilon=0.1, **OPTIONS)


def test_other_errors_keep_their_kind():
    with pytest.raises(ZeroDivisionError) as caught, naming("attacks['a']"):
        raise ZeroDivisionError("by zero")
    assert caught.value.__notes__ == ["This happened with attacks['a']."]
    with pytest.raises(TypeError, match="part: wrong"), naming("part"):
        raise TypeError("wrong")


def masked(weights, images):
    return linear(weights, images - 0.5) + weights["change"][None]


@pytest.mark.parametrize("change", [[0, 0, -1e6], [0, 0, -1e9], [0, 0, -np.inf], [1e5] * 3])
def test_masked_classes_and_offsets_hide_no_success(change):
    """Of two classes beside a third that is masked out; or all of them lifted."""
    weights = jax.tree.map(lambda w: 0.1 * w, linear_weights(0, 16, 3)) | {"change": jnp.float32(change)}
    classifier = from_function(masked, weights)
    logits = np.asarray(classifier(jnp.asarray(IMAGES)))
    labels = logits.argmax(-1).astype(np.int32)
    report = evaluate({"m": classifier}, {"boundary": fgs(), "fgs": fgs(0.5)}, (IMAGES, labels), **OPTIONS)
    assert report.cell("m", "fgs").success_rate == 1
    assert report.cell("m", "boundary").success_rate == 1
    found = minimal_epsilon(classifier, fgs, (IMAGES, labels), maximum=0.5, steps=8, **OPTIONS)
    assert np.isfinite(found.epsilon).all()
    if change[0] == 0:
        # The distance to where the two classes meet; pixels that are clipped, and gray levels, make it longer.
        exact = np.abs(logits[:, 0] - logits[:, 1]) / np.abs(weights["w"][:, 0] - weights["w"][:, 1]).sum()
        assert (found.epsilon >= exact - 1e-4).all()
        assert (found.epsilon <= 1.5 * exact + 2 / 255).all()
