"""What the experiment hands to training, to attacks and to scores: whose images, in which order, from which split."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.attacks import Perturbation, fgs, fgv, hot_cold
from advjax.classifier import from_function
from advjax.data import Dataset
from advjax.training import create, stack
from experiments.hard_positives import adversaries, bands, figures, finetune, networks, run, scoring, scratch
from experiments.hard_positives.adversaries import Sources, attack_images, stage_name
from experiments.hard_positives.config import PRESETS, Config
from experiments.hard_positives.imagenet import attack as imagenet_attack
from experiments.hard_positives.imagenet.config import Config as ImagenetConfig
from experiments.hard_positives.imagenet.train import _count
from experiments.hard_positives.judge import load_held_out
from experiments.hard_positives.metrics import Metric
from experiments.hard_positives.paper import ATTACKS, BASIC, HELD_OUT_TYPES, INFIMNIST, ROWS
from experiments.hard_positives.table import Errors
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
SOURCES = Sources(np.arange(6), [np.array([7, 1]), np.array([2, 3])], TEST)


@pytest.fixture
def store():
    """A run with three adversarial images of each type and base, each marked by both, and their scores."""
    store = MemoryStore()
    for base in range(2):
        for number, kind in enumerate(ATTACKS):
            for split, source in (("train", np.array([0, 2, 5])), ("heldout", SOURCES.heldout[base])):
                image = np.full((len(source), 2, 2, 1), 100 * (base + 1) + number, np.uint8)
                store.stages[stage_name(split, base, kind)] = {"image": image, "source": source.astype(np.int32)}
            scores = ([0.2, 0.7, 0.9], [0.1, 0.3, 0.6])[base]
            store.stages[scoring.score_name("train", base, kind)] = {"valid": np.array(scores, np.float32)}
    return store


def marks(images):
    return sorted(set(images[:, 0, 0, 0].tolist()))


def fine_tuned(store, job, monkeypatch):
    spy = Training()
    monkeypatch.setattr(finetune, "fine_tunable", lambda bases, orders: (bases, orders))
    return spy.of(finetune.finetune, CONFIG, store, spy, "bases", job, TRAIN, None)


def job_of(store, name):
    (job,) = [job for job in finetune.jobs(CONFIG, store) if job.name == name]
    return job


def test_each_network_is_tuned_on_its_own_bases_images_and_all_clean_ones(store, monkeypatch):
    spy = fine_tuned(store, job_of(store, "HC-D-9"), monkeypatch)
    assert spy.states == ("bases", 2)
    assert (spy.steps, len(spy.data.members)) == (30, 4)
    kinds = [list(ATTACKS).index(kind) for kind in ROWS["HC-D-9"].types]
    for network, member in enumerate(spy.data.members):
        base = network // 2
        images, labels = np.asarray(spy.data.images)[member], np.asarray(spy.data.labels)[member]
        np.testing.assert_array_equal(images[:8], TRAIN.images)
        np.testing.assert_array_equal(labels[:8], TRAIN.labels)
        assert marks(images[8:]) == [100 * (base + 1) + kind for kind in kinds]
        np.testing.assert_array_equal(labels[8:], np.tile(TRAIN.labels[[0, 2, 5]], 9))


def test_the_other_choice_of_mixing_leaves_the_clean_images_out(store, monkeypatch):
    spy = fine_tuned(store, job_of(store, "FGV, adversarial images only"), monkeypatch)
    for network, member in enumerate(spy.data.members):
        assert marks(np.asarray(spy.data.images)[member]) == [100 * (network // 2 + 1) + 1]


def test_a_band_is_tuned_on_its_own_images(store, monkeypatch):
    """Base 0 has one image of each type up to 0.5, base 1 two; so one of each type is drawn from both."""
    job = job_of(store, "PASS (valid) 0-500")
    spy = fine_tuned(store, job, monkeypatch)
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
def test_the_pool_has_room_for_every_set_of_the_run(change, store, monkeypatch):
    """All types of all bases come to 3 images each here, where the cap is 4."""
    config = dataclasses.replace(CONFIG, **change)
    monkeypatch.setattr(finetune, "fine_tunable", lambda bases, orders: None)
    jobs = finetune.jobs(config, store)
    assert jobs
    for job in jobs:
        spy = Training()
        spy.of(finetune.finetune, config, store, spy, None, job, TRAIN, None)
        assert len(spy.data.images) == config.pool_size(8)


def test_each_base_is_gone_on_from_as_many_times_as_there_are_orders():
    optimizer = optax.sgd(0.1)
    bases = stack([create(nnx.Linear(2, 2, rngs=nnx.Rngs(seed)), optimizer) for seed in range(3)])
    tuned = networks.fine_tunable(bases, 2)
    for ours, base in zip(jax.tree.leaves(tuned.params), jax.tree.leaves(bases.params), strict=True):
        np.testing.assert_array_equal(ours, np.repeat(base, 2, axis=0))


def test_the_pool_of_the_presets_is_as_large_as_before():
    assert PRESETS["paper"].pool_size(60_000) == 60_000 + 3 * 9 * 37_663
    assert PRESETS["cpu"].pool_size(60_000) == 200_000


def test_base_networks_have_weights_of_their_own_and_all_clean_images(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "fresh", lambda config, purpose, count: (purpose, count))
    spy = Training()
    spy.of(scratch.train_bases, CONFIG, spy, TRAIN, TEST, tmp_path)
    assert spy.states == ("base", 2)
    assert spy.steps == 20
    for member in spy.data.members:
        np.testing.assert_array_equal(np.asarray(spy.data.images)[member], TRAIN.images)
        np.testing.assert_array_equal(np.asarray(spy.data.labels)[member], TRAIN.labels)


def test_infimnist_is_made_of_training_images_alone_and_calibrated_on_base_0(monkeypatch, tmp_path):
    asked = []

    def generator(indices):
        asked.append(np.asarray(indices))
        return np.zeros((len(indices), 2, 2, 1), np.uint8), np.ones(len(indices), np.int32)

    def made(images, labels, key):
        assert images is TRAIN.images
        assert labels is TRAIN.labels
        return generator

    def calibrated(given, network, key, *, target):
        assert (given, network, target) == (generator, "net 0", 0.022)
        return generator

    monkeypatch.setattr(scratch, "classifiers", lambda bases: ["net 0", "net 1"])
    monkeypatch.setattr(scratch, "infimnist_like", made)
    monkeypatch.setattr(scratch, "calibrate", calibrated)
    monkeypatch.setattr(scratch, "misclassified_share", lambda generator, network, indices: asked.append(indices))
    monkeypatch.setattr(scratch, "fresh", lambda config, purpose, count: (purpose, count))
    config = dataclasses.replace(CONFIG, rows=(INFIMNIST, BASIC), infimnist_images=1500, infimnist_iterations=50)
    spy = Training()
    spy.of(scratch.train_infimnist, config, spy, None, TRAIN, None, tmp_path)
    # The first 10,000 indices are the test set; the training images themselves come next.
    assert min(indices.min() for indices in asked) == 10_000 + 8
    assert (spy.states, spy.steps, len(spy.data.members[1])) == (("infimnist", 2), 50, 1500)


@pytest.mark.parametrize("heldout_source", ["train", "test"])
def test_each_network_is_attacked_on_its_own_sources_by_every_type(heldout_source, monkeypatch):
    calls = []

    def spy(classifier, data, rows, attack, *, limit, batch, advance):
        calls.append((classifier, data.split, rows.tolist(), attack, limit, batch))
        return {"call": np.array(len(calls) - 1)}

    monkeypatch.setattr(adversaries, "attack_images", spy)
    heldout_from = {"train": TRAIN, "test": TEST}[heldout_source]
    sources, store = dataclasses.replace(SOURCES, heldout_from=heldout_from), MemoryStore()
    adversaries.attack_all(CONFIG, store, ["net 0", "net 1"], TRAIN, sources)
    for base in range(2):
        own = SOURCES.heldout[base].tolist()
        # Of three held-out images of a type base 0 gives two, base 1 one.
        wanted = {("train", kind): ("train", list(range(6)), 4) for kind in adversaries.training_types(CONFIG)}
        wanted |= {("heldout", kind): (heldout_source, own, (2, 1)[base]) for kind in HELD_OUT_TYPES}
        for (split, kind), (name, rows, limit) in wanted.items():
            call = calls[int(store.read(stage_name(split, base, kind))["call"])]
            assert call == (f"net {base}", name, rows, ATTACKS[kind], limit, 3), (split, kind)


def test_the_images_attacked_are_the_sources_with_their_labels(monkeypatch):
    seen = []

    def spy(attack, classifier, images, labels):
        seen.append((attack, classifier, np.asarray(images)[:, 0, 0, 0], np.asarray(labels)))
        return fake_perturbation(images, labels)

    monkeypatch.setattr(adversaries, "perturb", spy)
    found = attack_images("network", TEST, np.array([7, 2, 5, 1]), "attack", limit=9, batch=3)
    assert [call[:2] for call in seen] == [("attack", "network")] * 2
    np.testing.assert_allclose(seen[0][2] * 255, [107, 102, 105], rtol=1e-6)
    np.testing.assert_array_equal(seen[0][3], [7, 2, 5])
    np.testing.assert_allclose(seen[1][2] * 255, [101, 101, 101], rtol=1e-6)  # filled up with copies
    assert (found["source"].tolist(), found["attempted"], found["succeeded"]) == ([7, 2, 5, 1], 4, 4)
    np.testing.assert_array_equal(found["image"], TEST.images[[7, 2, 5, 1]])


@pytest.mark.parametrize("heldout_source", ["train", "test"])
def test_held_out_images_carry_the_labels_of_the_split_they_are_made_of(heldout_source, store):
    # Another order of the labels, so that each split's are told apart.
    other = dataclasses.replace(TEST, labels=TEST.labels[::-1].copy())
    heldout_from = {"train": TRAIN, "test": other}[heldout_source]
    found = load_held_out(CONFIG, store, heldout_from, other)
    assert found.test is other
    own = np.concatenate([heldout_from.labels[SOURCES.heldout[base]] for base in range(2)])
    np.testing.assert_array_equal(found.label, np.tile(own, 14))
    np.testing.assert_array_equal(found.kind, np.repeat(np.arange(14), 4))
    kinds = [list(ATTACKS).index(kind) for kind in HELD_OUT_TYPES]
    assert marks(found.image) == sorted(100 * (base + 1) + kind for base in range(2) for kind in kinds)


@pytest.mark.parametrize("heldout_source", ["train", "test"])
def test_scores_compare_each_image_with_the_source_it_is_made_of(heldout_source, store, monkeypatch):
    calls = []

    def spy(perturbed, original, padding, batch):
        calls.append((perturbed[:, 0, 0, 0].tolist(), original[:, 0, 0, 0].tolist(), padding, batch))
        return np.array([len(calls) - 1])

    monkeypatch.setattr(scoring, "score_pairs", spy)
    heldout_from = {"train": TRAIN, "test": TEST}[heldout_source]
    scoring.score_all(CONFIG, store, TRAIN, dataclasses.replace(SOURCES, heldout_from=heldout_from))
    for base in range(2):
        stored = store.read(scoring.score_name("heldout", base, "HC-1"))
        mark, first = 100 * (base + 1) + list(ATTACKS).index("HC-1"), 100 * (heldout_source == "test")
        originals = [first + row for row in SOURCES.heldout[base].tolist()]
        assert calls[int(stored["valid"][0])] == ([mark, mark], originals, "valid", 3)


def test_the_score_is_asked_for_the_perturbed_image_against_the_original(monkeypatch):
    """PASS warps its first image onto its second: the adversarial one onto the original."""

    def spy(image, template, *, padding):
        score = image.mean((1, 2, 3)) + 10 * template.mean((1, 2, 3)) + (100 if padding == "same" else 0)
        return types.SimpleNamespace(score=score)

    monkeypatch.setattr(scoring, "pass_score", spy)
    scoring._pass.clear_cache()
    perturbed, original = (np.full((4, 3, 5, 1), grey, np.uint8) for grey in (255, 51))
    np.testing.assert_allclose(scoring.score_pairs(perturbed, original, "valid", 3), np.full(4, 3.0), rtol=1e-6)
    np.testing.assert_allclose(scoring.score_pairs(perturbed, original, "same", 3), np.full(4, 103.0), rtol=1e-6)
    scoring._pass.clear_cache()


def test_photographs_too_are_scored_perturbed_against_original(monkeypatch):
    blocks = []

    def spy(pairs):
        blocks.extend(pairs)
        return [types.SimpleNamespace(score=np.zeros(len(pair[0]))) for pair in blocks]

    monkeypatch.setattr(imagenet_attack, "pass_scores", spy)
    perturbed, original = (np.full((5, 2, 2, 3), grey, np.uint8) for grey in (255, 51))
    assert len(imagenet_attack._scores(perturbed, original, 2)) == 5
    assert [(len(a), float(a.max()), round(float(b.max()), 3)) for a, b in blocks] == [
        (2, 1.0, 0.2), (2, 1.0, 0.2), (1, 1.0, 0.2),
    ]  # fmt: skip


def test_a_run_hands_each_stage_its_own_data(monkeypatch, tmp_path):
    """The held-out images come from the split that was asked for; every row goes on from the bases."""
    config, seen = dataclasses.replace(CONFIG, heldout_source="test"), {}

    def kept(name, result):
        def call(*arguments):
            seen.setdefault(name, []).append(arguments)
            return result

        return call

    monkeypatch.setattr(run, "load", lambda name, split, data_dir: {"train": TRAIN, "test": TEST}[split])
    results = {"trainer": "trainer", "train_bases": {}, "restore": "bases", "classifiers": ["net 0", "net 1"]}
    results |= {"attack_all": None, "score_all": None, "load_held_out": "held out"}
    results |= {"judge": {}, "finetune": {}, "report": "report"}
    for name, result in results.items():
        monkeypatch.setattr(run, name, kept(name, result))
    monkeypatch.setattr(run, "jobs", lambda config, store: [types.SimpleNamespace(name="FGV")])
    assert run.run(config, tmp_path / "out") == "report"
    (attacked,) = seen["attack_all"]
    assert attacked[2] == ["net 0", "net 1"]
    assert attacked[3] is TRAIN
    assert attacked[4].heldout_from is TEST
    (scored,) = seen["score_all"]
    assert scored[2] is TRAIN
    assert scored[3].heldout_from is TEST
    (held,) = seen["load_held_out"]
    assert (held[2] is TEST, held[3] is TEST) == (True, True)
    assert seen["judge"] == [("bases", "held out")]
    (tuned,) = seen["finetune"]
    assert tuned[3] == "bases"
    assert tuned[5] is TRAIN
    assert tuned[6] == "held out"


def test_bands_that_are_too_small_are_named_with_what_they_have(store):
    config = dataclasses.replace(CONFIG, band_minimum=15)
    # Base 0 has one image of each of nine types up to 0.5 and two above, base 1 two and one.
    assert bands.too_small(config, store) == {(0.0, 0.5): 9, (0.5, 1.0): 9}
    assert bands.too_small(CONFIG, store) == {}
    assert [job.name for job in finetune.jobs(config, store)] == ["HC-D-9", "FGV", "FGV, adversarial images only"]


def test_an_answer_that_is_no_number_is_wrong_in_any_place():
    def broken(weights, images):
        """The logits are the pixels of the image; grey level 255 stands for NaN."""
        pixels = images.reshape(images.shape[0], -1)
        return jnp.where(pixels == 1.0, jnp.nan, pixels) * weights

    rows = np.tile(np.arange(8, dtype=np.uint8), (4, 1))
    rows[1, 7] = 255  # the right class's own logit
    rows[2, 0] = 255  # another one's
    rows[3] = 255
    found = _count(from_function(broken, jnp.float32(1.0)), iter([(rows.reshape(4, 2, 4, 1), np.full(4, 7))]))
    assert found.tolist() == [3, 3, 4]


def test_figures_name_the_padding_of_pass_and_the_bands_that_are_left_out(store):
    found = [
        Metric("attack", f"train/{kind}", base, name, 0.5 + base)
        for kind in figures._METRIC_TYPES
        for base in range(2)
        for name in ("pass_valid", "l2_per_pixel", "linf")
    ]
    (axis,) = figures._fig5(CONFIG, found).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["PASS (valid)", "L2 per pixel", "L∞"]
    (axis,) = figures._fig4(CONFIG, store).axes
    assert axis.get_xlabel() == "PASS (valid: SSIM's windows inside the image)"
    errors = Errors(np.array([0.1, 0.3]), np.array([0.2, 0.4]), 10, 10)
    bands = {"PASS (valid) 0-500": errors, "PASS (valid) 500-1000": errors}
    figure = figures._fig6(CONFIG, errors, bands, ["PASS (valid) 0-100"])
    assert figure.get_suptitle() == "too few images, left out: PASS (valid) 0-100"
    assert {axis.get_xlabel() for axis in figure.axes} == {"PASS (valid) x 1000 of the images trained on"}
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0-500", "500-1000"]


class Photographs:
    """Four photographs of one grey level each."""

    def __init__(self, rows=(0, 1, 2, 3)):
        self.rows = np.asarray(rows)

    def take(self, rows):
        return Photographs(self.rows[rows])

    def in_memory(self, crop):
        return types.SimpleNamespace(
            images=np.tile((10 * self.rows[:, None, None, None]).astype(np.uint8), (1, 2, 2, 3))
        )


def test_photographs_are_kept_where_a_hot_cold_type_of_enough_pass_fooled_the_network(monkeypatch):
    """Two types to compare with (numbers 0, 1) and three ranks (2, 3, 4), on photographs 3, 1, 0 of labels 5, 6, 7."""
    config = ImagenetConfig("handed", model="resnet-small", ranks=3, compared=4, attack_batch=4, threshold=0.5)
    attacks = []

    def spy(attack, classifier, images, labels):
        attacks.append((attack, classifier, np.asarray(images)[:, 0, 0, 0] * 255, np.asarray(labels)))
        lead = () if len(attacks) < 3 else (3,)
        sizes = np.arange(4.0, dtype=np.float32) / 255 + np.zeros((*lead, 4), np.float32)
        level = np.full((*lead, 4), 100 + len(attacks)) + (np.arange(3)[:, None] if lead else 0)
        image = np.tile((level / np.float32(255))[..., None, None, None], (1,) * (len(lead) + 1) + (2, 2, 3))
        success = np.broadcast_to(np.array([True, False, True, True]), level.shape)
        found = {"image": image, "success": success, "prediction": level, "l2": sizes, "linf": sizes}
        return Perturbation(**{**dict.fromkeys(field.name for field in dataclasses.fields(Perturbation)), **found})

    def scores(blocks):
        return [
            types.SimpleNamespace(score=np.where(np.asarray(a)[:, 0, 0, 0] * 255 < 104.5, 0.9, 0.1)) for a, _ in blocks
        ]

    monkeypatch.setattr(imagenet_attack, "perturb", spy)
    monkeypatch.setattr(imagenet_attack, "pass_scores", scores)
    chosen = {"row": np.array([3, 1, 0]), "label": np.array([5, 6, 7], np.int32)}
    found = imagenet_attack.attack_photographs(config, Photographs(), chosen, "network", np.arange(3))
    assert [attack for attack, *_ in attacks] == [fgs(), fgv(), hot_cold(ranks=range(1, 4), cold="abs")]
    for _, classifier, pixels, labels in attacks:
        assert classifier == "network"
        np.testing.assert_allclose(pixels, [30, 10, 0, 30])  # filled up with copies
        np.testing.assert_array_equal(labels, [5, 6, 7, 5])
    np.testing.assert_array_equal(found["kind"], np.repeat(np.arange(5), 3))
    np.testing.assert_array_equal(found["source"], np.tile([0, 1, 2], 5))
    np.testing.assert_array_equal(found["prediction"], np.repeat([101, 102, 103, 104, 105], 3))
    # Of the ranks the first two have PASS enough, and photograph 1 was not fooled.
    assert found["record"].tolist() == [6, 8, 9, 11]
    assert marks(found["image"]) == [103, 104]
    assert found["shown_record"].tolist() == [0, 3, 6, 9, 12]
