"""The experiment on a few digits: all outputs, resuming, its refusals; what it computes is slow and made up here.

What training and attacks are given is in test_localized_training_handed.py; a whole run is among the slow tests.
"""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from experiments.localized_training.run import MODELS, PRESETS, Config
from experiments.localized_training.study import INPUTS, STUDY
from experiments.provenance import commit
from experiments.study import Row, classifiers_of, run

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


def made_up(attacks, classifier, test, count, key, batch):
    """Losses that fall, as those of a judged model."""
    rng = np.random.default_rng(len(classifier))
    counts = {"natural": len(test.labels), **dict.fromkeys(attacks, count)}
    losses = {f"loss_{name}": rng.uniform(1, 2, own).astype(np.float32) / (1 + n)
              for n, (name, own) in enumerate(counts.items())}  # fmt: skip
    return {**losses, **{f"right_{name}": rng.uniform(size=own) < 0.5 for name, own in counts.items()}}


def shown(regions, attacks, classifier, test, key):
    """Ten digits under four attacks that do nothing."""
    source = np.array([np.flatnonzero(test.labels == digit)[0] for digit in range(10)], np.int32)
    image = np.tile(test.images[source] / np.float32(255), (4, 1, 1, 1, 1))
    return {"source": source, "region": image > 0.5, "image": image, "prediction": np.zeros((4, 10), np.int32)}


def made_up_stages(patch):
    """Nothing is trained, attacked or judged."""
    for name, instead in {
        "network": lambda seed: None,
        "train": lambda *args, **options: {"of": np.array(args[5].name)},
        "classifier_of": lambda model, arrays: str(arrays["of"]),
        "judge": made_up,
        "examples": shown,
    }.items():
        patch.setattr(f"experiments.localized_training.run.{name}", instead)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        made_up_stages(patch)
        return out, run(STUDY, TINY, out)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "computed"
    return out, run(STUDY, TINY, out)


def test_every_output_is_there_and_says_what_the_data_are(finished):
    out, summary = finished
    assert "natural model on scikit-learn's digits" in summary
    assert "olds: natural model: standard > background > exact > broad" in summary
    page = (out / "table.md").read_text()
    assert "not MNIST" in page
    assert page.count("less loss than the natural model under every attack (here") == 2
    assert "another seed would change" in page
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
    assert content["summary"] == summary.splitlines()[:-1]
    assert content["seconds"].keys() >= {f"train/{model}" for model in MODELS}


@pytest.mark.parametrize("folder", ["finished", pytest.param("computed", marks=pytest.mark.slow)])
def test_all_25_cells_are_there(folder, request):
    rows = [line.split(",") for line in (request.getfixturevalue(folder)[0] / "metrics.csv").read_text().splitlines()]
    assert rows[0] == list(Row._fields)
    losses = {(row[2], row[4], row[5]): float(row[8]) for row in rows if row[6] == "loss"}
    epsilon = {name: "" if name == "natural" else "0.3" for name in INPUTS}
    attack = {name: "" if name == "natural" else name for name in INPUTS}
    assert losses.keys() == {(model, attack[name], epsilon[name]) for model in MODELS for name in INPUTS}
    assert all(loss > 0 for loss in losses.values())
    images = {(row[1], row[4]): int(row[7]) for row in rows if row[2] == "broad" and row[6] == "accuracy"}
    assert images == {("digits/test", ""): 500, **{("digits/test[:16]", name): 16 for name in INPUTS[1:]}}


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

    made_up_stages(monkeypatch)
    for name in ("train", "judge", "examples"):
        monkeypatch.setattr(f"experiments.localized_training.run.{name}", never)
    out, summary = finished
    assert run(STUDY, TINY, out) == summary


def test_a_folder_of_another_configuration_is_refused(finished):
    with pytest.raises(ValueError, match=r"another configuration \(seed: 0 -> 1\)"):
        run(STUDY, dataclasses.replace(TINY, seed=1), finished[0])


def test_another_study_gets_the_networks_of_a_finished_run(finished, monkeypatch):
    made_up_stages(monkeypatch)
    assert classifiers_of(STUDY, TINY, finished[0]) == {model: model for model in MODELS}


def test_the_presets_have_times():
    assert STUDY.times.keys() == PRESETS.keys()
