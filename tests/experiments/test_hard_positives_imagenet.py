"""Hard positives at ImageNet's size: what it is handed, its parts, and (slow) whole runs on small colored images."""

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
from advjax.data import CenterCrop, Stream, image_folder
from advjax.models.registry import Network
from advjax.models.resnet import ResNet
from advjax.models.weights import WeightsError
from experiments.command import main
from experiments.hard_positives.imagenet import run as imagenet
from experiments.hard_positives.imagenet.run import (
    COMPARED,
    PRESETS,
    Config,
    Mixture,
    attack_photographs,
    crop_of,
    judge,
    load,
    rightly_classified,
)
from experiments.hard_positives.imagenet.study import STUDY, provenance
from experiments.study import classifiers_of, run

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
    monkeypatch.setitem(imagenet._NETWORKS, SMALL, TINY)


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


def given(folder, **changes):
    """The configuration for a folder of images."""
    return dataclasses.replace(MICRO, images=str(folder), **changes)


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
    assert "trained here for 100 steps on these few photographs: not the paper's" in provenance(PRESETS["quick"])
    assert [config.own_labels for config in (read, PRESETS["quick"], PRESETS["paper"])] == [False, False, True]
    assert [config.cold for config in (read, PRESETS["quick"], PRESETS["paper"])] == ["paper", "paper", "abs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "lenet"}, "model must be one of resnet-small, vgg16, "),
        ({"ranks": 0}, "ranks must be at least 1"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\)"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["paper"], **change)


def test_every_network_can_be_made_for_any_number_of_classes():
    for name, each in imagenet._NETWORKS.items():
        bound = inspect.signature(each.make).bind(num_classes=7, rngs=None)
        assert {**bound.arguments, **bound.kwargs}["num_classes"] == 7, name


def chosen_by(folder, bound, own_labels=False):
    return rightly_classified(
        image_folder(folder), crop_of(SMALL), from_function(by_mean, jnp.float32(bound)), 2, own_labels, 0
    )


def test_right_photographs_are_chosen_up_to_so_many_a_class(folder):
    images = image_folder(folder)
    dark, bright = images.in_memory(crop_of(SMALL)).images[[0, 3]].mean((1, 2, 3)) / 255
    chosen = chosen_by(folder, (dark + bright) / 2)
    np.testing.assert_array_equal(np.bincount(chosen["label"], minlength=4), [2, 2, 0, 0])
    np.testing.assert_array_equal(images.labels[chosen["row"]], chosen["label"])
    assert chosen["read"] == 12
    nothing = from_function(lambda w, x: jnp.stack([w * 0.0, w * 0.0, w * 0.0, w * 0.0, w + 1.0], -1), jnp.zeros(64))
    with pytest.raises(ValueError, match="gets none of 12 photographs right"):
        rightly_classified(images, crop_of(SMALL), nothing, 2, False, 0)


def test_a_network_that_learnt_nothing_labels_its_photographs_itself(folder):
    chosen = chosen_by(folder, -1.0, own_labels=True)
    np.testing.assert_array_equal(chosen["label"], np.ones(8))
    assert image_folder(folder).labels[chosen["row"][0]] == 3  # the goldfish comes first
    assert len(set(chosen["row"])) == 8


def test_photographs_and_hard_positives_are_one_pool(folder):
    images, made_labels = image_folder(folder), np.array([3, 1], np.int32)
    positives = np.full((2, SIDE, SIDE, 3), 7, np.uint8)
    pool = Mixture(images, crop_of(SMALL), None, positives, made_labels)
    assert len(pool) == 14
    stream = Stream(pool, 7, seed=0, threads=1)
    pixels, labels = stream.take(2)
    stream.close()
    made = (pixels == 7).all((2, 3, 4))
    assert sorted(labels[made]) == [1, 3]
    np.testing.assert_array_equal(np.bincount(labels[~made]), [3, 3, 3, 3])
    relabeled = Mixture(images, crop_of(SMALL), np.full(12, 2, np.int32), positives, made_labels)
    assert relabeled[5]["label"] == 2


def test_classes_of_a_published_network_keep_their_numbers(folder, tmp_path):
    names = [f"{name}/{i}.png" for name in ("ant", "bee", "cow", "goldfish") for i in range(3)]
    labels = [number for number in (17, 1, 999, 404) for _ in range(3)]
    for name in names:
        target = tmp_path / "flat" / name.replace("/", "-")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder / name).read_bytes())
    lines = [f"{name.replace('/', '-')},{label}" for name, label in zip(names, labels, strict=True)]
    (tmp_path / "flat" / "labels.csv").write_text("file,label\n" + "\n".join(lines))
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    file = str(tmp_path / "w.safetensors")
    config, data, _ = load(given(tmp_path / "flat", weights=file, classes=2, model="googlenet"), None)
    assert len(set(data.images.labels)) == 2
    assert set(data.images.labels) < {17, 1, 999, 404}
    assert (config.base_steps, len(config.weights), data.checkpoint) == (0, 64, file)
    _, data, _ = load(given(tmp_path / "flat", classes=2, ranks=1), None)
    assert set(data.images.labels) == {0, 1}


