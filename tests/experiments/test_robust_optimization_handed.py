"""What the experiment hands to training and to attacks: radii, units, input normalization, mode, data, schedule."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import pgd, steepest
from advjax.classifier import from_function
from advjax.data import Standardized
from advjax.training import create, to_model, weights_of
from advjax.training.optimizers import torch_rate
from experiments.networks import key_of
from experiments.robust_optimization import run, study
from experiments.robust_optimization.run import PRESETS, Config, adversarial_set, calibrated, judge, stages
from tests.experiments.spies import MemoryStore, fake_perturbation, spy_on_training

RADII = {"l1": 2.0, "l2": 1.5, "linf": 0.2}
CONFIG = Config("handed", radii=tuple(RADII.values()), epochs=3, batch_size=4, seed=5, attack_batch=3)


def images_of(mean, std, count=10):
    pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 1)).astype(np.uint8)
    labels = np.arange(count, dtype=np.int32) % 10
    return Standardized(pixels, labels, np.full(1, mean, np.float32), np.float32(std))


TRAIN, TEST = images_of(0.1, 0.275), images_of(0.11, 0.3, 7)


@pytest.fixture
def training(monkeypatch):
    return spy_on_training(monkeypatch, run)


def trained(name, folder):
    radii = {} if name == "baseline" else RADII
    return run.training_stage(CONFIG, name, radii, (TRAIN, TEST), MemoryStore(root=folder)).compute


@pytest.mark.parametrize("name", ["baseline", *RADII])
def test_each_network_learns_from_its_own_attack_at_its_radius_in_standardized_units(name, training, tmp_path):
    spy = training.of(trained(name, tmp_path))
    # One standardized unit is the training set's deviation; nothing is clipped or rounded.
    expected = None if name == "baseline" else steepest(name, RADII[name] * TRAIN.std, levels=None, box=False)
    assert spy.step["attack"] == expected
    assert spy.step["attack_mode"] == "train"
    assert spy.step.get("clean_weight", 0.0) == 0.0  # never the clean images
    assert spy.trainer == {"step": "step", "batch_size": 4, "block": 2}
    assert spy.data.images is TRAIN.images
    assert spy.data.labels is TRAIN.labels
    assert spy.data.members is None
    assert not spy.data.shuffle
    assert spy.steps == 3 * 2
    assert spy.options["validation"] == (TEST.images, TEST.labels)
    assert spy.options.get("patience") is None


def test_robust_networks_normalize_their_input_and_the_baseline_does_not(training, tmp_path):
    found = {}
    for name in CONFIG.networks:
        model = training.of(trained(name, tmp_path)).states
        found[name] = model.input_norm is not None
        np.testing.assert_allclose([model.mean[...], model.std[...]], [25.5, 255 * 0.275], rtol=1e-5)
    assert found == {"baseline": False, "l1": True, "l2": True, "linf": True}


def test_all_networks_begin_with_the_same_weights_and_see_the_same_order(training, tmp_path):
    both = []
    for name in ("baseline", "linf"):
        spy = training.of(trained(name, tmp_path))
        model = spy.states
        both.append((np.asarray(model.conv1.kernel[...]), spy.key))
    np.testing.assert_array_equal(both[0][0], both[1][0])
    assert both[0][1] == both[1][1] == key_of(5, "mnist", "order")


def test_a_trained_network_is_judged_by_the_statistics_of_the_test_set():
    state = create(run.network(CONFIG, "linf", TRAIN), run.torch_sgd(0.1, 0.0, 0.0, 0.0))
    store = MemoryStore({"train/linf": weights_of(state)})
    classifier = run.classifiers(CONFIG, (TRAIN, TEST), store.read, ["linf"])["linf"]
    model = to_model(state)
    model.mean[...], model.std[...] = jnp.float32(255 * 0.11), jnp.float32(255 * 0.3)
    images = jnp.asarray(TEST.images[:2] / np.float32(255))
    np.testing.assert_allclose(classifier(images), model(images), rtol=1e-4, atol=1e-5)


def test_the_color_network_is_given_the_map_that_undoes_its_preprocessing(monkeypatch):
    given = {}
    monkeypatch.setattr(run, "VggCifar", lambda **options: given.update(options))
    pixels, labels = np.zeros((8, 32, 32, 3), np.float32), np.zeros(8, np.int32)
    run.network(
        PRESETS["paper-cifar10"], "linf", Standardized(pixels, labels, np.float32([0.1, 0.2, 0.3]), np.float32(0.25))
    )
    np.testing.assert_allclose([*given["mean"], *given["std"]], [0.1, 0.2, 0.3, 0.25, 0.25, 0.25], rtol=1e-6)


def test_the_set_and_pgd_use_the_units_of_the_test_set(monkeypatch):
    attacks = []

    def spy(attack, classifier, images, labels, *, batch_size, key=None):
        attacks.append((attack, key))
        return dataclasses.replace(fake_perturbation(images, labels), prediction=labels)

    monkeypatch.setattr(run, "perturb_all", spy)
    monkeypatch.setattr(run, "sign_ray", lambda *args: lambda epsilon: np.ones(7, bool))
    monkeypatch.setattr(run, "answers_of", lambda classifier, images, batch: np.zeros(len(images), np.int32))
    found = adversarial_set(RADII, "baseline", TEST, 3)
    assert [attack for attack, _ in attacks] == [
        steepest(norm, RADII[norm] * TEST.std, levels=None, box=False) for norm in RADII
    ]
    np.testing.assert_array_equal(found["norm"], np.repeat([0, 1, 2], 7))
    attacks.clear()
    key = key_of(5, "mnist", "pgd")
    judged = judge("baseline", TEST, found, (0.0,), RADII["linf"], 5, key, 3)
    assert judged["pgd"].tolist() == [True, *[False] * 4]  # the one answer of the stand-in, 0
    radius = 0.2 * TEST.std
    assert attacks == [(pgd(radius, step_size=radius / 8, steps=20, levels=None), key)]


@pytest.fixture
def no_computing(monkeypatch):
    """Every stage of the run replaced; networks are known by their names."""
    monkeypatch.setattr(run, "train", lambda *args, **options: {"name": np.array(args[5].name)})
    monkeypatch.setattr(run, "network", lambda config, name, statistics: name)
    monkeypatch.setattr(run, "restored_model", lambda name, arrays: (name, str(arrays["name"])))
    monkeypatch.setattr(run, "from_nnx", lambda model: model)
    monkeypatch.setattr(run, "adversarial_set", lambda radii, baseline, *rest: {"of": np.array(baseline[1])})
    monkeypatch.setattr(run, "judge", lambda *args: {})


def finish(config, store):
    for name, compute in stages(config, (TRAIN, TEST), store):
        store.ensure(name, compute)


def test_every_network_is_judged_by_itself_on_the_set_of_the_baseline(no_computing, monkeypatch):
    judged = []

    def keep(classifier, test, found, *rest):
        judged.append((*classifier, str(found["of"]), test is TEST))
        return {}

    monkeypatch.setattr(run, "judge", keep)
    finish(CONFIG, MemoryStore())
    assert judged == [(name, name, "baseline", True) for name in CONFIG.networks]


def test_the_radius_of_linf_is_calibrated_before_its_network_is_trained(no_computing, monkeypatch):
    trained = {}
    monkeypatch.setattr(run, "train_step", lambda optimizer, attack, attack_mode: attack)
    monkeypatch.setattr(run, "Trainer", lambda step, *rest: step)
    monkeypatch.setattr(run, "eq11", lambda norm, radius, images: (norm, radius))

    def keep(attack, *args, **options):
        trained[args[4].name] = attack
        return {"name": np.array(args[4].name)}

    def found_radius(radii, size, network, *rest):
        assert (radii, size) == (RADII, 9)
        return {"radius": np.array(0.07 if network == ("baseline", "baseline") else 9)}

    monkeypatch.setattr(run, "train", keep)
    monkeypatch.setattr(run, "calibrated", found_radius)
    config, store = dataclasses.replace(CONFIG, set_size=9), MemoryStore()
    finish(config, store)
    used = {"l1": 2.0, "l2": 1.5, "linf": 0.07}
    assert run.radii_of(config, store.read) == used
    assert trained == {"baseline": None, **{norm: (norm, radius) for norm, radius in used.items()}}


def by_sum(weights, images):
    """The lead of class 0: the sum of the pixels plus a number."""
    lead = images.sum((1, 2, 3)) + weights
    return jnp.stack([lead, jnp.zeros_like(lead)], -1)


def test_a_set_that_no_radius_reaches_is_refused():
    """Of these images a linf radius of 1 takes 4 pixels times 0.25: leads of 7 stay, leads of 0.5 go at 0.5."""
    white, labels = np.full((6, 2, 2, 1), 255, np.uint8), np.zeros(6, np.int32)
    test, radii = Standardized(white, labels, np.zeros(1, np.float32), np.float32(0.25)), {"l2": 0.1, "linf": 0.2}
    with pytest.raises(ValueError, match=r"set_size=4 cannot be reached beside 0 .*: at epsilon 1 0 images are wrong"):
        calibrated(radii, 4, from_function(by_sum, jnp.float32(3.0)), test, batch=6)
    near = calibrated(radii, 4, from_function(by_sum, jnp.float32(-3.5)), test, batch=6)
    assert near["radius"] == pytest.approx(0.5, abs=1e-4)


def test_a_network_of_nan_logits_is_right_about_nothing():
    """Its argmax would be 0, which is the label of all these images."""
    broken = from_function(lambda w, x: w + x.mean((1, 2, 3))[:, None] * jnp.float32(jnp.nan), jnp.zeros((1, 10)))
    test = Standardized(TEST.images[:4], np.zeros(4, np.int32), TEST.mean, TEST.std)
    found = {"image": np.zeros((2, 32, 32, 1), np.float32), "label": np.zeros(2, np.int32)}
    answers = judge(broken, test, found, (0.0,), 0.2, 4, key_of(0, "pgd"), 4)
    assert not any(answers[name].any() for name in ("test", "adversarial", "sweep", "pgd"))
    assert answers["sweep"].shape == (1, 4)


def test_the_rate_halves_at_the_start_of_the_25th_epoch_counted_from_1():
    """cifar.torch: `if epoch % epoch_step == 0 then learningRate = learningRate / 2`, at the start of an epoch."""
    steps, expected = 390, 1.0
    rate = torch_rate(1.0, 0.0, steps, PRESETS["paper-cifar10"].halve_every)
    for epoch in range(1, 301):
        if epoch % 25 == 0:
            expected /= 2
        if epoch % 25 in (0, 1, 24):
            ends = [float(rate(jnp.int32(steps * (epoch - 1) + offset))) for offset in (0, steps - 1)]
            assert ends == [expected, expected], epoch


def test_of_a_color_pair_the_brightness_is_drawn_by_one_scale(monkeypatch):
    drawn = {}
    monkeypatch.setattr("advjax.plots.image_figure", lambda rows, captions, **options: drawn.update(rows))
    clean = np.linspace(0.2, 0.6, 27, dtype=np.float32).reshape(1, 3, 3, 3)
    changed = clean.copy()
    changed[0, 0, 0, 0] += 0.4
    numbers = dict.fromkeys(("source", "label", "prediction", "norm"), np.zeros(1, np.int32))
    found, test = {"image": changed, **numbers}, Standardized(clean, np.zeros(1, np.int32), np.zeros(3), np.float32(1))
    study.pairs(PRESETS["paper-cifar10"], test, found, np.array([0]), "")
    (before,), (after,) = drawn["original"], drawn["adversarial"]
    assert (before.min(), before.max()) == (0, 1)
    np.testing.assert_array_equal(before.ravel()[1:], after.ravel()[1:])
    study.pairs(CONFIG, test, found, np.array([0]), "")
    np.testing.assert_array_equal(drawn["adversarial"][0], changed[0, ..., 0])
