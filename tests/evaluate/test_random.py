"""Random models: judged at fresh draws, none of which the attack has seen; said once."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, from_function, perturb
from advjax.evaluate import Report, evaluate, minimal_epsilon, sweep
from tests.models_for_tests import grid_images, linear, linear_weights

WEIGHTS = linear_weights(0, 16, 3)
IMAGES = grid_images(3, (60, 4, 4, 1))
ONE = jax.devices()[:1]
OPTIONS = {"key": jax.random.key(0), "batch_size": 32, "devices": ONE}
FROZEN = from_function(linear, WEIGHTS)


def noisy(variables, images):
    """A linear classifier of images with noise on them."""
    noise = jax.random.normal(variables["key"], images.shape)
    return linear(variables["weights"], images + variables["scale"] * noise)


def model(scale, seed=0):
    return from_function(noisy, {"key": jax.random.key(seed), "scale": jnp.float32(scale), "weights": WEIGHTS})


LABELS = np.array(FROZEN(jnp.asarray(IMAGES)).argmax(-1), np.int32)
DATA = IMAGES, LABELS


def run(models, attacks, **options):
    with pytest.warns(UserWarning, match="draws random numbers") as told:
        report = evaluate(models, attacks, DATA, **{**OPTIONS, **options})
    assert len(told) == 1
    return report


def test_successes_on_the_frozen_draw_do_not_all_hold():
    """A boundary attack stops just beyond the boundary, of this draw."""
    classifier = model(0.2)
    with pytest.warns(UserWarning, match="one fixed draw"):
        result = perturb(fgs(), classifier, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    attacked = np.asarray(result.clean_prediction) == LABELS
    assert np.asarray(result.success)[attacked].all()
    cell = run({"noisy": classifier}, {"boundary": fgs()}).cell("noisy", "boundary")
    assert 0.2 < cell.success_rate < 0.8
    assert cell.accuracy.value > 0.2
    assert "one draw" in Report((cell,)).to_markdown()


def test_an_answer_is_that_of_most_draws():
    classifier, draws = model(0.2), 5
    report = run({"noisy": classifier}, {"fgs": fgs(0.05)}, draws=draws)
    key = jax.random.fold_in(OPTIONS["key"], np.uint32(2**32 - 1))
    with pytest.warns(UserWarning, match="one fixed draw"):
        attacked = perturb(fgs(0.05), classifier, jnp.asarray(IMAGES), jnp.asarray(LABELS)).image

    @jax.jit
    @jax.vmap
    def logits_of(image, row):
        own = jax.random.fold_in(key, row)
        return jnp.stack([classifier.reseeded(jax.random.fold_in(own, draw))(image[None])[0] for draw in range(draws)])

    for name, images in (("clean", jnp.asarray(IMAGES)), ("fgs", attacked)):
        cell, logits = report.cell("noisy", name), np.asarray(logits_of(images, jnp.arange(60)), np.float64)
        share = (logits.argmax(-1) == LABELS[:, None]).mean(1)
        assert ((share > 0) & (share < 1)).any()
        np.testing.assert_allclose(cell.share, share, atol=1e-6)
        np.testing.assert_array_equal(cell.correct, share > 0.5)
        losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, LABELS[:, None, None], -1)[..., 0]
        np.testing.assert_allclose(cell.loss, losses.mean(1), rtol=1e-4, atol=1e-5)
        votes = np.stack([(logits.argmax(-1) == k).sum(1) for k in range(3)], -1)
        np.testing.assert_array_equal(cell.prediction, votes.argmax(-1))
        np.testing.assert_allclose(cell.mean_share, share.mean(), rtol=1e-6)
    fgs_cell, clean = report.cell("noisy", "fgs"), report.cell("noisy", "clean")
    np.testing.assert_array_equal(fgs_cell.success, clean.correct & ~fgs_cell.correct)


def test_draws_depend_on_the_image_alone():
    models, attacks = {"noisy": model(0.2), "still": FROZEN}, {"fgs": fgs(0.05)}
    report = run(models, attacks, transfer=True)
    other = run(models, attacks, transfer=True, batch_size=7, devices=jax.devices()[:2])
    for one, again in zip(report.cells, other.cells, strict=True):
        np.testing.assert_array_equal(one.correct, again.correct)
        np.testing.assert_array_equal(one.share, again.share)
    # The seed of the model's own key is of no account to who answers, only to the attack.
    same = run({"noisy": model(0.2, seed=7)}, attacks)
    np.testing.assert_array_equal(same.cell("noisy", "clean").share, report.cell("noisy", "clean").share)
    assert report.cell("still", "clean").share is None
    assert report.cell("still", "fgs", "noisy").share is None
    assert report.cell("noisy", "fgs", "still").share is not None


def test_new_keys_and_weights_compile_nothing(jit_compilations):
    run({"m": model(0.1)}, {"fgs": fgs(0.05)})
    before = jit_compilations()
    run({"m": model(0.3, seed=1)}, {"fgs": fgs(0.1)})
    assert jit_compilations() == before


def test_without_noise_it_is_the_model_itself():
    noisy_cell = run({"m": model(0.0)}, {"fgs": fgs(0.05)}).cell("m", "fgs")
    cell = evaluate({"m": FROZEN}, {"fgs": fgs(0.05)}, DATA, **OPTIONS).cell("m", "fgs")
    np.testing.assert_array_equal(noisy_cell.correct, cell.correct)
    np.testing.assert_array_equal(noisy_cell.share, cell.correct)
    np.testing.assert_array_equal(noisy_cell.failure, cell.failure)


def test_sweeps_and_minimal_epsilons_say_so_once():
    with pytest.warns(UserWarning, match="most of 10 fresh draws") as told:
        found = sweep(model(0.2), fgs, [0.0, 0.1], DATA, **OPTIONS)
    assert len(told) == 1
    np.testing.assert_array_equal(found.report.cells[0].correct, found.report.cells[1].correct)
    with pytest.warns(
        UserWarning, match="classifier: the model draws random numbers.* answers are those of this draw"
    ) as told:
        minimal_epsilon(model(0.2), fgs, DATA, maximum=0.3, steps=3, **OPTIONS)
    assert len(told) == 1


@pytest.mark.parametrize("draws", [0, 2.0, True])
def test_bad_draws(draws):
    with warnings.catch_warnings(), pytest.raises(ValueError, match="draws must be an integer of 1 or more"):
        evaluate({"m": FROZEN}, {"fgs": fgs(0.1)}, DATA, draws=draws, **OPTIONS)
