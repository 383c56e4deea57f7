"""Hard positives at ImageNet's size: its parts, what they hand over, its command line, and (slow) whole small runs."""

import csv
import dataclasses
import inspect
import json
import os
import shutil
import types
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax.attacks import Perturbation, fgs, fgv, hot_cold
from advjax.classifier import from_function
from advjax.data import CenterCrop, Mixture, Stream, image_folder
from advjax.evaluate import answers_of, logits_of
from advjax.models.registry import Network
from advjax.models.resnet import ResNet
from advjax.models.weights import WeightsError
from experiments.command import main
from experiments.config import explained, with_settings
from experiments.hard_positives.imagenet import run as stages_of
from experiments.hard_positives.imagenet.run import (
    COMPARED,
    PRESETS,
    Config,
    Photographs,
    attack_photographs,
    crop_of,
    judge,
    load,
    rightly_classified,
)
from experiments.hard_positives.imagenet.study import STUDY, provenance
from experiments.store import open_store
from experiments.study import run
from tests.experiments.spies import MemoryStore

SIDE, SMALL = 32, "resnet-small"


class Tiny(Network):
    """A network whose photographs are cut to a small square."""

    @property
    def crop(self):
        return CenterCrop((SIDE, SIDE), SIDE)


TINY = Tiny(partial(ResNet, (1, 1, 1, 1), width=4), (SIDE, SIDE, 3), "for tests")

