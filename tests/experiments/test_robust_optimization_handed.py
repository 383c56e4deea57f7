"""What the experiment hands to training and to attacks: radii, units, input normalisation, mode, data, schedule."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import pgd, steepest
from advjax.classifier import from_function
from advjax.training import to_model, unstack
from experiments.robust_optimization import adversaries, networks, run, train
from experiments.robust_optimization.adversaries import adversarial_set, calibrated_radius, pgd_accuracy
from experiments.robust_optimization.config import PRESETS, Config, Part
from experiments.robust_optimization.figures import _pictures
from experiments.robust_optimization.judge import judge
from experiments.robust_optimization.optimizer import rate, torch_sgd
from experiments.robust_optimization.preprocess import Images
from experiments.states import key_of, weights
from tests.experiments.spies import fake_perturbation, spy_on_training

RADII = {"l1": 2.0, "l2": 1.5, "linf": 0.2}
PART = Part(data="mnist", radii=tuple(RADII.values()), epochs=3, batch_size=4)
CONFIG = Config("handed", (PART,), seed=5, attack_batch=3)


def images_of(mean, std, count=10):
    pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 1)).astype(np.uint8)
    labels = np.arange(count, dtype=np.int32) % 10
    return Images(pixels, labels, np.full(1, mean, np.float32), np.float32(std))


TRAIN, TEST = images_of(0.1, 0.275), images_of(0.11, 0.3, 7)


@pytest.fixture
def training(monkeypatch):
    return spy_on_training(monkeypatch, train)


@pytest.mark.parametrize("name", ["baseline", *RADII])
def test_each_network_learns_from_its_own_attack_at_its_radius_in_standardised_units(name, training, tmp_path):
    spy = training.of(train.train_network, CONFIG, PART, name, TRAIN, TEST, tmp_path)
    # One standardised unit is the training set's deviation; nothing is clipped or rounded.
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
    assert spy.options["config"] == json.loads(json.dumps(dataclasses.asdict(PART)))


def test_robust_networks_normalise_their_input_and_the_baseline_does_not(training, tmp_path):
    found = {}
    for name in PART.networks:
        (state,) = unstack(training.of(train.train_network, CONFIG, PART, name, TRAIN, TEST, tmp_path).states)
        model = to_model(state)
        found[name] = model.input_norm is not None
        np.testing.assert_allclose([model.mean[...], model.std[...]], [25.5, 255 * 0.275], rtol=1e-5)
    assert found == {"baseline": False, "l1": True, "l2": True, "linf": True}


def test_all_networks_begin_with_the_same_weights_and_see_the_same_order(training, tmp_path):
    both = []
    for name in ("baseline", "linf"):
        spy = training.of(train.train_network, CONFIG, PART, name, TRAIN, TEST, tmp_path)
        model = to_model(unstack(spy.states)[0])
        both.append((np.asarray(model.conv1.kernel[...]), spy.key))
    np.testing.assert_array_equal(both[0][0], both[1][0])
    assert both[0][1] == both[1][1] == key_of(5, "mnist", "order")


def test_a_trained_network_is_judged_by_the_statistics_of_the_test_set():
    state = networks.fresh(PART, "linf", TRAIN, 0)
    classifier = networks.classifier_of(PART, "linf", weights(state), TRAIN, TEST)
    model = to_model(state)
    model.mean[...], model.std[...] = jnp.float32(255 * 0.11), jnp.float32(255 * 0.3)
    images = jnp.asarray(TEST.images[:2] / np.float32(255))
    np.testing.assert_allclose(classifier(images), model(images), rtol=1e-4, atol=1e-5)


def test_the_colour_network_is_given_the_map_that_undoes_its_preprocessing(monkeypatch):
    given = {}
    monkeypatch.setattr(networks, "VggCifar", lambda **options: given.update(options))
    monkeypatch.setattr(networks, "create", lambda model, optimizer: "state")
    part = dataclasses.replace(PRESETS["paper"].parts[1], batch_size=4)
    pixels, labels = np.zeros((8, 32, 32, 3), np.float32), np.zeros(8, np.int32)
    assert networks.fresh(part, "linf", Images(pixels, labels, np.float32([0.1, 0.2, 0.3]), np.float32(0.25)), 0)
    np.testing.assert_allclose([*given["mean"], *given["std"]], [0.1, 0.2, 0.3, 0.25, 0.25, 0.25], rtol=1e-6)


def test_the_set_and_pgd_use_the_units_of_the_test_set(monkeypatch):
    attacks = []

    def spy(attack, classifier, images, labels, *, batch, key=None):
        attacks.append((attack, key))
        result = fake_perturbation(images, labels)
        result.prediction = labels
        return result

    monkeypatch.setattr(adversaries, "attack_all", spy)
    monkeypatch.setattr(adversaries, "_stored_wrong", lambda *args: np.zeros(21, bool))
    found = adversarial_set(PART, "baseline", TEST, batch=3)
    assert [attack for attack, _ in attacks] == [
        steepest(norm, RADII[norm] * TEST.std, levels=None, box=False) for norm in RADII
    ]
    np.testing.assert_array_equal(found["norm"], np.repeat([0, 1, 2], 7))
    attacks.clear()
    part = dataclasses.replace(PART, pgd_images=5)
    assert pgd_accuracy(part, "baseline", TEST, batch=3, seed=5) == 1.0
    radius = 0.2 * TEST.std
    assert attacks == [(pgd(radius, step_size=radius / 8, steps=20, levels=None), key_of(5, "mnist", "pgd"))]


@pytest.fixture
def no_computing(monkeypatch):
    """Every stage of the run replaced; networks are known by their names."""
    monkeypatch.setattr(run, "prepare", lambda part, data_dir: (TRAIN, TEST))
    monkeypatch.setattr(run, "train_network", lambda config, part, name, *rest: {"name": np.array(name)})
    monkeypatch.setattr(run, "classifier_of", lambda part, name, arrays, train, test: str(arrays["name"]))
    monkeypatch.setattr(run, "adversarial_set", lambda part, baseline, *rest: {"of": np.array(baseline)})
    monkeypatch.setattr(run, "judge", lambda *args: {})
    monkeypatch.setattr(run, "report", lambda config, parts, store, tests: parts)


def test_every_network_is_judged_by_itself_on_the_set_of_the_baseline(no_computing, monkeypatch, tmp_path):
    judged = []

    def keep(config, part, classifier, test, found):
        judged.append((classifier, str(found["of"]), test is TEST))
        return {}

    monkeypatch.setattr(run, "judge", keep)
    run.run(CONFIG, tmp_path / "out")
    assert judged == [(name, "baseline", True) for name in PART.networks]


def test_the_radius_of_linf_is_calibrated_before_its_network_is_trained(no_computing, monkeypatch, tmp_path):
    trained = []

    def keep(config, part, name, *rest):
        trained.append((name, part.radii))
        return {"name": np.array(name)}

    def calibrated(part, network, *rest):
        return {"radius": np.array(0.07 if network == "baseline" else 9)}

    monkeypatch.setattr(run, "train_network", keep)
    monkeypatch.setattr(run, "calibrated_radius", calibrated)
    part = dataclasses.replace(PART, set_size=9)
    (used,) = run.run(Config("calibrated", (part,)), tmp_path / "out")
    assert used.radii == (2.0, 1.5, 0.07)
    assert trained == [("baseline", PART.radii), *((name, (2.0, 1.5, 0.07)) for name in RADII)]


def by_sum(weights, images):
    """The lead of class 0: the sum of the pixels plus a number."""
    lead = images.sum((1, 2, 3)) + weights
    return jnp.stack([lead, jnp.zeros_like(lead)], -1)


def test_a_set_that_no_radius_reaches_is_refused():
    """Of these images a linf radius of 1 takes 4 pixels times 0.25: leads of 7 stay, leads of 0.5 go at 0.5."""
    white, labels = np.full((6, 2, 2, 1), 255, np.uint8), np.zeros(6, np.int32)
    test = Images(white, labels, np.zeros(1, np.float32), np.float32(0.25))
    part = Part(data="digits", norms=("l2", "linf"), radii=(0.1, 0.2), set_size=4)
    with pytest.raises(ValueError, match=r"set_size=4 cannot be reached: with a linf radius of 1 .* has 0 images"):
        calibrated_radius(part, from_function(by_sum, jnp.float32(3.0)), test, batch=6)
    near = calibrated_radius(part, from_function(by_sum, jnp.float32(-3.5)), test, batch=6)
    assert near["radius"] == pytest.approx(0.5, abs=1e-4)


def test_a_network_of_nan_logits_is_right_about_nothing():
    """Its argmax would be 0, which is the label of all these images."""
    broken = from_function(lambda w, x: w + x.mean((1, 2, 3))[:, None] * jnp.float32(jnp.nan), jnp.zeros((1, 10)))
    test = Images(TEST.images[:4], np.zeros(4, np.int32), TEST.mean, TEST.std)
    found = {"image": np.zeros((2, 32, 32, 1), np.float32), "label": np.zeros(2, np.int32), "norm": np.array([0, 2])}
    part = dataclasses.replace(PART, epsilons=(0.0,), pgd_images=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.robust_optimization.judge.pgd_accuracy", lambda *args: 0.0)
        numbers = judge(CONFIG, part, broken, test, found)
    assert numbers["test"] == 0
    assert numbers["adversarial_right"].tolist() == [0, 0, 0]
    assert numbers["sweep"].tolist() == [0]


def test_the_rate_halves_at_the_start_of_the_25th_epoch_counted_from_1():
    """cifar.torch: `if epoch % epoch_step == 0 then learningRate = learningRate / 2`, at the start of an epoch."""
    part = dataclasses.replace(PRESETS["paper"].parts[1], learning_rate_decay=0.0)
    steps, expected = 390, 1.0
    for epoch in range(1, 301):
        if epoch % 25 == 0:
            expected /= 2
        if epoch % 25 in (0, 1, 24):
            ends = [float(rate(part, steps, jnp.int32(steps * (epoch - 1) + offset))) for offset in (0, steps - 1)]
            assert ends == [expected, expected], epoch


def test_the_solver_is_torch7s_with_dampening(rng):
    """optim.sgd of torch7 written out: the first velocity is the gradient, later ones count 1 - dampening of it."""
    part = dataclasses.replace(
        PART, learning_rate=0.3, learning_rate_decay=0.1, momentum=0.8, dampening=0.9, halve_every=2, weight_decay=0.01
    )
    w, gradients = rng.normal(size=4), rng.normal(size=(6, 4))
    ours = torch_sgd(part, 2)
    params, state, velocity = jnp.asarray(w, jnp.float32), ours.init(jnp.zeros(4)), None
    for t, gradient in enumerate(gradients):
        gradient = gradient + 0.01 * w
        velocity = gradient if velocity is None else 0.8 * velocity + 0.1 * gradient
        w = w - 0.3 / (1 + 0.1 * t) * 0.5 ** ((t // 2 + 1) // 2) * velocity
        update, state = ours.update(jnp.asarray(gradients[t], jnp.float32), state, params)
        params = params + update
        np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-6)


def test_both_pictures_of_a_pair_are_drawn_by_one_scale():
    clean = np.linspace(0.2, 0.6, 27, dtype=np.float32).reshape(3, 3, 3)
    changed = clean.copy()
    changed[0, 0, 0] += 0.4
    before, after = _pictures(clean, changed)
    assert (before.min(), before.max()) == (0, 1)
    np.testing.assert_array_equal(before.ravel()[1:], after.ravel()[1:])
    np.testing.assert_array_equal(_pictures(clean[..., :1], changed[..., :1]), [clean[..., 0], changed[..., 0]])
