"""Parts of the experiment: configurations, attacks and their regions, tables, orderings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from advjax.attacks import perturb
from advjax.classifier import from_function
from advjax.data import load, to_float
from experiments.localized_training.config import ADVERSARIAL, INPUTS, MODELS, PRESETS, STRONG, Config, attack, region
from experiments.localized_training.judge import judge_strongly
from experiments.localized_training.paper import LOSSES
from experiments.localized_training.table import (
    accuracy_table,
    loss_table,
    losses_of,
    orderings,
    schedule,
    strong_table,
    worst,
)

TINY = Config(preset="tiny", data="digits", held_back=0, attack_steps=3, step_size=0.2)
PAPER = np.array([LOSSES[model] for model in MODELS]) / [1000, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def digits():
    data = load("digits", "test[:6]")
    return jnp.asarray(to_float(data.images)), jnp.asarray(data.labels)


def expected_regions(image, neighbours):
    digit = image[..., 0] > 0
    middle = np.zeros((28, 28), bool)
    middle[11:17, 11:17] = True
    shape = np.ones((3, 3)) if neighbours == 8 else ndimage.generate_binary_structure(2, 1)
    broad = ~ndimage.binary_dilation(digit, shape)
    return {"standard": np.ones((28, 28), bool), "background": ~middle, "exact": ~digit, "broad": broad}


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_regions_are_the_papers(name, neighbours, digits):
    config = dataclasses.replace(TINY, neighbours=neighbours)
    for image in np.asarray(digits[0]):
        found = region(config, name)(jnp.asarray(image))[..., 0]
        np.testing.assert_array_equal(found, expected_regions(image, neighbours)[name])


@pytest.mark.parametrize(("name", "localize"), [*((name, "after") for name in ADVERSARIAL), ("broad", "inside")])
def test_attacks_change_their_region_alone_by_at_most_epsilon(name, localize, digits):
    images, labels = digits
    weights = jax.random.normal(jax.random.key(0), (784, 10))
    classifier = from_function(lambda w, x: x.reshape(x.shape[0], -1) @ w, weights)
    config = dataclasses.replace(TINY, localize=localize)
    result = perturb(attack(config, name), classifier, images, labels, jax.random.key(1))
    change = np.asarray(result.image - images)[..., 0]
    for own, image in zip(change, np.asarray(images), strict=True):
        allowed = expected_regions(image, 8)[name]
        assert not own[~allowed].any()
        assert np.abs(own[allowed]).max() <= 0.3 + 1e-6
        assert own[allowed].any()


@pytest.mark.slow  # what they are given is in test_localized_training_handed.py
def test_apgd_and_square_are_run_beside_pgd():
    weights = jax.random.normal(jax.random.key(0), (784, 10))
    classifier = from_function(lambda w, x: x.reshape(x.shape[0], -1) @ w, weights)
    test = load("digits", "test[:12]")
    labels = np.asarray(classifier(to_float(test.images)).argmax(-1), np.int32)
    config = dataclasses.replace(TINY, strong_images=8, apgd_steps=3, square_queries=5, attack_batch=8)
    found = judge_strongly(config, classifier, dataclasses.replace(test, labels=labels))
    assert list(found) == ["clean", *STRONG]
    assert found["clean"].all()
    assert all(right.shape == (8,) for right in found.values())
    assert not found["apgd-dlr"].any()
    assert not worst(found).any()


def test_training_attacks_have_their_own_schedule():
    config = PRESETS["paper"]
    assert attack(config, "exact") == attack(config, "exact", training=True)
    short = dataclasses.replace(config, train_attack_steps=7)
    assert attack(short, "exact") != attack(short, "exact", training=True)


def test_the_paper_preset_is_the_papers():
    config = PRESETS["paper"]
    assert [config.steps(model) for model in MODELS] == [100_000] * 5
    assert (config.attack_steps, config.train_attack_steps, config.epsilon) == (100, 100, 0.3)
    assert (config.localize, config.neighbours, config.test_images, config.held_back) == ("after", 8, 10_000, 5_000)


def results_of(losses, images=10):
    return {
        model: {
            **{f"loss_{name}": np.full(images, loss) for name, loss in zip(INPUTS, row, strict=True)},
            **{f"right_{name}": np.arange(images) < 5 for name in INPUTS},
        }
        for model, row in zip(MODELS, losses, strict=True)
    }


def test_the_papers_own_figures_have_the_papers_orderings():
    lines = orderings(PAPER)
    assert all(line.startswith("Holds: ") for line in lines)
    assert "68.19 > 61.8 > 40.19 > 25.24" in lines[0]


def test_orderings_that_fail_are_said():
    swapped = PAPER.copy()
    swapped[0, [1, 4]] = swapped[0, [4, 1]]
    swapped[1:, 1] = 50
    lines = orderings(swapped)
    assert lines[0].startswith("Does not hold: natural model: standard > background > exact > broad attack (25.24 >")
    assert lines[1].startswith("Does not hold")
    assert lines[5].startswith("Does not hold")


def test_losses_and_accuracies_are_means(digits):
    results = results_of(PAPER)
    np.testing.assert_allclose(losses_of(results), PAPER)
    assert "| background | 39.6 (39.6) | 0.5466 (0.5466) | 0.2272 (0.2272) |" in loss_table(results)
    assert "| exact | 50.00 | 50.00 | 50.00 | 50.00 | 50.00 |" in accuracy_table(results)


def test_strong_table_takes_the_worst_of_apgd_and_square():
    names = ("clean", "pgd", "apgd-ce", "apgd-dlr", "square")
    found = {name: np.arange(8) != index for index, name in enumerate(names)}
    assert worst(found).sum() == 4
    assert strong_table({"standard": found}).splitlines()[-1] == (
        "| standard | 8 | 87.5 | 87.5 | 87.5 | 87.5 | 87.5 | 50.0 |"
    )


def test_schedules_stand_side_by_side():
    text = schedule(PRESETS["cpu"], 55_000)
    assert "| natural model | 100,000 steps of 50 | 6,000 steps of 50 |" in text
    assert "MNIST, 55,000 training images |" in text
    assert "digits" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "cifar10"}, "data must be one of"),
        ({"localize": "before"}, "localize must be one of"),
        ({"neighbours": 6}, "neighbours must be one of"),
        ({"strong_models": ("robust",)}, "strong_models must be among"),
        ({"epsilon": 0.0}, r"epsilon must be in \(0, 1\]"),
        ({"natural_steps": 0}, "natural_steps must be at least 1"),
        ({"held_back": -1}, "held_back must be at least 0"),
        ({"checkpoint_every": 300}, "checkpoint_every must be a multiple of block=250"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)
