"""What the experiment hands to training, to attacks and to scores: whose images, in which order, from which split."""

import dataclasses
import types

import numpy as np
import optax
import pytest
from flax import nnx

from advjax.data import Dataset
from advjax.training import create, stack, unstack
from experiments.hard_positives import run, study
from experiments.hard_positives.config import ATTACKS, BASIC, HELD_OUT_TYPES, INFIMNIST, PRESETS, ROWS, Config
from experiments.hard_positives.run import Data, attack_images, finetune, jobs, load_held_out, stages
from experiments.networks import key_of
from experiments.study import Row
from tests.experiments.spies import MemoryStore, Training, fake_perturbation

CONFIG = Config(
    preset="handed",
    data="digits",
    seed=5,
    bases=2,
    orders=2,
    batch_size=4,
    base_iterations=20,
    finetune_iterations=30,
    rows=("HC-D-9", "FGV", BASIC),
    unmixed_rows=("FGV",),
    train_sources=6,
    heldout_sources=4,
    heldout_per_type=3,
    cap_per_type=4,
    bands=(0.0, 0.5, 1.0),
    band_minimum=1,
    band_iterations=40,
    attack_batch=3,
    score_batch=3,
    block=5,
)


def data_of(split, count, first=0):
    """Images that carry their number, labels 0, 1, 2, ..."""
    numbers = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None]
    pixels = np.tile(numbers, (1, 2, 2, 1))
    return Dataset("digits", split, pixels, np.arange(count, dtype=np.int32) % 10, 10)


TRAIN, TEST = data_of("train", 8), data_of("test", 8, first=100)
DATA = Data(TRAIN, TEST, np.arange(6), TEST, [np.array([7, 1]), np.array([2, 3])])


@pytest.fixture
def store():
    """A run with three adversarial images of each type and base, each marked by both, and their scores."""
    store = MemoryStore()
    for base in range(2):
        for number, kind in enumerate(ATTACKS):
            for split, source in (("train", np.array([0, 2, 5])), ("heldout", DATA.heldout[base])):
                image = np.full((len(source), 2, 2, 1), 100 * (base + 1) + number, np.uint8)
                store.stages[f"attack/{split}/{base}/{kind}"] = {"image": image, "source": source.astype(np.int32)}
            scores = ([0.2, 0.7, 0.9], [0.1, 0.3, 0.6])[base]
            store.stages[f"score/train/{base}/{kind}"] = {"valid": np.array(scores, np.float32)}
    return store


def marks(images):
    return sorted(set(images[:, 0, 0, 0].tolist()))


def bases_of(count):
    """Stacked networks that are told apart by their one weight: 0, 1, 2, ..."""
    models = [nnx.Linear(1, 1, rngs=nnx.Rngs(0)) for _ in range(count)]
    for number, model in enumerate(models):
        model.kernel[...] = np.full((1, 1), number, np.float32)
    return stack([create(model, optax.sgd(0.1)) for model in models])


def weights_of(states):
    return [float(state.params["kernel"].get_value()[0, 0]) for state in unstack(states)]


def fine_tuned(store, job, config=CONFIG):
    spy, key = Training(), key_of(config.seed, "finetune", job.name)
    room = config.pool_size(8)
    return spy.of(finetune, spy.fit, bases_of(config.bases), config.orders, job, key, TRAIN, room, None, store.read)


def job_of(store, name):
    (job,) = [job for job in jobs(CONFIG, store.read) if job.name == name]
    return job


def test_each_network_is_tuned_on_its_own_bases_images_and_all_clean_ones(store):
    spy = fine_tuned(store, job_of(store, "HC-D-9"))
    # Each base is gone on from as many times as there are orders.
    assert weights_of(spy.states) == [0, 0, 1, 1]
    assert (spy.steps, len(spy.data.members)) == (30, 4)
    kinds = [list(ATTACKS).index(kind) for kind in ROWS["HC-D-9"].types]
    for network, member in enumerate(spy.data.members):
        base = network // 2
        images, labels = np.asarray(spy.data.images)[member], np.asarray(spy.data.labels)[member]
        np.testing.assert_array_equal(images[:8], TRAIN.images)
        np.testing.assert_array_equal(labels[:8], TRAIN.labels)
        assert marks(images[8:]) == [100 * (base + 1) + kind for kind in kinds]
        np.testing.assert_array_equal(labels[8:], np.tile(TRAIN.labels[[0, 2, 5]], 9))


