"""The experiment on a few digits: all outputs, resuming, its refusals; what it computes is slow and made up here.

What training and attacks are given is in test_localized_training_handed.py; a whole run is among the slow tests.
"""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from experiments.localized_training.__main__ import main, parse
from experiments.localized_training.config import INPUTS, MODELS, PRESETS, Config
from experiments.localized_training.run import run
from experiments.provenance import commit

TINY = Config(
    preset="tiny",
    data="digits",
    held_back=1_233,
    batch_size=8,
    natural_steps=4,
    adversarial_steps=2,
    train_attack_steps=1,
    train_step_size=0.3,
    attack_steps=2,
    step_size=0.2,
    test_images=16,
    strong_models=(),
    strong_images=8,
    attack_batch=16,
    block=2,
    checkpoint_every=2,
)


def made_up(config, classifier, test):
    """Losses that fall, as those of a judged model."""
    rng = np.random.default_rng(len(classifier))
    counts = dict.fromkeys(INPUTS, config.test_images) | {"natural": len(test.labels)}
    losses = {f"loss_{name}": rng.uniform(1, 2, count).astype(np.float32) / (1 + n)
              for n, (name, count) in enumerate(counts.items())}  # fmt: skip
    return {**losses, **{f"right_{name}": rng.uniform(size=count) < 0.5 for name, count in counts.items()}}


def shown(config, classifier, test):
    """Ten digits under four attacks that do nothing."""
    source = np.array([np.flatnonzero(test.labels == digit)[0] for digit in range(10)], np.int32)
    image = np.tile(test.images[source] / np.float32(255), (4, 1, 1, 1, 1))
    return {"source": source, "region": image > 0.5, "image": image, "prediction": np.zeros((4, 10), np.int32)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        for name, instead in {
            "train_model": lambda config, model, train, folder: {"of": np.array(model)},
            "classifier_of": lambda config, arrays: str(arrays["of"]),
            "judge": made_up,
            "examples": shown,
        }.items():
            patch.setattr(f"experiments.localized_training.run.{name}", instead)
        return out, run(TINY, out)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "computed"
    return out, run(TINY, out)


def test_every_output_is_there_and_says_what_the_data_are(finished):
    out, summary = finished
    assert "natural model on scikit-learn's digits" in summary
    assert "olds: natural model: standard > background > exact > broad" in summary
    page = (out / "fig2.md").read_text()
    assert "not MNIST" in page
    assert "Not run." in page
    assert page.count("less loss than the natural model under every attack (here") == 2
    assert "The paper gives two of them, of the natural model: 99.19 on natural images and 0.08" in page
    assert "| adversarial models | 100,000 steps of 50, PGD of 100 steps | 2 steps of 8, PGD of 1 steps |" in page
    for name in ("fig1.png", "fig2.png", "accuracy.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture).std() > 5, name
    content = json.loads((out / "config.json").read_text())
    assert content["config"]["localize"] == "after"
    assert content["commit"] == commit()
    assert content["data"] in page
    assert content["data"].startswith("digits, 1,297 and 500 images (SHA-256 ")
    assert content["hardware"]["devices"]
    assert content["seconds"].keys() >= {f"train/{model}" for model in MODELS}


def test_all_25_cells_are_there(finished):
    rows = [line.split(",") for line in (finished[0] / "metrics.csv").read_text().splitlines()]
    assert rows[0] == ["model", "input", "metric", "images", "value"]
    losses = {(row[0], row[1]): float(row[4]) for row in rows if row[2] == "loss"}
    assert len(losses) == 25
    assert all(loss > 0 for loss in losses.values())
    images = {row[1]: int(row[3]) for row in rows if row[0] == "broad" and row[2] == "accuracy"}
    assert images == {"natural": 500, "standard": 16, "background": 16, "exact": 16, "broad": 16}


@pytest.mark.slow
def test_a_whole_run_reports_what_it_computed(computed):
    out, summary = computed
    assert "natural model on scikit-learn's digits" in summary
    lines = (out / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 25
    assert all(float(line.split(",")[4]) > 0 for line in lines if ",loss," in line)


@pytest.mark.slow
def test_all_models_start_from_the_same_weights_and_end_apart(computed):
    def stored(model):
        with np.load(computed[0] / "stages" / "train" / f"{model}.npz") as arrays:
            return np.concatenate([arrays[name].ravel() for name in arrays.files if "kernel" in name])

    natural, standard = stored("natural"), stored("standard")
    # Adam moves each weight by about the learning rate a step.
    assert 0 < np.abs(natural - standard).max() < 20 * TINY.learning_rate


def test_a_finished_run_reports_at_once(finished, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr("experiments.localized_training.run.classifier_of", lambda config, arrays: "network")
    for name in ("train_model", "judge", "judge_strongly", "examples"):
        monkeypatch.setattr(f"experiments.localized_training.run.{name}", never)
    out, summary = finished
    assert run(TINY, out) == summary


def test_a_folder_of_another_configuration_is_refused(finished):
    with pytest.raises(ValueError, match=r"another configuration \(seed: 0 -> 1\)"):
        run(dataclasses.replace(TINY, seed=1), finished[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_back": 1_290}, "held_back=1290 leaves less than a batch of the 1297"),
        ({"test_images": 501}, "test_images=501 exceeds the 500"),
        ({"strong_images": 501}, "strong_images=501 exceeds the 500"),
    ],
)
def test_too_small_a_set_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(TINY, **change), tmp_path / "out")


def test_an_absent_data_set_ends_the_program_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: data set 'mnist' is not there"):
        main(["--preset", "cpu", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")])


def test_command_line():
    config, out, data_dir = parse(["--preset", "cpu", "--seed", "3", "--localize", "inside", "--natural-steps", "7"])
    assert (config.seed, config.localize, config.natural_steps, config.data) == (3, "inside", 7, "mnist")
    assert (out, data_dir) == ("runs/localized_training-cpu", None)
    assert parse([])[0] == PRESETS["quick"]


def test_command_line_refuses_nonsense(capsys):
    with pytest.raises(SystemExit):
        parse(["--adversarial-steps", "0"])
    assert "adversarial_steps must be at least 1" in capsys.readouterr().err
