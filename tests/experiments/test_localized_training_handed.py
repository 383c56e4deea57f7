"""What the experiment hands to training and to the evaluation: each model its own attack, on the right images."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.states import key_of

from advjax.attacks import apgd, localized_pgd, perturb, square
from advjax.attacks.regions import Background, Broad, Exact, Standard
from advjax.classifier import from_function
from advjax.data import Dataset
from experiments.localized_training import judge, run, train
from experiments.localized_training.config import ADVERSARIAL, MODELS, PRESETS, STRONG, Config, attack
from tests.experiments.spies import fake_perturbation, spy_on_training

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
    neighbours=4,
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


@pytest.mark.parametrize("name", MODELS)
def test_each_model_learns_from_its_own_attack_alone(name, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "_fresh", lambda config: None)
    monkeypatch.setattr(train, "stack", lambda states: states)
    spy = spy_on_training(monkeypatch, train).of(train.train_model, CONFIG, name, TRAIN, tmp_path)
    expected = None
    if name != "natural":
        expected = localized_pgd(REGIONS[name], 0.3, step_size=0.05, steps=7, localize="after", levels=None)
    assert spy.step["attack"] == expected
    assert spy.step.get("clean_weight", 0.0) == 0.0  # all images of a batch are replaced
    assert spy.trainer == {"step": "step", "batch_size": 4, "block": 2}
    # TensorFlow's reader holds back the first images.
    np.testing.assert_array_equal(spy.data.images, TRAIN.images[3:])
    np.testing.assert_array_equal(spy.data.labels, TRAIN.labels[3:])
    assert spy.data.shuffle
    assert spy.data.members is None
    assert spy.steps == (6 if name == "natural" else 4)
    assert spy.key == key_of(5, "order")
    assert spy.options.get("validation") is None


def test_the_attacks_of_the_presets_are_the_papers():
    for name, region in [("standard", Standard()), ("background", Background(6)), ("exact", Exact(0.0)),
                         ("broad", Broad(0.0, 8))]:  # fmt: skip
        paper = localized_pgd(region, 0.3, step_size=0.01, steps=100, localize="after", levels=None)
        assert attack(PRESETS["paper"], name) == attack(PRESETS["paper"], name, training=True) == paper
    inside = dataclasses.replace(PRESETS["paper"], localize="inside")
    assert attack(inside, "broad") == localized_pgd(Broad(), 0.3, step_size=0.01, steps=100, localize="inside",
                                                    levels=None)  # fmt: skip


def test_each_model_is_judged_under_all_four_attacks_on_the_first_images(monkeypatch):
    asked = {}

    def spy(models, attacks, data, *, key, batch_size, progress):
        asked.update(models=models, attacks=attacks, data=data, key=key, batch_size=batch_size)
        losses = {name: np.full(len(data[1]), number + 1.0) for number, name in enumerate(attacks)}
        cells = {name: types.SimpleNamespace(loss=loss, correct=loss > 2) for name, loss in losses.items()}
        return types.SimpleNamespace(cell=lambda model, name: cells[name])

    monkeypatch.setattr(judge, "evaluate", spy)
    monkeypatch.setattr(judge, "logits_of", lambda classifier, images, batch: np.eye(10, dtype=np.float32)[TEST.labels])
    found = judge.judge(CONFIG, "network", TEST)
    assert list(asked["models"].values()) == ["network"]
    assert asked["attacks"] == {
        name: localized_pgd(region, 0.3, step_size=0.04, steps=9, localize="after", levels=None)
        for name, region in REGIONS.items()
    }
    np.testing.assert_array_equal(asked["data"][0], TEST.images[:5])
    np.testing.assert_array_equal(asked["data"][1], TEST.labels[:5])
    assert asked["key"] == key_of(5, "attack")
    # Each loss is that of its own attack; the natural ones are of all test images.
    assert {name: found[f"loss_{name}"].tolist() for name in ADVERSARIAL} == {
        name: [number + 1.0] * 5 for number, name in enumerate(ADVERSARIAL)
    }
    assert found["right_natural"].all()
    np.testing.assert_allclose(found["loss_natural"], np.full(12, np.log(np.e + 9) - 1), rtol=1e-5)


def test_apgd_and_square_have_the_radius_of_pgd(monkeypatch):
    asked = {}

    def spy(models, attacks, data, **options):
        asked.update(attacks=attacks, count=len(data[1]))
        return types.SimpleNamespace(cell=lambda model, name: types.SimpleNamespace(correct=np.ones(4, bool)))

    monkeypatch.setattr(judge, "evaluate", spy)
    assert list(judge.judge_strongly(CONFIG, "network", TEST)) == ["clean", *STRONG]
    assert asked["count"] == 4
    assert asked["attacks"] == {
        "pgd": localized_pgd(Standard(), 0.3, step_size=0.04, steps=9, localize="after", levels=None),
        "apgd-ce": apgd(0.3, steps=8, levels=None),
        "apgd-dlr": apgd(0.3, steps=8, objective="dlr-targeted", levels=None),
        "square": square(0.3, queries=11, levels=None),
    }


def test_every_model_is_judged_by_itself_and_the_figure_shows_the_natural_one(monkeypatch, tmp_path):
    judged, shown = [], []

    def kept(calls):
        def call(config, classifier, test):
            calls.append((classifier, test is TEST))
            return {}

        return call

    def trained(config, model, data, folder):
        return {"of": np.array(f"{model} {data is TRAIN}")}

    monkeypatch.setattr(run, "load", lambda name, split, data_dir: {"train": TRAIN, "test": TEST}[split])
    monkeypatch.setattr(run, "train_model", trained)
    monkeypatch.setattr(run, "classifier_of", lambda config, arrays: str(arrays["of"]))
    monkeypatch.setattr(run, "examples", kept(shown))
    monkeypatch.setattr(run, "judge", kept(judged))
    monkeypatch.setattr(run, "judge_strongly", lambda config, classifier, test: {})
    monkeypatch.setattr(run, "report", lambda config, store, train, test: store.seconds())
    stages = run.run(dataclasses.replace(CONFIG, strong_models=("broad",)), tmp_path / "out")
    assert judged == [(f"{model} True", True) for model in MODELS]
    assert shown == [("natural True", True)]
    assert {name for name in stages if name.startswith("strong")} == {"strong/broad"}


def test_the_figures_examples_are_one_digit_of_each_class_under_its_own_attack(monkeypatch):
    attacks = []

    def spy(own, classifier, images, labels, key):
        attacks.append(own)
        return fake_perturbation(images, labels)

    monkeypatch.setattr(judge, "perturb", spy)
    found = judge.examples(CONFIG, "network", TEST)
    assert attacks == [attack(CONFIG, name) for name in ADVERSARIAL]
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
        made(attack(dataclasses.replace(CONFIG, localize=how, threshold=0.0, neighbours=8), name))
        for name, how in [("standard", "after"), ("broad", "after"), ("broad", "inside")]
    )
    allowed = np.stack([Broad()(image) for image in images])
    assert 0.2 < allowed.mean() < 0.8
    np.testing.assert_array_equal(after, np.where(allowed, standard, images))
    assert (inside != after).mean() > 0.02
