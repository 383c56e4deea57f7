"""Hard positives at ImageNet's size: its parts, its command line, and (slow) whole runs on small coloured images."""

import argparse
import dataclasses
import inspect
import json
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax.classifier import from_function
from advjax.data import CenterCrop, Stream, image_folder
from advjax.models.registry import Network
from advjax.models.resnet import ResNet
from advjax.models.weights import WeightsError
from experiments.hard_positives.__main__ import main
from experiments.hard_positives.imagenet import network
from experiments.hard_positives.imagenet.command import configured, parser
from experiments.hard_positives.imagenet.config import PRESETS, Config
from experiments.hard_positives.imagenet.network import SMALL, crop_of, quick_solver, with_heads
from experiments.hard_positives.imagenet.photographs import Mixture, rightly_classified
from experiments.hard_positives.imagenet.run import run

SIDE = 32


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
    monkeypatch.setitem(network._NETWORKS, SMALL, TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images of four colours, one of them called goldfish."""
    root, rng = tmp_path_factory.mktemp("images") / "colours", np.random.default_rng(0)
    for number, name in enumerate(("ant", "bee", "cow", "goldfish")):
        (root / name).mkdir(parents=True)
        for index in range(3):
            colour = (
                np.full((40, 48, 3), 60) + 120 * ((number >> np.arange(3)) & 1) + rng.integers(-30, 30, (40, 48, 3))
            )
            Image.fromarray(colour.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def options(folder, *more):
    return parser().parse_args(["--images", str(folder), *map(str, more)])


def by_mean(weights, images):
    """Class 0 for dark images, 1 for bright ones."""
    mean = images.mean((1, 2, 3))
    return jnp.stack([weights - mean, mean - weights, jnp.full_like(mean, -9.0), jnp.full_like(mean, -9.0)], -1)


def test_the_paper_preset_is_the_papers():
    config = PRESETS["paper"]
    assert (config.images_per_class, config.ranks, config.threshold) == (15, 20, 0.99)
    assert (config.finetune_steps, config.batch_size, config.model) == (500_000, 80, "googlenet")
    assert crop_of(config) == CenterCrop((224, 224), (256, 256))


def test_every_configuration_says_where_its_weights_come_from():
    read = dataclasses.replace(PRESETS["paper"], weights="ab" * 32)
    assert "from a file" in read.provenance
    assert "never trained: not the paper's" in PRESETS["paper"].provenance
    assert PRESETS["paper"].own_labels
    assert "trained here for 100 steps on these few photographs: not the paper's" in PRESETS["quick"].provenance
    assert not read.own_labels
    assert not PRESETS["quick"].own_labels
    assert (read.cold, PRESETS["quick"].cold, PRESETS["paper"].cold) == ("paper", "paper", "abs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "lenet"}, "model must be one of resnet-small, vgg16, "),
        ({"ranks": 0}, "ranks must be at least 1"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\)"),
        ({"weights": "ab", "base_steps": 3}, "base_steps must be 0 with weights"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["paper"], **change)


def test_every_network_can_be_made_for_any_number_of_classes():
    for name, each in network._NETWORKS.items():
        bound = inspect.signature(each.make).bind(num_classes=7, rngs=None)
        assert {**bound.arguments, **bound.kwargs}["num_classes"] == 7, name


def test_the_solver_is_caffes_quick_solver():
    config = dataclasses.replace(PRESETS["paper"], finetune_steps=4, learning_rate=0.1, weight_decay=0.5, momentum=0.9)
    solver, params = quick_solver(config), {"layer": {"bias": jnp.ones(1), "kernel": jnp.ones(1)}}
    state, grads = solver.init(params), {"layer": {"bias": jnp.full(1, 2.0), "kernel": jnp.full(1, 2.0)}}
    w = {"bias": 1.0, "kernel": 1.0}
    v = {"bias": 0.0, "kernel": 0.0}
    for step in range(4):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = solver.update(grads, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        rate = 0.1 * (1 - step / 4) ** 0.5
        for name, multiple, decay in (("bias", 2, 0.0), ("kernel", 1, 0.5)):
            v[name] = 0.9 * v[name] + multiple * rate * (2.0 + decay * w[name])
            w[name] -= v[name]
            np.testing.assert_allclose(params["layer"][name], [w[name]], rtol=1e-5)


def test_auxiliary_heads_are_weighed():
    def three_heads(images, tap):
        for name in ("aux1", "aux2"):
            tap(name, 2.0 * images[:, 0, 0])
        tap("conv1", 5.0 * images[:, 0, 0])
        return tap("penultimate", images[:, 0, 0])

    images, labels = jnp.array([[[[0.3, 0.9]]]]), jnp.array([1])
    losses, logits = with_heads(0.3)(three_heads, images, labels)
    entropy = [np.log1p(np.exp(-factor * 0.6)) for factor in (1, 2)]
    np.testing.assert_allclose(losses, [entropy[0] + 0.6 * entropy[1]], rtol=1e-5)
    np.testing.assert_array_equal(logits, images[:, 0, 0])


def test_right_photographs_are_chosen_up_to_so_many_a_class(folder):
    images = image_folder(folder)
    dark, bright = image_folder(folder).in_memory(crop_of(MICRO)).images[[0, 3]].mean((1, 2, 3)) / 255
    chosen = rightly_classified(MICRO, images, from_function(by_mean, jnp.float32((dark + bright) / 2)))
    np.testing.assert_array_equal(np.bincount(chosen["label"], minlength=4), [2, 2, 0, 0])
    np.testing.assert_array_equal(images.labels[chosen["row"]], chosen["label"])
    assert chosen["read"] == 12
    nothing = from_function(lambda w, x: jnp.stack([w * 0.0, w * 0.0, w * 0.0, w * 0.0, w + 1.0], -1), jnp.zeros(64))
    with pytest.raises(ValueError, match="gets none of 12 photographs right"):
        rightly_classified(MICRO, images, nothing)


def test_a_network_that_learnt_nothing_labels_its_photographs_itself(folder):
    config = dataclasses.replace(MICRO, base_steps=0)
    chosen = rightly_classified(config, image_folder(folder), from_function(by_mean, jnp.float32(-1.0)))
    np.testing.assert_array_equal(chosen["label"], np.ones(8))
    assert image_folder(folder).labels[chosen["row"][0]] == 3  # the goldfish comes first


def test_photographs_and_hard_positives_are_one_pool(folder):
    images = image_folder(folder)
    positives = np.full((2, SIDE, SIDE, 3), 7, np.uint8)
    pool = Mixture(images, crop_of(MICRO), None, positives, np.array([3, 1], np.int32))
    assert len(pool) == 14
    stream = Stream(pool, 7, seed=0, threads=1)
    pixels, labels = stream.take(2)
    stream.close()
    made = (pixels == 7).all((2, 3, 4))
    assert sorted(labels[made]) == [1, 3]
    np.testing.assert_array_equal(np.bincount(labels[~made]), [3, 3, 3, 3])
    relabelled = Mixture(images, crop_of(MICRO), np.full(12, 2, np.int32), positives, np.array([3, 1], np.int32))
    assert relabelled[5]["label"] == 2


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
    given = options(tmp_path / "flat", "--weights", tmp_path / "w.safetensors", "--classes", 2, "--model", "googlenet")
    config, images, _ = configured(given)
    assert len(set(images.labels)) == 2
    assert set(images.labels) < {17, 1, 999, 404}
    assert (config.base_steps, len(config.weights)) == (0, 64)
    _, renumbered, _ = configured(options(tmp_path / "flat", "--classes", 2))
    assert set(renumbered.labels) == {0, 1}


def test_what_does_not_fit_together_is_refused(folder, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"must be ImageNet's: 1000 class folders.* got 4 classes"):
        configured(options(folder, "--weights", tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="a network without either knows no labels"):
        configured(options(folder, "--validation", folder, "--base-steps", 0))
    with pytest.raises(ValueError, match=r"count must be in 1\.\.4"):
        configured(options(folder))
    with pytest.raises(ValueError, match="ranks=4 needs more classes than the 4"):
        run(dataclasses.replace(MICRO, ranks=4), image_folder(folder), None, tmp_path / "out")


def test_the_command_line_ends_with_one_line(tmp_path, folder):
    with pytest.raises(SystemExit, match=r"error: .*nowhere is no folder"):
        main(["--data", "imagenet", "--images", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="error: data set 'imagenet2012' is not there"):
        main(["--data=imagenet", "--images", "imagenet2012", "--data-dir", str(tmp_path)])
    assert isinstance(options(folder), argparse.Namespace)


def test_weights_that_are_none_are_refused(tmp_path, folder):
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    config = dataclasses.replace(MICRO, weights="ab", base_steps=0)
    with pytest.raises(WeightsError):
        run(config, image_folder(folder), None, tmp_path / "out", str(tmp_path / "w.safetensors"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    out = tmp_path_factory.mktemp("runs") / "micro"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(network._NETWORKS, SMALL, TINY)
        return out, run(MICRO, image_folder(folder), None, out)


@pytest.mark.slow
def test_every_output_is_there_and_says_what_the_weights_are(finished):
    out, summary = finished
    assert "not the paper's weights" in summary
    page = (out / "imagenet.md").read_text()
    assert page.count("not the paper's weights") >= 3
    assert "## Fig. 3: four attacks on one photograph (goldfish)" in page
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
        assert stored["attacked"][0] == 0
        assert stored["positives"][0] == stored["positives"][2] > 0
        assert stored["crops"][2] == 2 * stored["attacked"][2]


@pytest.mark.slow
def test_a_finished_run_reports_at_once(finished, folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    for name in ("base_network", "rightly_classified", "finetune", "judge"):
        monkeypatch.setattr(f"experiments.hard_positives.imagenet.run.{name}", never)
    monkeypatch.setattr("experiments.hard_positives.imagenet.attack.attack_photographs", never)
    out, summary = finished
    assert run(MICRO, image_folder(folder), None, out) == summary
    with pytest.raises(ValueError, match="another configuration"):
        run(dataclasses.replace(MICRO, seed=1), image_folder(folder), None, out)


@pytest.mark.slow
def test_random_weights_and_a_validation_set(tmp_path, folder):
    """Random weights label for themselves; a trained network is judged by the validation images it is given."""
    config = dataclasses.replace(MICRO, base_steps=0, images_per_class=1, finetune_steps=1)
    summary = run(config, image_folder(folder), None, tmp_path / "random")
    assert "random weights, never trained: not the paper's" in summary
    assert "the network's own answers" in (tmp_path / "random" / "imagenet.md").read_text()
    config = dataclasses.replace(MICRO, images_per_class=1, finetune_steps=1)
    summary = run(config, image_folder(folder), image_folder(folder), tmp_path / "judged")
    assert "validation images, center crops: top-1 error" in summary


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ADVJAX_IMAGENET_SAMPLES"), reason="no ADVJAX_IMAGENET_SAMPLES")
def test_the_sample_photographs_from_the_command_line(tmp_path, capsys):
    samples = os.environ["ADVJAX_IMAGENET_SAMPLES"]
    few = ["--classes", "4", "--ranks", "2", "--base-steps", "20", "--finetune-steps", "2", "--attack-batch", "4"]
    main(["--data", "imagenet", "--images", samples, "--out", str(tmp_path / "out"), *few])
    assert "resnet-small, trained here for 20 steps" in capsys.readouterr().out