MICRO = Config(
    preset="micro",
    model=SMALL,
    images_per_class=2,
    ranks=3,
    threshold=0.3,
    base_steps=40,
    base_batch=12,
    base_rate=0.01,
    finetune_steps=4,
    batch_size=8,
    crops=2,
    attack_batch=4,
    compared=4,
    block=4,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The small network, smaller still."""
    monkeypatch.setitem(stages_of._NETWORKS, SMALL, TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images of four colors, one of them called goldfish."""
    root, rng = tmp_path_factory.mktemp("images") / "colors", np.random.default_rng(0)
    for number, name in enumerate(("ant", "bee", "cow", "goldfish")):
        (root / name).mkdir(parents=True)
        for index in range(3):
            color = np.full((40, 48, 3), 60) + 120 * ((number >> np.arange(3)) & 1) + rng.integers(-30, 30, (40, 48, 3))
            Image.fromarray(color.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def numbered(folder, tmp_path_factory):
    """The same in one folder, labeled by the numbers of a published network; and a file that holds no weights."""
    root = tmp_path_factory.mktemp("numbered")
    flat, lines = root / "flat", ["file,label"]
    flat.mkdir()
    for label, name in zip((17, 1, 999, 404), ("ant", "bee", "cow", "goldfish"), strict=True):
        for index in range(3):
            shutil.copy(folder / name / f"{index}.png", flat / f"{name}-{index}.png")
            lines.append(f"{name}-{index}.png,{label}")
    (flat / "labels.csv").write_text("\n".join(lines))
    (root / "w.safetensors").write_bytes(b"no weights")
    return flat, root / "w.safetensors"


def loaded(preset, *settings):
    return load(with_settings(PRESETS[preset], settings), None)


def by_mean(weights, images):
    """Class 0 for dark images, 1 for bright ones."""
    mean = images.mean((1, 2, 3))
    return jnp.stack([weights - mean, mean - weights, jnp.full_like(mean, -9.0), jnp.full_like(mean, -9.0)], -1)


def test_the_paper_preset_is_the_papers():
    config = PRESETS["paper"]
    assert (config.images_per_class, config.ranks, config.threshold) == (15, 20, 0.99)
    assert (config.finetune_steps, config.batch_size, config.model) == (500_000, 80, "googlenet")
    assert crop_of(config.model) == CenterCrop((224, 224), (256, 256))


def test_every_configuration_says_where_its_weights_come_from():
    read = dataclasses.replace(PRESETS["paper"], weights="ab" * 32)
    assert "from a file" in provenance(read)
    assert "never trained: not the paper's" in provenance(PRESETS["paper"])
    assert PRESETS["paper"].own_labels
    assert "trained here for 100 steps on these few photographs: not the paper's" in provenance(PRESETS["quick"])
    assert not read.own_labels
    assert not PRESETS["quick"].own_labels
    assert (read.cold, PRESETS["quick"].cold, PRESETS["paper"].cold) == ("paper", "paper", "abs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "lenet"}, r"model must be among \('resnet-small', 'vgg16', "),
        ({"ranks": 0}, "ranks must be at least 1"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\)"),
        ({"base_steps": -1}, "base_steps must be at least 0"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["paper"], **change)


def test_every_network_can_be_made_for_any_number_of_classes():
    for name, each in stages_of._NETWORKS.items():
        bound = inspect.signature(each.make).bind(num_classes=7, rngs=None)
        assert {**bound.arguments, **bound.kwargs}["num_classes"] == 7, name


def test_right_photographs_are_chosen_up_to_so_many_a_class(folder):
    images = image_folder(folder)
    dark, bright = image_folder(folder).in_memory(crop_of(SMALL)).images[[0, 3]].mean((1, 2, 3)) / 255
    right = partial(rightly_classified, images, crop_of(SMALL))
    chosen = right(from_function(by_mean, jnp.float32((dark + bright) / 2)), 2, False, 0)
    np.testing.assert_array_equal(np.bincount(chosen["label"], minlength=4), [2, 2, 0, 0])
    np.testing.assert_array_equal(images.labels[chosen["row"]], chosen["label"])
    assert (chosen["read"], chosen["right"]) == (12, 6)
    nothing = from_function(lambda w, x: jnp.stack([w * 0.0, w * 0.0, w * 0.0, w * 0.0, w + 1.0], -1), jnp.zeros(64))
    with pytest.raises(ValueError, match="gets none of 12 photographs right"):
        right(nothing, 2, False, 0)


def test_a_network_that_learnt_nothing_labels_its_photographs_itself(folder):
    classifier = from_function(by_mean, jnp.float32(-1.0))
    chosen = rightly_classified(image_folder(folder), crop_of(SMALL), classifier, 2, True, 0)
    np.testing.assert_array_equal(chosen["label"], np.ones(8))
    assert image_folder(folder).labels[chosen["row"][0]] == 3  # the goldfish comes first


def test_photographs_and_hard_positives_are_one_pool(folder):
    images = image_folder(folder)
    positives = np.full((2, SIDE, SIDE, 3), 7, np.uint8)
    pool = Mixture(images, crop_of(SMALL), None, positives, np.array([3, 1], np.int32))
    assert len(pool) == 14
    stream = Stream(pool, 7, seed=0, threads=1)
    pixels, labels = stream.take(2)
    stream.close()
    made = (pixels == 7).all((2, 3, 4))
    assert sorted(labels[made]) == [1, 3]
    np.testing.assert_array_equal(np.bincount(labels[~made]), [3, 3, 3, 3])
    relabelled = Mixture(images, crop_of(SMALL), np.full(12, 2, np.int32), positives, np.array([3, 1], np.int32))
    assert relabelled[5]["label"] == 2


def test_classes_of_a_published_network_keep_their_numbers(numbered):
    flat, file = numbered
    config, data, _ = loaded("quick", f"images={flat}", f"weights={file}", "classes=2", "model=googlenet", "ranks=3")
    assert len(set(data.images.labels)) == 2
    assert set(data.images.labels) < {17, 1, 999, 404}
    # The preset would train it; the weights of a file are attacked as they are.
    assert (config.base_steps, len(config.weights), data.checkpoint) == (0, 64, str(file))
    _, renumbered, _ = loaded("quick", f"images={flat}", "classes=2", "ranks=1")
    assert set(renumbered.images.labels) == {0, 1}


def test_what_does_not_fit_together_is_refused(folder, numbered):
    with pytest.raises(ValueError, match=r"must be ImageNet's: 1000 class folders.* got 4 classes"):
        loaded("quick", f"images={folder}", f"weights={numbered[1]}")
    with pytest.raises(ValueError, match="a network without either knows no labels"):
        loaded("quick", f"images={folder}", f"validation={folder}", "base_steps=0")
    with pytest.raises(ValueError, match="validation must have the classes of images"):
        loaded("quick", f"images={folder}", f"validation={numbered[0]}")
    with pytest.raises(ValueError, match=r"count must be in 1\.\.4"):
        loaded("quick", f"images={folder}")
    with pytest.raises(ValueError, match="ranks=4 needs more classes than the 4"):
        loaded("quick", f"images={folder}", "classes=0", "ranks=4")


def test_a_configuration_holds_digests_and_no_paths(folder, numbered, tmp_path):
    flat, file = numbered
    for source, more in ((folder, ()), (flat, (f"weights={file}",))):
        moved = tmp_path / "elsewhere" / source.name
        shutil.copytree(source, moved)
        one, other = (loaded("quick", f"images={path}", "classes=0", "ranks=3", *more) for path in (source, moved))
        assert (one.config, one.read) == (other.config, other.read)
        assert one.read == one.config.images
        assert "/" not in json.dumps(dataclasses.asdict(one.config))
    judged = loaded("quick", f"images={folder}", f"validation={folder}", "classes=0", "ranks=3")
    assert judged.config.validation == judged.config.images
    shutil.copy(folder / "ant" / "0.png", tmp_path / "elsewhere" / folder.name / "bee" / "9.png")
    another = loaded("quick", f"images={tmp_path / 'elsewhere' / folder.name}", "classes=0", "ranks=3")
    assert another.config.images != judged.config.images


def test_the_command_line_ends_with_one_line(tmp_path):
    command = partial(main, {STUDY.name: STUDY})
    out = ["hard_positives.imagenet", "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path)]
    with pytest.raises(
        SystemExit, match="error: images must name the training photographs: --set images=imagenet2012 or"
    ):
        command(out)
    with pytest.raises(SystemExit, match=r"error: .*nowhere is no folder"):
        command([*out, "--set", f"images={tmp_path / 'nowhere'}"])
    with pytest.raises(SystemExit, match="error: data set 'imagenet2012' is not there"):
        command([*out, "--set", "images=imagenet2012"])
    assert not (tmp_path / "out").exists()


def test_every_choice_is_explained():
    names = {line.partition("=")[0] for line in explained(PRESETS["paper"]).splitlines()}
    assert names == {field.name for field in dataclasses.fields(Config)} - {"preset"}


def test_weights_that_are_none_are_refused(numbered, tmp_path):
    flat, file = numbered
    with pytest.raises(WeightsError):
        run(STUDY, dataclasses.replace(MICRO, images=str(flat), weights=str(file)), tmp_path / "out")


class Greys:
    """Four photographs of one grey level each: 0, 10, 20, 30."""

    def __init__(self, rows=(0, 1, 2, 3)):
        self.rows = np.asarray(rows)

    def take(self, rows):
        return Greys(self.rows[rows])

    def in_memory(self, crop):
        return types.SimpleNamespace(
            images=np.tile((10 * self.rows[:, None, None, None]).astype(np.uint8), (1, 2, 2, 3))
        )


@pytest.fixture
def attacked(monkeypatch):
    """Photographs 3, 1, 0 of labels 5, 6, 7 attacked: what was found, what the attacks were given, and the scores."""
    attacks, scored = [], []

    def spy(attack, classifier, images, labels):
        attacks.append((attack, classifier, np.asarray(images)[:, 0, 0, 0] * 255, np.asarray(labels)))
        lead = () if len(attacks) < 3 else (3,)
        sizes = np.arange(4.0, dtype=np.float32) / 255 + np.zeros((*lead, 4), np.float32)
        level = np.full((*lead, 4), 100 + len(attacks)) + (np.arange(3)[:, None] if lead else 0)
        image = np.tile((level / np.float32(255))[..., None, None, None], (1,) * (len(lead) + 1) + (2, 2, 3))
        success = np.broadcast_to(np.array([True, False, True, True]), level.shape)
        found = {"image": image, "success": success, "prediction": level, "l2": sizes, "linf": sizes}
        return Perturbation(**{**dict.fromkeys(field.name for field in dataclasses.fields(Perturbation)), **found})

    def scores(perturbed, original, *, batch_size):
        scored.append((perturbed[:, 0, 0, 0], original[:, 0, 0, 0], batch_size))
        return np.where(scored[-1][0] < 104.5, 0.9, 0.1)

    monkeypatch.setattr(stages_of, "perturb", spy)
    monkeypatch.setattr(stages_of, "pass_all", scores)
    chosen = {"row": np.array([3, 1, 0]), "label": np.array([5, 6, 7], np.int32)}
    found = attack_photographs(
        Greys(), crop_of(SMALL), chosen, "network", np.arange(3), 4, COMPARED, 3, "abs", threshold=0.5
    )
    return found, attacks, scored


def test_photographs_are_kept_where_a_hot_cold_type_of_enough_pass_fooled_the_network(attacked):
    """Two types to compare with (numbers 0, 1) and three ranks (2, 3, 4)."""
    found, attacks, _ = attacked
    assert [attack for attack, *_ in attacks] == [fgs(), fgv(), hot_cold(ranks=range(1, 4), cold="abs")]
    for _, classifier, pixels, labels in attacks:
        assert classifier == "network"
        np.testing.assert_allclose(pixels, [30, 10, 0, 0])  # filled up with copies
        np.testing.assert_array_equal(labels, [5, 6, 7, 7])
    np.testing.assert_array_equal(found["kind"], np.repeat(np.arange(5), 3))
    np.testing.assert_array_equal(found["source"], np.tile([0, 1, 2], 5))
    np.testing.assert_array_equal(found["prediction"], np.repeat([101, 102, 103, 104, 105], 3))
    # Of the ranks the first two have PASS enough, and photograph 1 was not fooled.
    assert found["record"].tolist() == [6, 8, 9, 11]
    assert sorted(set(found["image"][:, 0, 0, 0].tolist())) == [103, 104]
    assert found["shown_record"].tolist() == [0, 3, 6, 9, 12]
    np.testing.assert_array_equal(found["shown"][:, 0, 0, 0], [101, 102, 103, 104, 105])


def test_photographs_too_are_scored_perturbed_against_original(attacked):
    """PASS warps its first image onto its second: the adversarial one onto the photograph that it is made of."""
    *_, ((perturbed, original, size),) = attacked
    np.testing.assert_array_equal(perturbed, np.repeat([101, 102, 103, 104, 105], 3))
    np.testing.assert_array_equal(original, np.tile([30, 10, 0], 5))
    assert size == 4


def test_a_set_of_several_parts_is_judged_image_by_image():
    rows = np.tile(np.arange(8, dtype=np.uint8), (2, 1)).reshape(2, 2, 4, 1)
    labels, classifier = np.array([7, 1]), from_function(lambda w, x: x.reshape(len(x), -1) * w, jnp.float32(1.0))
    parts = [("crops", rows, labels), ("positives", rows[:0], labels[:0]), ("crops", rows[:1], labels[:1])]
    found = judge(classifier, lambda: iter(parts))
    # By image, how many classes are above the right one.
    assert found["crops"].tolist() == [0, 6, 0]
    assert found["positives"].shape == (0,)


def test_a_network_is_judged_by_other_crops_unless_there_are_validation_images(folder):
    images, chosen = image_folder(folder), {"row": np.array([3, 8]), "label": np.array([1, 2], np.int32)}
    kept = np.zeros((3, SIDE, SIDE, 3), np.uint8), np.array([1, 1, 0])
    for validation, last in ((None, {"crops": [1, 2, 1, 2]}), (images, {"validation": images.labels.tolist()})):
        asked = stages_of.asked(images, validation, crop_of(SMALL), chosen, lambda: kept, 2, 0)
        found = {}
        for name, pixels, labels in asked:
            assert pixels.shape == (len(labels), SIDE, SIDE, 3)
            found[name] = found.get(name, []) + labels.tolist()
        assert found == {"attacked": [1, 2], "positives": [2, 2, 1], **last}


@pytest.mark.parametrize("base_steps", [40, 0])
def test_a_run_hands_each_stage_its_own_data(base_steps, folder, monkeypatch):
    """Three photographs in two batches, the second beyond `compared`; a hard positive is kept of the last of each."""
    images, chosen = image_folder(folder), {"row": np.array([3, 8, 0]), "label": np.array([1, 2, 0], np.int32)}
    attacked, tuned, judged = [], [], []

    def attack(*arguments):
        attacked.append(arguments)
        batch = arguments[4]
        return {"image": np.zeros((1, 2, 2, 3), np.uint8), "record": np.array([len(batch) - 1]), "source": batch}

    def train(trainer, model, stream, steps, key, folder, *, every):
        tuned.append((model, stream, steps, folder.name))
        return {"name": folder.name}

    monkeypatch.setattr(stages_of, "make_network", lambda *arguments: "model")
    monkeypatch.setattr(stages_of, "untrained", lambda *arguments: {"name": "base"})
    monkeypatch.setattr(stages_of, "classifier_of", lambda model, arrays: f"{model} {arrays['name']}")
    monkeypatch.setattr(stages_of, "restored_model", lambda model, arrays: f"{model} {arrays['name']}")
    monkeypatch.setattr(stages_of, "rightly_classified", lambda *arguments: chosen)
    monkeypatch.setattr(stages_of, "attack_photographs", attack)
    monkeypatch.setattr(stages_of, "Stream", lambda source, batch, **options: (source, batch))
    monkeypatch.setattr(stages_of, "train", train)
    monkeypatch.setattr(stages_of, "judge", lambda network, sets: judged.append(network) or {})
    config, store = dataclasses.replace(MICRO, base_steps=base_steps, attack_batch=2, compared=2), MemoryStore()
    for name, compute in stages_of.stages(config, Photographs(images, None, ""), store):
        store.ensure(name, compute)
    assert [arguments[4].tolist() for arguments in attacked] == [[0, 1], [2]]
    cold = "paper" if base_steps else "abs"
    for arguments, compared in zip(attacked, (COMPARED, {}), strict=True):
        assert arguments[2:4] == (chosen, "model base")
        assert arguments[5:] == (2, compared, 3, cold, 0.3)
    model, (pool, batch), steps, name = tuned[-1]
    assert (model, batch, steps, name) == ("model base", 8, 4, "tuned")
    assert pool.image_labels.tolist() == [2, 0]
    # Of a network that learnt nothing only the answers to the attacked photographs are known.
    labels = None if base_steps else [1, 2, 0]
    assert len(pool.photographs) == (12 if base_steps else 3)
    assert (pool.labels if pool.labels is None else pool.labels.tolist()) == labels
    assert len(tuned) == (2 if base_steps else 1)
    assert judged == ["model base", "model tuned"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    out = tmp_path_factory.mktemp("runs") / "micro"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stages_of._NETWORKS, SMALL, TINY)
        return out, run(STUDY, dataclasses.replace(MICRO, images=str(folder)), out)


@pytest.mark.slow
def test_every_output_is_there_and_says_what_the_weights_are(finished):
    out, summary = finished
    assert "not the paper's weights" in summary
    page = (out / "table.md").read_text()
    assert page.count("not the paper's weights") >= 3
    assert "Fig. 3, four attacks on one photograph (goldfish):" in page
    assert "| fine-tuning | 500,000 steps of 80 | 4 steps of 8 |" in page
    for name in ("fig3.png", "types.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture).std() > 5, name
    content = json.loads((out / "config.json").read_text())
    assert content["hardware"]["devices"]
    assert content["seconds"].keys() >= {"base", "chosen", "attack/00000", "tuned", "judged/tuned"}


@pytest.mark.slow
def test_the_stages_hold_what_the_tables_say(finished):
    out, _ = finished
    with np.load(out / "stages" / "attack" / "00000.npz") as stored:
        assert sorted(set(stored["kind"])) == [0, 1, 2, 3, 4]
        kept = stored["record"]
        assert (stored["success"][kept] & (stored["score"][kept] > 0.3) & (stored["kind"][kept] >= 2)).all()
        assert stored["image"].shape == (len(kept), SIDE, SIDE, 3)
        assert (stored["source"][stored["shown_record"]] == 0).all()
    with np.load(out / "stages" / "attack" / "00001.npz") as stored:
        assert sorted(set(stored["kind"])) == [2, 3, 4]  # beyond `compared`
    with np.load(out / "stages" / "judged" / "base.npz") as stored:
        above = dict(stored)
    # What is attacked was right, what is kept fooled the network.
    assert (above["attacked"] == 0).all()
    assert len(above["positives"]) > 0
    assert (above["positives"] >= 1).all()
    assert len(above["crops"]) == 2 * len(above["attacked"])
    with open(out / "metrics.csv") as file:
        rows = {(row["network"], row["data"], row["metric"]): row for row in csv.DictReader(file) if not row["attack"]}
    for metric, least in (("error", 1), ("top-5 error", 5)):
        row = rows["base", "colors/crops", metric]
        assert (float(row["value"]), int(row["images"])) == pytest.approx(
            ((above["crops"] >= least).mean(), len(above["crops"])), rel=1e-6
        )


@pytest.mark.slow
def test_a_finished_run_reports_at_once_wherever_its_images_are(finished, folder, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    for name in ("untrained", "train", "rightly_classified", "attack_photographs", "judge"):
        monkeypatch.setattr(stages_of, name, never)
    out, summary = finished
    moved = tmp_path / folder.name
    shutil.copytree(folder, moved)
    for path in (folder, moved):
        assert run(STUDY, dataclasses.replace(MICRO, images=str(path)), out) == summary
    with pytest.raises(ValueError, match="another configuration"):
        run(STUDY, dataclasses.replace(MICRO, images=str(folder), seed=1), out)


@pytest.mark.slow
def test_a_study_of_attacks_gets_the_networks_before_and_after(finished, folder):
    out, _ = finished
    config, data, read = load(dataclasses.replace(MICRO, images=str(folder)), None)
    store = open_store(out, config, read)
    networks, chosen = STUDY.classifiers(config, data, store.read), store.read("chosen")
    assert list(networks) == ["base", "tuned"]
    pixels = data.images.take(chosen["row"]).in_memory(crop_of(SMALL)).images
    np.testing.assert_array_equal(answers_of(networks["base"], pixels, 8), chosen["label"])
    positives = store.read("attack/00000", "image")["image"][:8]
    base, tuned = (logits_of(networks[name], positives, 8) for name in networks)
    assert np.abs(base - tuned).max() > 1e-3


@pytest.mark.slow
def test_random_weights_and_a_validation_set(tmp_path, folder):
    """Random weights label for themselves; a trained network is judged by the validation images it is given."""
    micro = dataclasses.replace(MICRO, images=str(folder), images_per_class=1, finetune_steps=1)
    summary = run(STUDY, dataclasses.replace(micro, base_steps=0), tmp_path / "random")
    assert "random weights, never trained: not the paper's" in summary
    assert "the network's own answers" in (tmp_path / "random" / "table.md").read_text()
    summary = run(STUDY, dataclasses.replace(micro, validation=str(folder)), tmp_path / "judged")
    assert "validation images, center crops: top-1 error" in summary


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ADVJAX_IMAGENET_SAMPLES"), reason="no ADVJAX_IMAGENET_SAMPLES")
def test_the_sample_photographs_from_the_command_line(tmp_path, capsys):
    samples = os.environ["ADVJAX_IMAGENET_SAMPLES"]
    few = ["classes=4", "ranks=2", "base_steps=20", "finetune_steps=2", "attack_batch=4"]
    arguments = [STUDY.name, "--out", str(tmp_path / "out"), "--set", f"images={samples}", *few]
    main({STUDY.name: STUDY}, arguments)
    assert "resnet-small, trained here for 20 steps" in capsys.readouterr().out
