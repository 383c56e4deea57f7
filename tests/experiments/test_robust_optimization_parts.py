"""Parts of the experiment: preprocessing, solver, the set A, tables, configurations."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color

from advjax.attacks import steepest
from advjax.classifier import from_function
from advjax.data import Dataset, Standardized, contrast_normalize, rgb_to_yuv
from advjax.evaluate import logits_of, perturb_all, sign_ray
from advjax.training.optimizers import torch_rate, torch_sgd
from experiments import provenance
from experiments.networks import key_of
from experiments.robust_optimization import study
from experiments.robust_optimization.run import PRESETS, adversarial_set, calibrated, load
from experiments.robust_optimization.study import one_pixel
from tests.experiments.spies import MemoryStore

DIGITS = PRESETS["quick"]


def linear(weights, images):
    return images.reshape(images.shape[0], -1) @ weights


def made_of(images, labels, std=0.25):
    return Standardized(images, labels, np.zeros(1, np.float32), np.float32(std))


@pytest.fixture
def random_set(rng):
    """A linear classifier of 4x4 images, and 60 images with its own answers as labels."""
    weights = jnp.asarray(rng.normal(size=(16, 3)).astype(np.float32))
    images = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
    classifier = from_function(linear, weights)
    labels = logits_of(classifier, images).argmax(-1).astype(np.int32)
    labels[:5] = (labels[:5] + 1) % 3  # some that it gets wrong
    return classifier, made_of(images, labels)


def test_digits_are_padded_and_standardized_by_their_own_statistics():
    train, test = load(DIGITS, None).data
    for images in (train, test):
        assert images.images.shape[1:] == (32, 32, 1)
        assert not images.images[:, :2].any()
        assert not images.images[:, :, -2:].any()
        pixels = images.images / 255
        np.testing.assert_allclose([images.mean[0], images.std], [pixels.mean(), pixels.std()], rtol=1e-5)
    assert train.mean[0] != test.mean[0]
    shared = load(dataclasses.replace(DIGITS, own_test_statistics=False), None).data[1]
    np.testing.assert_array_equal([shared.mean[0], shared.std], [train.mean[0], train.std])


@pytest.mark.mnist
def test_mnist_has_the_statistics_of_the_scripts():
    _, data, read = load(PRESETS["cpu"], None)
    found = [255 * float(number) for images in data for number in (images.mean[0], images.std)]
    np.testing.assert_allclose(found, [25.51, 70.18, 25.87, 70.74], atol=0.005)
    assert read.startswith("mnist, 60,000 and 10,000 images: the original pixels (SHA-256 b74236c7f4738026..., e1")


def test_contrast_normalization_is_the_formula_written_out(rng):
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
    centered = plane - smoothed(plane) / inside
    spread = np.sqrt(smoothed(centered**2)) / inside
    expected = centered / np.maximum(spread, 1e-4)
    np.testing.assert_allclose(contrast_normalize(plane[None])[0], expected, atol=1e-6)


def test_yuv_is_scikit_images(rng):
    images = rng.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    np.testing.assert_allclose(rgb_to_yuv(images), 255 * color.rgb2yuv(images), atol=0.05)


def test_color_images_fill_the_unit_interval_and_are_undone_by_mean_and_std(rng, monkeypatch):
    sets = {
        split: Dataset("cifar10", split, rng.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8), np.arange(12) % 10, 10)
        for split in ("train", "test")
    }
    monkeypatch.setattr(provenance, "load", lambda name, split, data_dir: sets[split])
    train, test = load(dataclasses.replace(PRESETS["paper-cifar10"], batch_size=4), None).data
    undone = [(images.images - images.mean) / images.std for images in (train, test)]
    assert min(images.images.min() for images in (train, test)) == 0
    assert max(images.images.max() for images in (train, test)) <= 1
    yuv = [rgb_to_yuv(data.images) for data in sets.values()]
    mean, std = yuv[0][..., 1:].mean((0, 1, 2)), yuv[0][..., 1:].std((0, 1, 2))
    for values, raw in zip(undone, yuv, strict=True):
        np.testing.assert_allclose(values[..., 1:], (raw[..., 1:] - mean) / std, atol=1e-4)
        np.testing.assert_allclose(values[..., 0], contrast_normalize(raw[..., 0]), atol=1e-4)


def test_the_solver_is_torch7s_with_dampening(rng):
    """optim.sgd of torch7 written out: the first velocity is the gradient, later ones count 1 - dampening of it."""
    w, gradients = rng.normal(size=4), rng.normal(size=(6, 4))
    ours = torch_sgd(torch_rate(0.3, 0.1, 2, 2), momentum=0.8, dampening=0.9, weight_decay=0.01)
    params, state, velocity = jnp.asarray(w, jnp.float32), ours.init(jnp.zeros(4)), None
    for t, gradient in enumerate(gradients):
        gradient = gradient + 0.01 * w
        velocity = gradient if velocity is None else 0.8 * velocity + 0.1 * gradient
        w = w - 0.3 / (1 + 0.1 * t) * 0.5 ** ((t // 2 + 1) // 2) * velocity
        update, state = ours.update(jnp.asarray(gradients[t], jnp.float32), state, params)
        params = params + update
        np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-6)


@pytest.mark.peers
def test_the_solver_is_pytorchs_with_dampening(rng):
    import torch

    start, gradients = rng.normal(size=4), rng.normal(size=(6, 4))
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.SGD([weight], lr=0.3, momentum=0.9, dampening=0.9, weight_decay=0.01)
    ours = torch_sgd(torch_rate(0.3, 0.1), momentum=0.9, dampening=0.9, weight_decay=0.01)
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
    radii = {"l1": 4.0, "l2": 1.0, "linf": 0.3}
    found = adversarial_set(radii, classifier, test, batch=25)
    assert set(found["norm"]) == {0, 1, 2}
    clean = (test.images / 255).astype(np.float32)
    assert (logits_of(classifier, clean).argmax(-1)[found["source"]] == found["label"]).all()
    assert not np.isin(found["source"], np.arange(5)).any()
    answers = logits_of(classifier, found["image"]).argmax(-1)
    np.testing.assert_array_equal(answers, found["prediction"])
    assert (answers != found["label"]).all()
    change = (found["image"] - clean[found["source"]]).reshape(len(answers), -1) / test.std
    sizes = [np.abs(change).sum(1), np.sqrt((change**2).sum(1)), np.abs(change).max(1)]
    for number, radius in enumerate(radii.values()):
        own = found["norm"] == number
        np.testing.assert_allclose(sizes[number][own], radius, rtol=1e-4)
    rows = one_pixel(DIGITS, found)
    np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(found["norm"] == 0))
    assert (found["l0"][rows] == 1).all()
    stored = np.round(np.clip(found["image"], 0, 1) * 255) / 255
    wrong = logits_of(classifier, stored.astype(np.float32)).argmax(-1) != found["label"]
    np.testing.assert_array_equal(found["stored_wrong"], wrong)


def test_the_radius_of_linf_is_calibrated_to_the_size_of_the_set(random_set):
    classifier, test = random_set
    radii = {"l1": 4.0, "l2": 1.0, "linf": 0.3}
    found = calibrated(radii, 100, classifier, test, batch=25)
    count = len(adversarial_set({**radii, "linf": float(found["radius"])}, classifier, test, batch=25)["norm"])
    assert abs(count - 100) <= 2
    with pytest.raises(ValueError, match="set_size=5 is no more than the"):
        calibrated(radii, 5, classifier, test, batch=25)


def test_sweep_is_one_attack_for_each_epsilon(random_set):
    classifier, test = random_set
    epsilons = (0.0, 0.1, 0.5)
    along = sign_ray(classifier, test.images, test.labels, batch_size=25)
    right = np.stack([along(epsilon * test.std) for epsilon in epsilons])
    for epsilon, own in zip(epsilons, right, strict=True):
        attack = steepest("linf", epsilon * test.std, levels=None, box=False)
        images = perturb_all(attack, classifier, test.images, test.labels, batch_size=60).image
        np.testing.assert_array_equal(own, logits_of(classifier, images).argmax(-1) == test.labels)
    assert right[0].sum() == 55


def test_batches_do_not_show(random_set):
    classifier, test = random_set
    whole, parts = (logits_of(classifier, test.images, batch) for batch in (60, 7))
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def shares(*values, count=10_000):
    """bool [len(values), count] of so many True each."""
    return np.arange(count) < np.round(np.array(values)[:, None] * count)


def answers(test, right, sweep):
    found = np.concatenate([np.arange(count) < own for count, own in zip((10, 20, 30), right, strict=True)])
    return {"test": shares(test)[0], "adversarial": found, "sweep": shares(*sweep), "pgd": shares(0.5, count=100)[0]}


RESULTS = {
    "baseline": answers(0.990, [0, 0, 0], [0.990, 0.9]),
    "robust l1": answers(0.9901, [1, 2, 3], [0.9901, 0.8]),
    "robust l2": answers(0.998, [5, 5, 5], [0.998, 0.95]),
    "robust linf": answers(0.95, [10, 20, 30], [0.95, 0.94]),
}


@pytest.fixture
def judged():
    """A store that holds what each network answered."""
    found = {"norm": np.repeat([0, 1, 2], (10, 20, 30)), "source": np.arange(60), "l0": np.full(60, 9)}
    stages = {"adversarial": {**found, "stored_wrong": np.arange(60) % 2 == 0}}
    for name, right in RESULTS.items():
        own = name.removeprefix("robust ")
        stages |= {f"judged/{own}": right, f"train/{own}": {"validation_accuracy": np.array([0.5, 0.9])}}
    return MemoryStore(stages)


def test_the_page_says_the_figures_beside_the_papers(judged):
    config = dataclasses.replace(DIGITS, data="mnist", epsilons=(0.0, 0.1), epochs=2)
    data = (None, made_of(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32)))
    page = study.page(config, data, judged.read)
    lines = page.table.splitlines()
    assert "this run: MNIST test %" in lines[0]
    assert lines[3] == "| robust l1 | 99.16 | 33.83 | 99.01 | 10.00 | 10.00 | 10.00 | 10.00 | 50.00 |"
    assert page.run["epochs"] == "2, every network"
    assert page.paper is study.SCHEDULE["mnist"]
    assert not page.note
    assert "| l2 | 2 | 20 | 10 |" in page.sections["The adversarial set A"]
    told = page.sections["Accuracy in percent, clean and attacked (Figs. 3 and 6)"]
    assert "| mnist/test | fgs | 0.1 | 90.00 | 80.00 | 95.00 | 94.00 |" in told
    page = study.page(dataclasses.replace(config, data="digits"), data, judged.read)
    assert "scikit-learn's digits test" in page.table
    assert page.paper is study.SCHEDULE["mnist"]
    assert "not MNIST" in page.note


def test_claims_say_nothing_within_chance():
    config = dataclasses.replace(DIGITS, epsilons=(0.0, 0.1), epochs=2)
    results = {name: {**right, "validation_accuracy": np.array([0.5, 0.9])} for name, right in RESULTS.items()}
    better, withstand, above, linf, epochs = study.claims(config, results)
    assert better.startswith("Does not hold: every robust network is better on the test set (baseline 99.00 %, ")
    assert "robust l1 99.01 % (no clear difference), robust l2 99.80 % (better), robust linf 95.00 % (worse)" in better
    assert withstand.startswith("Holds")
    assert "robust l2 25.0 %" in withstand
    assert above.startswith("Does not hold")
    assert "robust l1 -10.0 points at the least" in above
    assert linf.startswith("Does not hold")
    assert "above: robust l2 at 0.1" in linf
    assert epochs.startswith("Holds")


SLOW, QUICK = [0.5, 0.6, 0.7, *[0.99] * 27], [0.5, *[0.99] * 29]


def words(config, results):
    return [line.split(":")[0] for line in study.claims(config, results)]


def test_the_claims_hold_of_results_like_the_papers_and_of_no_others():
    config = dataclasses.replace(DIGITS, epochs=30, epsilons=(0.0, 0.1, 0.2))

    def judged(test, right, sweep, epochs):
        return {**answers(test, right, sweep), "validation_accuracy": np.array(epochs)}

    results = {
        "baseline": judged(0.980, [0, 0, 0], [0.98, 0.5, 0.1], SLOW),
        "robust l1": judged(0.985, [1, 0, 0], [0.98, 0.6, 0.2], QUICK),
        "robust l2": judged(0.986, [5, 5, 5], [0.98, 0.7, 0.3], SLOW),
        "robust linf": judged(0.987, [9, 9, 9], [0.98, 0.8, 0.4], SLOW),
    }
    assert words(config, results) == ["Holds"] * 5
    # Of the images that l1 and the baseline answer differently there are four left: p = 1/8.
    few = {name: {**right, "test": right["test"][9846:9856]} for name, right in results.items()}
    assert words(config, few)[0] == "No verdict"
    # Five images more of 10,000 are no difference, six are.
    for more, word in ((5, "Holds"), (6, "Does not hold")):
        results["robust l1"] = judged(0.97, [0, 0, 0], [0.98, 0.8 + more / 10_000, 0.4], SLOW)
        assert words(config, results)[3] == word
    results["robust l1"] = judged(0.97, [0, 0, 0], [0.98, 0.5, 0.5], [*[0.5] * 25, *[0.99] * 5])
    lines = study.claims(config, results)
    assert words(config, results) == ["Does not hold"] * 5
    assert "robust l1 +0.0 points at the least" in lines[2]
    assert "above: robust l1 at 0.2" in lines[3]
    assert "baseline 4, robust l1 26, robust l2 4, robust linf 4" in lines[4]
    nothing = {name: {**right, "adversarial": np.zeros(0, bool)} for name, right in results.items()}
    assert words(config, nothing)[1] == "No verdict"


@pytest.mark.parametrize(("epochs", "expected"), [(SLOW, 4), (QUICK, 2), ([0.9], 1)])
def test_a_network_has_converged_within_half_a_point_of_its_end(epochs, expected):
    assert study.epochs_to_converge(np.array(epochs)) == expected


def test_keys_go_by_purpose_alone():
    assert key_of(0, "a", "b") == key_of(0, "a/b")
    assert key_of(0, "a") != key_of(1, "a")
    assert key_of(0, "a") != key_of(0, "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "svhn"}, "data must be among"),
        ({"norms": ("linf", "l3"), "radii": (1.0, 1.0)}, "norms must be among"),
        ({"radii": (1.0,)}, "radii must be a positive number for each"),
        ({"radii": (1.0, -1.0, 1.0)}, "radii must be at least 0"),
        ({"radii": (1.0, 0.0, 1.0)}, "radii must be a positive number for each"),
        ({"norms": ("linf", "linf"), "radii": (1.0, 1.0)}, "norms must be distinct"),
        ({"epsilons": (-0.1,)}, "epsilons must be at least 0"),
        ({"norms": ("l1",), "radii": (1.0,)}, 'hold "linf"'),
        ({"set_size": -1}, "set_size must be at least 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"attack_mode": "both"}, "attack_mode must be among"),
    ],
)
def test_a_configuration_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DIGITS, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"test_images": 501}, "test_images=501 exceeds the 500"), ({"batch_size": 1298}, "batch_size=1298 exceeds")],
)
def test_too_small_a_set_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load(dataclasses.replace(DIGITS, **change), None)