def test_the_other_choice_of_mixing_leaves_the_clean_images_out(store):
    spy = fine_tuned(store, job_of(store, "FGV, adversarial images only"))
    for network, member in enumerate(spy.data.members):
        assert marks(np.asarray(spy.data.images)[member]) == [100 * (network // 2 + 1) + 1]


def test_a_band_is_tuned_on_its_own_images(store):
    """Base 0 has one image of each type up to 0.5, base 1 two; so one of each type is drawn from both."""
    job = job_of(store, "PASS (valid) 0-500")
    spy = fine_tuned(store, job)
    assert spy.steps == 40
    first = np.asarray(spy.data.labels)[spy.data.members[0][8:]]
    np.testing.assert_array_equal(first, np.full(9, TRAIN.labels[0]))
    second = np.asarray(spy.data.labels)[spy.data.members[2][8:]]
    assert len(second) == 9
    assert set(second) <= {TRAIN.labels[0], TRAIN.labels[2]}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rows": (BASIC,), "unmixed_rows": ("HC-D-9",), "bands": ()},
        {"rows": (BASIC,), "unmixed_rows": (), "bands": (0.0, 1.0)},
        {"rows": ("FGS", BASIC), "unmixed_rows": ("HC-S-5",), "bands": (0.5, 1.0), "mix_clean": False},
    ],
)
def test_the_pool_has_room_for_every_set_of_the_run(change, store):
    """All types of all bases come to 3 images each here, where the cap is 4."""
    config = dataclasses.replace(CONFIG, **change)
    made = jobs(config, store.read)
    assert made
    for job in made:
        assert len(fine_tuned(store, job, config).data.images) == config.pool_size(8)


def test_the_pool_of_the_presets_is_as_large_as_before():
    assert PRESETS["paper"].pool_size(60_000) == 60_000 + 3 * 9 * 37_663
    assert PRESETS["cpu"].pool_size(60_000) == 200_000


def test_base_networks_have_weights_of_their_own_and_all_clean_images(monkeypatch):
    monkeypatch.setattr(run, "fresh", lambda seed, purpose, count: (seed, purpose, count))
    spy = Training()
    spy.of(run.train_bases, spy.fit, 5, 2, 20, TRAIN, 99)
    assert spy.states == (5, "base", 2)
    assert (spy.steps, len(spy.data.images)) == (20, 99)
    for member in spy.data.members:
        np.testing.assert_array_equal(np.asarray(spy.data.images)[member], TRAIN.images)
        np.testing.assert_array_equal(np.asarray(spy.data.labels)[member], TRAIN.labels)


def test_networks_of_one_purpose_differ_in_their_weights():
    one, other = (np.asarray(state.params["conv1"]["kernel"].get_value()) for state in unstack(run.fresh(5, "base", 2)))
    assert not np.array_equal(one, other)


def test_infimnist_is_made_of_training_images_alone_and_calibrated_on_base_0(monkeypatch):
    asked = []

    def in_memory(indices):
        asked.append(np.asarray(indices))
        return np.zeros((len(indices), 2, 2, 1), np.uint8), np.ones(len(indices), np.int32)

    generator = types.SimpleNamespace(in_memory=in_memory)

    def made(images, labels, key):
        assert images is TRAIN.images
        assert labels is TRAIN.labels
        return generator

    def calibrated(given, network, key, *, target):
        assert (given, network, target) == (generator, "net 0", 0.022)
        return generator

    monkeypatch.setattr(run, "infimnist_like", made)
    monkeypatch.setattr(run, "calibrate", calibrated)
    monkeypatch.setattr(run, "misclassified_share", lambda generator, network, indices: asked.append(indices))
    monkeypatch.setattr(run, "fresh", lambda seed, purpose, count: (purpose, count))
    spy = Training()
    spy.of(run.train_infimnist, spy.fit, 5, ["net 0", "net 1"], 1500, 0.022, 50, TRAIN, 2000, None)
    # The first 10,000 indices are the test set; the training images themselves come next.
    assert min(indices.min() for indices in asked) == 10_000 + 8
    assert (spy.states, spy.steps, len(spy.data.members[1])) == (("infimnist", 2), 50, 1500)