def test_the_configuration_holds_digests_so_that_a_folder_may_move(folder, tmp_path):
    shutil.copytree(folder, tmp_path / folder.name)
    one, moved = (load(given(place), None) for place in (folder, tmp_path / folder.name))
    assert one.config == moved.config
    assert str(tmp_path) not in str(moved.config)
    assert moved.read == moved.config.images


def test_what_does_not_fit_together_is_refused(folder, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    for changes, message in [
        ({"images": ""}, "images must name the training photographs: --set images=imagenet2012 or images=FOLDER"),
        ({"weights": str(tmp_path / "w.safetensors")}, r"must be ImageNet's: 1000 class folders.* got 4 classes"),
        ({"validation": str(folder), "base_steps": 0}, "a network without either knows no labels"),
        ({"classes": 5}, r"count must be in 1\.\.4"),
        ({"ranks": 4}, "ranks=4 needs more classes than the 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(dataclasses.replace(given(folder), **changes), None)


def test_the_command_line_ends_with_one_line(tmp_path):
    for images, message in [(tmp_path / "nowhere", "nowhere is no folder"), ("imagenet2012", "'imagenet2012' is not")]:
        arguments = ["--set", f"images={images}", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
        with pytest.raises(SystemExit, match=rf"error: .*{message}"):
            main({STUDY.name: STUDY}, [STUDY.name, *arguments])


def test_weights_that_are_none_are_refused(tmp_path, folder):
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    stages = imagenet.untrained, partial(imagenet.make_network, SMALL, 4, False, 0)
    with pytest.raises(WeightsError):
        stages[0](stages[1], image_folder(folder), crop_of(SMALL), str(tmp_path / "w.safetensors"))


def test_an_answer_that_is_no_number_is_wrong_in_any_place():
    def broken(weights, images):
        """The logits are the pixels of the image; grey level 255 stands for NaN."""
        pixels = images.reshape(images.shape[0], -1)
        return jnp.where(pixels == 1.0, jnp.nan, pixels) * weights

    rows = np.tile(np.arange(8, dtype=np.uint8), (4, 1))
    rows[1, 7] = 255  # the right class's own logit
    rows[2, 0] = 255  # another one's
    rows[3] = 255
    asked = [("set", rows.reshape(4, 2, 4, 1), np.full(4, 7)), ("none", rows[:0].reshape(0, 2, 4, 1), np.zeros(0, int))]
    found = judge(from_function(broken, jnp.float32(1.0)), lambda: iter(asked))
    assert (found["set"] >= 5).tolist() == [False, True, True, True]
    assert found["none"].shape == (0,)


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

    def scores(blocks):
        for perturbed, original in blocks:
            scored.append([np.round(255 * np.asarray(array)[:, 0, 0, 0]).tolist() for array in (perturbed, original)])
            yield types.SimpleNamespace(score=np.where(np.array(scored[-1][0]) < 104.5, 0.9, 0.1))

    monkeypatch.setattr(imagenet, "perturb", spy)
    monkeypatch.setattr(imagenet, "pass_scores", scores)
    chosen = {"row": np.array([3, 1, 0]), "label": np.array([5, 6, 7], np.int32)}
    numbers = (3, "abs", 0.5)
    found = attack_photographs(Photographs(), None, chosen, "network", np.arange(3), 4, COMPARED, *numbers)
    assert [attack for attack, *_ in attacks] == [fgs(), fgv(), hot_cold(ranks=range(1, 4), cold="abs")]
    for _, classifier, pixels, labels in attacks:
        assert classifier == "network"
        np.testing.assert_allclose(pixels, [30, 10, 0, 0])  # filled up with copies
        np.testing.assert_array_equal(labels, [5, 6, 7, 7])
    # PASS warps its first image onto its second: the perturbed one onto its own photograph.
    pairs = [pair for block in scored for pair in zip(*block, strict=True)]
    assert pairs == [(100 + kind, level) for kind in (1, 2, 3, 4, 5) for level in (30, 10, 0)]
    assert [len(block[0]) for block in scored] == [4, 4, 4, 3]
    np.testing.assert_array_equal(found["kind"], np.repeat(np.arange(5), 3))
    np.testing.assert_array_equal(found["source"], np.tile([0, 1, 2], 5))
    np.testing.assert_array_equal(found["prediction"], np.repeat([101, 102, 103, 104, 105], 3))
    # Of the ranks the first two have PASS enough, and photograph 1 was not fooled.
    assert found["record"].tolist() == [6, 8, 9, 11]
    assert sorted(set(found["image"][:, 0, 0, 0].tolist())) == [103, 104]
    assert found["shown_record"].tolist() == [0, 3, 6, 9, 12]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    out = tmp_path_factory.mktemp("runs") / "micro"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(imagenet._NETWORKS, SMALL, TINY)
        return out, run(STUDY, given(folder), out)


@pytest.mark.slow
def test_every_output_is_there_and_says_what_the_weights_are(finished):
    out, summary = finished
    assert "not the paper's weights" in summary
    page = (out / "table.md").read_text()
    assert page.count("ot the paper's weights") >= 3
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
        assert not stored["attacked"].any()
        assert stored["positives"].all()
        assert len(stored["positives"]) > 0
        assert len(stored["crops"]) == 2 * len(stored["attacked"])


@pytest.mark.slow
def test_a_finished_run_reports_at_once(finished, folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    for name in ("train", "rightly_classified", "attack_photographs", "judge"):
        monkeypatch.setattr(imagenet, name, never)
    out, summary = finished
    assert run(STUDY, given(folder), out) == summary
    study = STUDY._replace(presets={"micro": given(folder)})
    assert classifiers_of(study, "micro", out).keys() == {"base", "tuned"}
    with pytest.raises(ValueError, match="another configuration"):
        run(STUDY, given(folder, seed=1), out)


@pytest.mark.slow
def test_random_weights_and_a_validation_set(tmp_path, folder):
    """Random weights label for themselves; a trained network is judged by the validation images it is given."""
    config = given(folder, base_steps=0, images_per_class=1, finetune_steps=1)
    summary = run(STUDY, config, tmp_path / "random")
    assert "random weights, never trained: not the paper's" in summary
    assert "the network's own answers" in (tmp_path / "random" / "table.md").read_text()
    config = given(folder, images_per_class=1, finetune_steps=1, validation=str(folder))
    assert "validation images, center crops: top-1 error" in run(STUDY, config, tmp_path / "judged")


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ADVJAX_IMAGENET_SAMPLES"), reason="no ADVJAX_IMAGENET_SAMPLES")
def test_the_sample_photographs_from_the_command_line(tmp_path, capsys):
    samples = os.environ["ADVJAX_IMAGENET_SAMPLES"]
    few = ["classes=4", "ranks=2", "base_steps=20", "finetune_steps=2", "attack_batch=4"]
    main({STUDY.name: STUDY}, [STUDY.name, "--out", str(tmp_path / "out"), "--set", f"images={samples}", *few])
    assert "resnet-small, trained here for 20 steps" in capsys.readouterr().out
