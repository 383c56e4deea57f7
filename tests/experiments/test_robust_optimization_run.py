"""The experiment on a few digits: all outputs, resuming, its refusals; what it computes is slow and made up here.

What training and attacks are given is in test_robust_optimization_handed.py; whole runs are among the slow tests.
"""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from advjax.data import Dataset, load
from experiments import provenance
from experiments.provenance import commit
from experiments.robust_optimization.run import PRESETS, Config
from experiments.robust_optimization.study import STUDY
from experiments.study import Row, classifiers_of, run

TINY = Config(
    preset="tiny",
    data="digits",
    norms=("l1", "linf"),
    radii=(4.0, 0.4),
    epochs=3,
    batch_size=32,
    learning_rate=1.0,
    epsilons=(0.0, 0.1, 0.3),
    test_images=48,
    pgd_images=16,
    attack_batch=24,
)


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """The first digits alone: each step of training on eight simulated devices is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            provenance,
            "load",
            lambda name, split, data_dir: load(
                name, f"{split}[:192]" if name == "digits" else split, data_dir=data_dir
            ),
        )
        yield


def made_up_set(radii, baseline, test, batch):
    """Four images of each norm, changed in one pixel."""
    rows = np.arange(8)
    image = test.images[rows] / np.float32(255)
    image[:, 3, 3] += 1.5
    return {
        "image": image,
        "source": rows.astype(np.int32),
        "label": test.labels[rows],
        "prediction": (test.labels[rows] + 1) % 10,
        "norm": np.repeat(np.arange(2, dtype=np.int32), 4),
        "l0": np.ones(8, np.int32),
        "stored_wrong": rows % 2 == 0,
    }


def made_up_answers(classifier, test, found, *rest):
    """A robust network is right on half of the set."""
    robust = classifier != "baseline"
    sweep = np.arange(48) < 48 * np.array([[0.9], [0.5], [0.1]]) + 4 * robust
    return {"test": sweep[0], "sweep": sweep, "pgd": np.arange(16) < 8, "adversarial": (np.arange(8) % 2 == 0) & robust}


def made_up_stages(patch):
    """Nothing is trained, attacked or judged."""
    for name, instead in {
        "train": lambda *args, **options: {"of": np.array(args[5].name), "validation_accuracy": np.full(3, 0.9)},
        "restored_model": lambda model, arrays: str(arrays["of"]),
        "from_nnx": lambda model: model,
        "adversarial_set": made_up_set,
        "judge": made_up_answers,
    }.items():
        patch.setattr(f"experiments.robust_optimization.run.{name}", instead)


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
    assert "scikit-learn's digits, baseline: " in summary
    assert "scikit-learn's digits, robust linf: " in summary
    page = (out / "table.md").read_text()
    assert "not MNIST" in page
    assert "Holds: robust networks take about the same number of epochs to converge as the baseline (Fig. 5)" in page
    assert "another seed would train other networks" in page
    assert "| epochs | 120 (baseline; the robust scripts give no end) | 3, every network |" in page
    for name in ("pixel.png", "samples.png", "epsilon.png", "epochs.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture).std() > 5, name
    content = json.loads((out / "config.json").read_text())
    assert content["config"]["radii"] == [4.0, 0.4]
    assert content["commit"] == commit()
    assert content["data"] in page
    assert content["data"].startswith("digits, 192 and 192 images (SHA-256 ")
    assert content["hardware"]["devices"]
    assert content["summary"] == summary.splitlines()[:3]
    assert content["seconds"].keys() >= {"train/linf", "adversarial", "judged/baseline"}


@pytest.mark.parametrize("folder", ["finished", pytest.param("computed", marks=pytest.mark.slow)])
def test_the_metrics_hold_every_network_and_the_baseline_gets_the_whole_set_wrong(folder, request):
    rows = [line.split(",") for line in (request.getfixturevalue(folder)[0] / "metrics.csv").read_text().splitlines()]
    assert rows[0] == list(Row._fields)
    assert {row[0] for row in rows[1:]} == {"robust_optimization"}
    value = {(row[2], row[4], row[5], row[6]): float(row[8]) for row in rows[1:]}
    assert value["baseline", "A", "", "accuracy"] == 0
    assert value["baseline", "", "", "accuracy"] == value["baseline", "fgs", "0", "accuracy"]
    assert {network for network, *_ in value} == {"baseline", "robust l1", "robust linf"}
    assert {("robust linf", "", "", f"accuracy of epoch {epoch}") for epoch in (1, 2, 3)} <= value.keys()


@pytest.mark.parametrize("folder", ["finished", pytest.param("computed", marks=pytest.mark.slow)])
def test_a_run_goes_on_after_its_finished_stages(folder, request, monkeypatch):
    out, summary = request.getfixturevalue(folder)
    if folder == "finished":
        made_up_stages(monkeypatch)

    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr("experiments.robust_optimization.run.train", never)
    marker = out / "stages" / "judged" / "l1.json"
    with np.load(marker.with_suffix(".npz")) as stored:
        before = {name: stored[name] for name in stored.files}
    marker.unlink()
    assert run(STUDY, TINY, out).splitlines()[:3] == summary.splitlines()[:3]
    with np.load(marker.with_suffix(".npz")) as stored:
        for name, values in before.items():
            np.testing.assert_array_equal(stored[name], values, err_msg=name)


def test_a_folder_of_another_configuration_is_refused(finished):
    with pytest.raises(ValueError, match=r"another configuration \(seed: 0 -> 1\)"):
        run(STUDY, dataclasses.replace(TINY, seed=1), finished[0])


def test_another_study_gets_the_networks_of_a_finished_run(finished, monkeypatch):
    made_up_stages(monkeypatch)
    assert classifiers_of(STUDY, TINY, finished[0]) == {name: name for name in TINY.networks}


@pytest.mark.slow
def test_the_color_half_runs(rng, tmp_path, monkeypatch):
    sets = {
        split: Dataset(
            "cifar10",
            split,
            rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8),
            np.arange(16, dtype=np.int32) % 10,
            10,
        )
        for split in ("train", "test")
    }
    monkeypatch.setattr(provenance, "load", lambda name, split, data_dir: sets[split])
    config = dataclasses.replace(
        PRESETS["paper-cifar10"],
        norms=("linf",),
        radii=(0.02,),
        epochs=1,
        batch_size=8,
        epsilons=(0.0, 0.5),
        test_images=8,
        pgd_images=4,
        set_size=0,
        attack_batch=8,
    )
    summary = run(STUDY, config, tmp_path / "out")
    assert "CIFAR-10, baseline: " in summary
    # A report says what it read, not what lay in some folder once.
    page = (tmp_path / "out" / "table.md").read_text()
    assert "Images read: cifar10, 16 and 16 images: not the original pixels, or not all of them (SHA-256 " in page
    assert (tmp_path / "out" / "epochs.png").exists()
    assert (tmp_path / "out" / "epsilon.png").exists()
