"""Parts of the experiment: preprocessing, solver, the set A, tables, configurations."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color

from advjax.attacks import steepest
from advjax.classifier import from_function
from advjax.data import Dataset
from experiments.batches import attack_all, logits_of
from experiments.robust_optimization import preprocess
from experiments.robust_optimization.adversaries import adversarial_set, calibrated_radius, sweep
from experiments.robust_optimization.config import PRESETS, Config, Part
from experiments.robust_optimization.figures import one_pixel
from experiments.robust_optimization.optimizer import torch_sgd
from experiments.robust_optimization.preprocess import Images, contrast_normalise, prepare, rgb_to_yuv
from experiments.robust_optimization.table import schedule, table, verdict
from experiments.states import key_of

DIGITS = PRESETS["quick"].parts[0]


def linear(weights, images):
    return images.reshape(images.shape[0], -1) @ weights


def made_of(images, labels, std=0.25):
    return Images(images, labels, np.zeros(1, np.float32), np.float32(std))


@pytest.fixture
def random_set(rng):
    """A linear classifier of 4x4 images, and 60 images with its own answers as labels."""
    weights = jnp.asarray(rng.normal(size=(16, 3)).astype(np.float32))
    images = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
    classifier = from_function(linear, weights)
    labels = logits_of(classifier, images).argmax(-1).astype(np.int32)
    labels[:5] = (labels[:5] + 1) % 3  # some that it gets wrong
    return classifier, made_of(images, labels)


def test_digits_are_padded_and_standardised_by_their_own_statistics():
    train, test = prepare(DIGITS)
    for images in (train, test):
        assert images.images.shape[1:] == (32, 32, 1)
        assert not images.images[:, :2].any()
        assert not images.images[:, :, -2:].any()
        pixels = images.images / 255
        np.testing.assert_allclose([images.mean[0], images.std], [pixels.mean(), pixels.std()], rtol=1e-5)
    assert train.mean[0] != test.mean[0]
    shared = prepare(dataclasses.replace(DIGITS, own_test_statistics=False))[1]
    np.testing.assert_array_equal([shared.mean[0], shared.std], [train.mean[0], train.std])


@pytest.mark.mnist
def test_mnist_has_the_statistics_of_the_scripts():
    train, test = prepare(PRESETS["cpu"].parts[0])
    found = [255 * float(number) for images in (train, test) for number in (images.mean[0], images.std)]
    np.testing.assert_allclose(found, [25.51, 70.18, 25.87, 70.74], atol=0.005)
    assert test.read.startswith("mnist, 60,000 and 10,000 images: the original pixels (SHA-256 b74236c7f4738026..., e1")


def test_contrast_normalisation_is_the_formula_written_out(rng):
    plane = rng.uniform(0, 255, (9, 11))
    plane[:4, :4] = 7.0  # a flat corner, where the deviation is at its floor
    taps = np.exp(-0.5 * ((np.arange(7) - 3) / 1.75) ** 2)

    def smoothed(values):
        out = np.zeros_like(values)
        for y, x in np.ndindex(*values.shape):
            for dy, dx in np.ndindex(7, 7):
                row, column = y + dy - 3, x + dx - 3
                if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                    out[y, x] += taps[dy] * taps[dx] / taps.sum() ** 2 * values[row, column]
        return out

    inside = smoothed(np.ones_like(plane))
    centred = plane - smoothed(plane) / inside
    spread = np.sqrt(smoothed(centred**2)) / inside
    expected = centred / np.maximum(spread, 1e-4)
    np.testing.assert_allclose(contrast_normalise(plane[None])[0], expected, atol=1e-6)


def test_yuv_is_scikit_images(rng):
    images = rng.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    np.testing.assert_allclose(rgb_to_yuv(images), 255 * color.rgb2yuv(images), atol=0.05)


def test_colour_images_fill_the_unit_interval_and_are_undone_by_mean_and_std(rng, monkeypatch):
    sets = {
        split: Dataset("cifar10", split, rng.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8), np.arange(12) % 10, 10)
        for split in ("train", "test")
    }
    monkeypatch.setattr(preprocess, "load", lambda name, split, data_dir: sets[split])
    part = PRESETS["paper"].parts[1]
    train, test = prepare(dataclasses.replace(part, batch_size=4))
    undone = [(images.images - images.mean) / images.std for images in (train, test)]
    assert min(images.images.min() for images in (train, test)) == 0
    assert max(images.images.max() for images in (train, test)) <= 1
    yuv = [rgb_to_yuv(data.images) for data in sets.values()]
    mean, std = yuv[0][..., 1:].mean((0, 1, 2)), yuv[0][..., 1:].std((0, 1, 2))
    for values, raw in zip(undone, yuv, strict=True):
        np.testing.assert_allclose(values[..., 1:], (raw[..., 1:] - mean) / std, atol=1e-4)
        np.testing.assert_allclose(values[..., 0], contrast_normalise(raw[..., 0]), atol=1e-4)


@pytest.mark.peers
def test_the_solver_is_pytorchs_with_dampening(rng):
    import torch

    part = dataclasses.replace(DIGITS, learning_rate=0.3, learning_rate_decay=0.1, halve_every=0, weight_decay=0.01)
    start, gradients = rng.normal(size=4), rng.normal(size=(6, 4))
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.SGD([weight], lr=0.3, momentum=0.9, dampening=0.9, weight_decay=0.01)
    ours = torch_sgd(part, 10)
    params, state = jnp.asarray(start, jnp.float32), ours.init(jnp.zeros(4))
    for step, gradient in enumerate(gradients):
        theirs.param_groups[0]["lr"] = 0.3 / (1 + 0.1 * step)
        weight.grad = torch.tensor(gradient)
        theirs.step()
        update, state = ours.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = params + update
        np.testing.assert_allclose(params, weight.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_set_holds_right_answers_turned_wrong_at_the_training_radii(random_set):
    classifier, test = random_set
    part = dataclasses.replace(DIGITS, radii=(4.0, 1.0, 0.3))
    found = adversarial_set(part, classifier, test, batch=25)
    assert set(found["norm"]) == {0, 1, 2}
    clean = (test.images / 255).astype(np.float32)
    assert (logits_of(classifier, clean).argmax(-1)[found["source"]] == found["label"]).all()
    assert not np.isin(found["source"], np.arange(5)).any()
    answers = logits_of(classifier, found["image"]).argmax(-1)
    np.testing.assert_array_equal(answers, found["prediction"])
    assert (answers != found["label"]).all()
    change = (found["image"] - clean[found["source"]]).reshape(len(answers), -1) / test.std
    sizes = [np.abs(change).sum(1), np.sqrt((change**2).sum(1)), np.abs(change).max(1)]
    for number, radius in enumerate(part.radii):
        own = found["norm"] == number
        np.testing.assert_allclose(sizes[number][own], radius, rtol=1e-4)
    rows = one_pixel(part, found)
    np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(found["norm"] == 0))
    assert (found["l0"][rows] == 1).all()
    stored = np.round(np.clip(found["image"], 0, 1) * 255) / 255
    wrong = logits_of(classifier, stored.astype(np.float32)).argmax(-1) != found["label"]
    np.testing.assert_array_equal(found["stored_wrong"], wrong)


def test_the_radius_of_linf_is_calibrated_to_the_size_of_the_set(random_set):
    classifier, test = random_set
    part = dataclasses.replace(DIGITS, radii=(4.0, 1.0, 0.3), set_size=100)
    found = calibrated_radius(part, classifier, test, batch=25)
    moved = part.with_linf(float(found["radius"]))
    assert moved.radii[:2] == part.radii[:2]
    count = len(adversarial_set(moved, classifier, test, batch=25)["norm"])
    assert abs(count - found["images"]) <= 1
    assert 100 <= found["images"] <= 102
    with pytest.raises(ValueError, match="set_size=5 is no more than the"):
        calibrated_radius(dataclasses.replace(part, set_size=5), classifier, test, batch=25)


def test_sweep_is_one_attack_for_each_epsilon(random_set):
    classifier, test = random_set
    part = dataclasses.replace(DIGITS, epsilons=(0.0, 0.1, 0.5))
    curve = sweep(part, classifier, test, batch=25)
    for epsilon, accuracy in zip(part.epsilons, curve, strict=True):
        attack = steepest("linf", epsilon * test.std, levels=None, box=False)
        images = attack_all(attack, classifier, test.images, test.labels, batch=60).image
        assert accuracy == (logits_of(classifier, images).argmax(-1) == test.labels).mean()
    assert curve[0] == 55 / 60


def test_batches_do_not_show(random_set):
    classifier, test = random_set
    whole, parts = (logits_of(classifier, test.images, batch) for batch in (60, 7))
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def results_of(test, right, sweep):
    shared = {"adversarial_count": np.array([10, 20, 30]), "pgd": np.array(0.5)}
    return {**shared, "test": np.array(test), "adversarial_right": np.array(right), "sweep": np.array(sweep)}


def test_table_and_verdict_say_the_figures_and_claim_nothing_within_noise():
    part = dataclasses.replace(DIGITS, data="mnist", epsilons=(0.0, 0.1))
    results = {
        "baseline": results_of(0.990, [0, 0, 0], [0.990, 0.9]),
        "l1": results_of(0.9901, [1, 2, 3], [0.9901, 0.8]),
        "l2": results_of(0.998, [5, 5, 5], [0.998, 0.95]),
        "linf": results_of(0.95, [10, 20, 30], [0.95, 0.94]),
    }
    lines = table(part, results).splitlines()
    assert "this run: MNIST test %" in lines[0]
    assert lines[3] == "| robust l1 | 99.16 | 33.83 | 99.01 | 10.00 | 10.00 | 10.00 | 10.00 | 50.0 |"
    l1, l2, linf = verdict(part, results, 10_000)
    assert "+0.01 points against the baseline (within two standard errors)" in l1
    assert "not above the baseline at epsilon 0.1" in l1
    assert "+0.80 points against the baseline (better)" in l2
    assert "25.0 % of A right; above the baseline at every epsilon > 0" in l2
    assert "(worse)" in linf
    assert "scikit-learn's digits test" in table(DIGITS, results)


def test_schedules_stand_side_by_side():
    text = schedule(PRESETS["cpu"].parts[0])
    assert "| epochs | 120 (baseline; the robust scripts give no end) | 15, every network |" in text
    assert "digits" not in text
    assert "| batch | 128, shuffled | 128, shuffled |" in schedule(PRESETS["paper"].parts[1])


def test_keys_go_by_purpose_alone():
    assert key_of(0, "a", "b") == key_of(0, "a/b")
    assert key_of(0, "a") != key_of(1, "a")
    assert key_of(0, "a") != key_of(0, "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "svhn"}, "data must be one of"),
        ({"norms": ("l1", "l3"), "radii": (1.0, 1.0)}, "norms must be distinct and among"),
        ({"radii": (1.0,)}, "radii must be a positive number for each"),
        ({"radii": (1.0, -1.0, 1.0)}, "radii must be a positive number for each"),
        ({"network": "vgg"}, "does not take the images of 'digits'"),
        ({"epsilons": (-0.1,)}, "epsilons must be numbers of 0 or more"),
        ({"norms": ("l1",), "radii": (1.0,)}, 'norms must hold "linf"'),
        ({"set_size": -1}, "set_size must be at least 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"attack_mode": "both"}, "attack_mode must be one of"),
    ],
)
def test_part_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DIGITS, **change)


def test_config_refuses_the_same_data_twice():
    with pytest.raises(ValueError, match="parts must be of distinct data sets"):
        Config("twice", (DIGITS, DIGITS))
    with pytest.raises(ValueError, match="at least one"):
        Config("none", ())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"test_images": 501}, "test_images=501 exceeds the 500"), ({"batch_size": 1298}, "batch_size=1298 exceeds")],
)
def test_too_small_a_set_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        prepare(Part(data="digits", **change))
