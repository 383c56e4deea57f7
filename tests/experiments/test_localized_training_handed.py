"""What the experiment hands to training and to the evaluation: each model its own attack, on the right images."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import apgd, localized_pgd, perturb, square
from advjax.attacks.regions import Background, Broad, Exact, Standard
from advjax.classifier import from_function
from advjax.data import Dataset
from experiments.localized_training import run
from experiments.localized_training.run import (
    ADVERSARIAL,
    MODELS,
    PRESETS,
    STRONG,
    Config,
    attacks,
    regions,
    stages,
    strong_attacks,
)
from experiments.networks import key_of
from tests.experiments.spies import MemoryStore, fake_perturbation, spy_on_training

REGIONS = {"standard": Standard(), "background": Background(), "exact": Exact(0.25), "broad": Broad(0.25, 4)}
CONFIG = Config(
    preset="handed",
    seed=5,
    held_back=3,
    batch_size=4,
    epsilon=0.3,
    natural_steps=6,
    adversarial_steps=4,
    train_attack_steps=7,
    train_step_size=0.05,
    attack_steps=9,
    step_size=0.04,
    threshold=0.25,
    neighbors=4,
    test_images=5,
    strong_images=4,
    apgd_steps=8,
    square_queries=11,
    attack_batch=3,
    block=2,
    checkpoint_every=2,
)


def digits(count):
    pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    return Dataset("mnist", "train", pixels, np.arange(count, dtype=np.int32) % 10, 10)


TRAIN, TEST = digits(11), digits(12)


def attack(config, name, **options):
    return attacks(config, **options)[name]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_learns_from_its_own_attack_alone(name, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "network", lambda seed: f"weights of seed {seed}")
    spy = spy_on_training(monkeypatch, run)
    spy.of(run.training_stage(CONFIG, name, TRAIN, MemoryStore(root=tmp_path)).compute)
    expected = None
    if name != "natural":
        expected = localized_pgd(REGIONS[name], 0.3, step_size=0.05, steps=7, localize="after", levels=None)
    assert spy.step["attack"] == expected
    assert spy.step.get("clean_weight", 0.0) == 0.0  # all images of a batch are replaced
    assert spy.trainer == {"step": "step", "batch_size": 4, "block": 2}
    assert spy.states == "weights of seed 5"  # all five begin with the same
    assert spy.data.images is TRAIN.images
    assert spy.data.labels is TRAIN.labels
    assert spy.data.shuffle
    assert spy.data.members is None
    assert spy.steps == (6 if name == "natural" else 4)
    assert spy.key == key_of(5, "order")
    assert spy.options["folder"] == tmp_path / name
    assert spy.options["every"] == 2
    assert spy.options.get("validation") is None


def test_the_images_that_tensorflows_reader_holds_back_are_the_first(monkeypatch):
    monkeypatch.setattr(run, "load_both", lambda name, data_dir: (TRAIN, TEST, "read"))
    learned, asked = run.load(CONFIG, None).data
    np.testing.assert_array_equal(learned.images, TRAIN.images[3:])
    np.testing.assert_array_equal(learned.labels, TRAIN.labels[3:])
    assert asked is TEST


def test_the_solver_takes_the_sum_over_the_batch(monkeypatch, tmp_path):
    """Adam divides by the root of the mean square: a sum of 50 is seen in its epsilon alone."""
    solvers = []
    monkeypatch.setattr(run, "train_step", lambda optimizer, attack: solvers.append(optimizer))
    monkeypatch.setattr(run, "Trainer", lambda *args, **options: None)
    run.training_stage(dataclasses.replace(CONFIG, learning_rate=0.5), "natural", TRAIN, MemoryStore())
    gradient = jnp.float32(1e-8)
    with jax.numpy_dtype_promotion("standard"):  # as `train_step` calls it
        update, _ = solvers[0].update(gradient, solvers[0].init(gradient))
    np.testing.assert_allclose(update, -0.5 * 4e-8 / (4e-8 + 1e-8), rtol=1e-5)


def test_the_attacks_of_the_presets_are_the_papers():
    for name, region in [("standard", Standard()), ("background", Background(6)), ("exact", Exact(0.0)),
                         ("broad", Broad(0.0, 8))]:  # fmt: skip
        paper = localized_pgd(region, 0.3, step_size=0.01, steps=100, localize="after", levels=None)
        assert attack(PRESETS["paper"], name) == attack(PRESETS["paper"], name, training=True) == paper
    inside = dataclasses.replace(PRESETS["paper"], localize="inside")
    assert attack(inside, "broad") == localized_pgd(Broad(), 0.3, step_size=0.01, steps=100, localize="inside",
                                                    levels=None)  # fmt: skip


def test_each_model_is_judged_under_all_attacks_on_the_first_images(monkeypatch):
    asked = {}

    def spy(models, attacks, data, *, key, batch_size, progress):
        asked.update(models=models, attacks=attacks, data=data, key=key, batch_size=batch_size)
        losses = {name: np.full(len(data[1]), number + 1.0) for number, name in enumerate(attacks)}
        cells = {name: types.SimpleNamespace(loss=loss, correct=loss > 2) for name, loss in losses.items()}
        return types.SimpleNamespace(cell=lambda model, name: cells[name])

    logits = np.eye(10, dtype=np.float32)[TEST.labels]
    logits[10] = np.nan  # no answer, though `argmax` says 0, its label
    monkeypatch.setattr(run, "evaluate", spy)
    monkeypatch.setattr(run, "logits_of", lambda classifier, images, batch: logits)
    own = attacks(CONFIG)
    found = run.judge(own, "network", TEST, 5, "key", 3)
    assert list(asked["models"].values()) == ["network"]
    assert (asked["attacks"], asked["key"], asked["batch_size"]) == (own, "key", 3)
    np.testing.assert_array_equal(asked["data"][0], TEST.images[:5])
    np.testing.assert_array_equal(asked["data"][1], TEST.labels[:5])
    # Each loss is that of its own attack; the natural ones are of all test images.
    for number, name in enumerate(ADVERSARIAL):
        assert found[f"loss_{name}"].tolist() == [number + 1.0] * 5
        assert found[f"right_{name}"].tolist() == [number > 1] * 5
    assert np.flatnonzero(~found["right_natural"]).tolist() == [10]
    np.testing.assert_allclose(np.delete(found["loss_natural"], 10), np.full(11, np.log(np.e + 9) - 1), rtol=1e-5)


def test_the_evaluation_has_its_own_steps_and_apgd_and_square_the_radius_of_pgd():
    four = {
        name: localized_pgd(region, 0.3, step_size=0.04, steps=9, localize="after", levels=None)
        for name, region in REGIONS.items()
    }
    assert attacks(CONFIG) == four
    assert strong_attacks(CONFIG) == {
        "pgd": four["standard"],
        "apgd-ce": apgd(0.3, steps=8, levels=None),
        "apgd-dlr": apgd(0.3, steps=8, objective="dlr-targeted", levels=None),
        "square": square(0.3, queries=11, levels=None),
    }
    assert tuple(strong_attacks(CONFIG)) == STRONG


def test_every_model_is_judged_by_itself_and_the_figure_shows_the_natural_one(monkeypatch):
    judged, shown = [], []

    def kept(calls):
        return lambda *args: calls.append(args) or {}

    monkeypatch.setattr(run, "train", lambda *args, **options: {"of": np.array(args[5].name)})
    monkeypatch.setattr(run, "network", lambda seed: f"seed {seed}")
    monkeypatch.setattr(run, "classifier_of", lambda model, arrays: f"{model}, {arrays['of']}")
    monkeypatch.setattr(run, "examples", kept(shown))
    monkeypatch.setattr(run, "judge", kept(judged))
    config, store = dataclasses.replace(CONFIG, strong_models=("broad",)), MemoryStore()
    for name, compute in stages(config, (TRAIN, TEST), store):
        store.ensure(name, compute)
    expected = [(attacks(config), f"seed 5, {model}", TEST, 5, key_of(5, "attack"), 3) for model in MODELS]
    assert judged == [*expected, (strong_attacks(config), "seed 5, broad", TEST, 4, key_of(5, "strong"), 3)]
    assert shown == [(regions(config), attacks(config), "seed 5, natural", TEST, key_of(5, "examples"))]
    assert [name for name in store.stages if name.startswith("strong")] == ["strong/broad"]
    assert run.classifiers(config, (TRAIN, TEST), store.read) == {model: f"seed 5, {model}" for model in MODELS}


def test_the_figures_examples_are_one_digit_of_each_class_under_its_own_attack(monkeypatch):
    made = []

    def spy(own, classifier, images, labels, key):
        made.append(own)
        return fake_perturbation(images, labels)

    monkeypatch.setattr(run, "perturb", spy)
    found = run.examples(regions(CONFIG), attacks(CONFIG), "network", TEST, "key")
    assert made == [attack(CONFIG, name) for name in ADVERSARIAL]
    np.testing.assert_array_equal(TEST.labels[found["source"]], np.arange(10))
    for own, region in zip(found["region"], REGIONS.values(), strict=True):
        np.testing.assert_array_equal(own[0], region(jnp.asarray(TEST.images[0] / np.float32(255))))


def curved(weights, images):
    """Logits whose gradient turns along the way: with straight ones "after" and "inside" are the same."""
    hidden = jnp.sin(3.0 * images.reshape(images.shape[0], -1) @ weights[:, :6])
    return hidden @ weights[:6, :5]


def test_after_is_the_standard_attack_cut_to_the_region():
    """Algorithm 1: PGD everywhere, then the clip. "Inside" is another attack: its gradient sees what is cut away."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0.1, 0.9, (9, 8, 8, 1)) * (rng.uniform(size=(9, 8, 8, 1)) < 0.1)
    images = jnp.asarray(pixels, jnp.float32)
    classifier = from_function(curved, jnp.asarray(rng.normal(size=(64, 12)), jnp.float32))
    labels = classifier(images).argmax(-1)

    def made(own):
        return np.asarray(perturb(own, classifier, images, labels, jax.random.key(3)).image)

    standard, after, inside = (
        made(attack(dataclasses.replace(CONFIG, localize=how, threshold=0.0, neighbors=8), name))
        for name, how in [("standard", "after"), ("broad", "after"), ("broad", "inside")]
    )
    allowed = np.stack([Broad()(image) for image in images])
    assert 0.2 < allowed.mean() < 0.8
    np.testing.assert_array_equal(after, np.where(allowed, standard, images))
    assert (inside != after).mean() > 0.02