@pytest.fixture(params=["train", "test"])
def handed(request, monkeypatch):
    """The split of the held-out images, and by stage what a whole run hands to its function; nothing is computed."""
    seen = {}

    def kept(result):
        def call(*arguments):
            seen[name] = arguments
            return result

        return call

    data = DATA._replace(heldout_from={"train": TRAIN, "test": TEST}[request.param])
    monkeypatch.setattr(run, "with_weights", lambda template, arrays: "bases")
    monkeypatch.setattr(run, "of_states", lambda states: [f"net {base} of {states}" for base in range(2)])
    monkeypatch.setattr(run, "load_held_out", lambda bases, read, *sets: ("held out", *sets))
    monkeypatch.setattr(run, "jobs", lambda config, read: [types.SimpleNamespace(name="FGV")])
    for function in ("train_bases", "attack_images", "score_type", "judge", "finetune", "train_infimnist"):
        monkeypatch.setattr(run, function, kept({}))
    config, store = dataclasses.replace(CONFIG, rows=(*CONFIG.rows, INFIMNIST)), MemoryStore()
    for name, compute in stages(config, data, store):
        store.ensure(name, compute)
    return data, config, seen


def test_each_network_is_attacked_on_its_own_sources_by_every_type(handed):
    data, config, seen = handed
    for base in range(2):
        # Of three held-out images of a type base 0 gives two, base 1 one.
        wanted = {("train", kind): (TRAIN, data.sources, 4) for kind in config.training_types}
        wanted |= {("heldout", kind): (data.heldout_from, data.heldout[base], (2, 1)[base]) for kind in HELD_OUT_TYPES}
        for (split, kind), (images, rows, limit) in wanted.items():
            given = seen[f"attack/{split}/{base}/{kind}"]
            assert given[:2] == (ATTACKS[kind], f"net {base} of bases"), (split, kind)
            assert given[2] is images
            assert given[3] is rows
            assert given[4:6] == (limit, 3)


def test_scores_are_asked_for_against_the_split_that_the_images_are_made_of(handed):
    data, config, seen = handed
    for split, base, kind in config.attacked:
        _, attacked, originals, valid, same, batch = seen[f"score/{split}/{base}/{kind}"]
        assert attacked == f"attack/{split}/{base}/{kind}"
        assert originals is (TRAIN if split == "train" else data.heldout_from)
        assert (valid, same, batch) == (37_663, 300 if split == "train" else 0, 3)


def test_every_row_goes_on_from_the_bases_and_is_judged_by_the_held_out_images(handed):
    data, config, seen = handed
    held_out = ("held out", data.heldout_from, TEST)
    assert seen[f"row/{BASIC}"] == ("bases", held_out)
    _, bases, orders, job, key, images, room, judged_by, _ = seen["row/FGV"]
    assert (bases, orders, job.name, judged_by) == ("bases", 2, "FGV", held_out)
    assert key == key_of(5, "finetune", "FGV")
    assert images is TRAIN
    assert room == config.pool_size(8)
    _, seed, networks, count, share, steps, images, room, judged_by = seen[f"row/{INFIMNIST}"]
    assert (seed, networks, judged_by) == (5, ["net 0 of bases", "net 1 of bases"], held_out)
    assert (count, share, steps) == (1_000_000, 0.022, 30_000)
    assert images is TRAIN


def test_the_images_attacked_are_the_sources_with_their_labels(monkeypatch):
    seen = []

    def spy(attack, classifier, images, labels, *, batch_size, enough, progress):
        seen.append((attack, classifier, images[:, 0, 0, 0].tolist(), labels.tolist(), batch_size, enough))
        asked = batch_size * -(-enough // batch_size)
        return fake_perturbation(images[:asked] / np.float32(255), labels[:asked])

    monkeypatch.setattr(run, "perturb_all", spy)
    found = attack_images("attack", "network", TEST, np.array([7, 2, 5, 1]), 9, 3)
    assert seen == [("attack", "network", [107, 102, 105, 101], [7, 2, 5, 1], 3, 9)]
    assert (found["source"].tolist(), found["attempted"], found["succeeded"]) == ([7, 2, 5, 1], 4, 4)
    np.testing.assert_array_equal(found["image"], TEST.images[[7, 2, 5, 1]])
    few = attack_images("attack", "network", TEST, np.array([7, 2, 5, 1]), 2, 3)  # the second batch is not asked for
    assert (few["source"].tolist(), few["attempted"], few["succeeded"]) == ([7, 2], 3, 3)


@pytest.mark.parametrize("heldout_source", ["train", "test"])
def test_held_out_images_carry_the_labels_of_the_split_they_are_made_of(heldout_source, store):
    # Another order of the labels, so that each split's are told apart.
    other = dataclasses.replace(TEST, labels=TEST.labels[::-1].copy())
    heldout_from = {"train": TRAIN, "test": other}[heldout_source]
    found = load_held_out(2, store.read, heldout_from, other)
    assert found.test is other
    own = np.concatenate([heldout_from.labels[DATA.heldout[base]] for base in range(2)])
    np.testing.assert_array_equal(found.label, np.tile(own, 14))
    np.testing.assert_array_equal(found.kind, np.repeat(np.arange(14), 4))
    kinds = [list(ATTACKS).index(kind) for kind in HELD_OUT_TYPES]
    assert marks(found.image) == sorted(100 * (base + 1) + kind for base in range(2) for kind in kinds)


def test_scores_compare_each_image_with_the_source_it_is_made_of(store, monkeypatch):
    calls = []

    def spy(perturbed, original, *, batch_size, padding="valid"):
        calls.append((perturbed[:, 0, 0, 0].tolist(), original[:, 0, 0, 0].tolist(), padding, batch_size))
        return np.array([len(calls) - 1])

    monkeypatch.setattr(run, "pass_all", spy)
    run.score_type(store.read, "attack/heldout/1/HC-1", TEST, 2, 1, 3)
    mark = 200 + list(ATTACKS).index("HC-1")
    assert calls == [([mark, mark], [102, 103], "valid", 3), ([mark], [102], "same", 3)]


def test_bands_that_are_too_small_are_named_with_what_they_have(store):
    config = dataclasses.replace(CONFIG, band_minimum=15)
    # Base 0 has one image of each of nine types up to 0.5 and two above, base 1 two and one.
    assert study.left_out(config, store.read) == {"PASS (valid) 0-500": 9, "PASS (valid) 500-1000": 9}
    assert study.left_out(CONFIG, store.read) == {}
    assert [job.name for job in jobs(config, store.read)] == ["HC-D-9", "FGV", "FGV, adversarial images only"]


def test_figures_name_the_padding_of_pass_and_the_bands_that_are_left_out(store):
    found = [
        Row("hard_positives", "digits/train", BASIC, base, kind, None, name, 3, 0.5 + base)
        for kind in ("FGS", *study.FARTHER_TYPES)
        for base in range(2)
        for name in ("pass_valid", "l2_per_pixel", "linf")
    ]
    (axis,) = study.fig5(CONFIG, found).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["PASS (valid)", "L2 per pixel", "L∞"]
    (axis,) = study.fig4(CONFIG, store.read).axes
    assert axis.get_xlabel() == "PASS (valid: SSIM's windows inside the image)"
    wrong = {"clean_wrong": np.arange(20).reshape(2, 10) % 3 == 0, "adversarial_wrong": np.ones((2, 10), bool)}
    errors = study.Errors.of(wrong)
    bands = {"PASS (valid) 0-500": errors, "PASS (valid) 500-1000": errors}
    figure = study.fig6(CONFIG, errors, bands, ["PASS (valid) 0-100"])
    assert figure.get_suptitle() == "too few images, left out: PASS (valid) 0-100"
    assert {axis.get_xlabel() for axis in figure.axes} == {"PASS (valid) x 1000 of the images trained on"}
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0-500", "500-1000"]
