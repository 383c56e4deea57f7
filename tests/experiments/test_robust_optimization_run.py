"""The experiment on a few digits: all outputs, resuming, its refusals; what it computes is slow and made up here.

What training and attacks are given is in test_robust_optimization_handed.py; whole runs are among the slow tests.
"""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from advjax.data import Dataset, load
from experiments.provenance import commit
from experiments.robust_optimization import preprocess
from experiments.robust_optimization.__main__ import main, parse
from experiments.robust_optimization.config import PRESETS, Config, Part
from experiments.robust_optimization.run import run

TINY = Config(
    preset="tiny",
    parts=(
        Part(
            data="digits",
            norms=("l1", "linf"),
            radii=(4.0, 0.4),
            epochs=3,
            batch_size=32,
            learning_rate=1.0,
            epsilons=(0.0, 0.1, 0.3),
            test_images=48,
            pgd_images=16,
        ),
    ),
    attack_batch=24,
)


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """The first digits alone: each step of training on eight simulated devices is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            preprocess,
            "load",
            lambda name, split, data_dir: load(
                name, f"{split}[:192]" if name == "digits" else split, data_dir=data_dir
            ),
        )
        yield


def made_up_set(part, baseline, test, batch):
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


def made_up_numbers(config, part, classifier, test, found):
    """A robust network is right on half of the set."""
    right = np.array([0, 0] if classifier == "baseline" else [2, 2])
    sweep = np.array([0.9, 0.5, 0.1]) + 0.05 * right[0]
    counts = {"adversarial_right": right, "adversarial_count": np.array([4, 4])}
    return {"test": np.asarray(sweep[0]), "sweep": sweep, "pgd": np.array(0.5), **counts}


def made_up_stages(patch):
    """Nothing is trained, attacked or judged."""
    for name, instead in {
        "train_network": lambda config, part, name, *rest: {"of": np.array(name), "epoch_test": np.full(3, 0.9)},
        "classifier_of": lambda part, name, arrays, train, test: str(arrays["of"]),
        "adversarial_set": made_up_set,
        "judge": made_up_numbers,
    }.items():
        patch.setattr(f"experiments.robust_optimization.run.{name}", instead)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        made_up_stages(patch)
        return out, run(TINY, out)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "computed"
    return out, run(TINY, out)


def test_every_output_is_there_and_says_what_the_data_are(finished):
    out, summary = finished
    assert "scikit-learn's digits: baseline" in summary
    assert "robust linf: test accuracy" in summary
    page = (out / "table1.md").read_text()
    assert "not MNIST" in page
    assert "Holds: robust networks take about the same number of epochs to converge as the baseline (Fig. 5)" in page
    assert "another seed would train other networks" in page
    assert "| epochs | 120 (baseline; the robust scripts give no end) | 3, every network |" in page
    for name in ("fig1.png", "fig2.png", "fig3.png", "epochs.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture).std() > 5, name
    content = json.loads((out / "config.json").read_text())
    assert content["config"]["parts"][0]["radii"] == [4.0, 0.4]
    assert content["commit"] == commit()
    assert content["data"] in page
    assert content["data"].startswith("digits, 192 and 192 images (SHA-256 ")
    assert content["hardware"]["devices"]
    assert content["seconds"].keys() >= {"digits/train/linf", "digits/adversarial", "digits/judged/baseline"}


@pytest.mark.parametrize("folder", ["finished", pytest.param("computed", marks=pytest.mark.slow)])
def test_the_metrics_hold_every_network_and_the_baseline_gets_the_whole_set_wrong(folder, request):
    rows = [line.split(",") for line in (request.getfixturevalue(folder)[0] / "metrics.csv").read_text().splitlines()]
    assert rows[0] == ["data", "network", "metric", "value"]
    value = {(network, metric): float(number) for _, network, metric, number in rows[1:]}
    assert value["baseline", "adversarial_accuracy"] == 0
    assert value["baseline", "test_accuracy"] == value["baseline", "fgs_accuracy_0"]
    assert {network for network, _ in value} == {"baseline", "robust l1", "robust linf"}
    assert {("robust linf", f"test_accuracy_epoch_{epoch}") for epoch in (1, 2, 3)} <= value.keys()


@pytest.mark.parametrize("folder", ["finished", pytest.param("computed", marks=pytest.mark.slow)])
def test_a_run_goes_on_after_its_finished_stages(folder, request, monkeypatch):
    out, summary = request.getfixturevalue(folder)
    if folder == "finished":
        made_up_stages(monkeypatch)

    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr("experiments.robust_optimization.run.train_network", never)
    marker = out / "stages" / "digits" / "judged" / "l1.json"
    with np.load(marker.with_suffix(".npz")) as stored:
        before = {name: stored[name] for name in stored.files}
    marker.unlink()
    assert run(TINY, out).splitlines()[:3] == summary.splitlines()[:3]
    with np.load(marker.with_suffix(".npz")) as stored:
        for name, values in before.items():
            np.testing.assert_array_equal(stored[name], values, err_msg=name)


def test_a_folder_of_another_configuration_is_refused(finished):
    with pytest.raises(ValueError, match=r"another configuration \(seed: 0 -> 1\)"):
        run(dataclasses.replace(TINY, seed=1), finished[0])


def test_an_absent_data_set_ends_the_program_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: data set 'mnist' is not there"):
        main(["--preset", "cpu", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")])


def test_command_line():
    config, out, data_dir = parse(["--preset", "paper", "--data", "cifar10", "--seed", "3", "--epochs", "7"])
    assert [(part.data, part.epochs) for part in config.parts] == [("cifar10", 7)]
    assert (config.seed, out, data_dir) == (3, "runs/robust_optimization-paper", None)
    assert parse([])[0] == PRESETS["quick"]
    assert [part.epochs for part in PRESETS["paper"].parts] == [120, 300]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--data", "cifar10"], "must be one of the preset's data sets"),
    ],
)
def test_command_line_refuses_nonsense(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_colour_half_runs(rng, tmp_path, monkeypatch):
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
    monkeypatch.setattr(preprocess, "load", lambda name, split, data_dir: sets[split])
    part = dataclasses.replace(
        PRESETS["paper"].parts[1],
        norms=("linf",),
        radii=(0.02,),
        epochs=1,
        batch_size=8,
        epsilons=(0.0, 0.5),
        test_images=8,
        pgd_images=4,
        set_size=0,
    )
    summary = run(Config("tiny", (part,), attack_batch=8), tmp_path / "out")
    assert "CIFAR-10: baseline" in summary
    # A report says what it read, not what lay in some folder once.
    page = (tmp_path / "out" / "table2.md").read_text()
    assert "JPEG" not in page
    assert "Images read: cifar10, 16 and 16 images: not the original pixels, or not all of them (SHA-256 " in page
    assert (tmp_path / "out" / "fig5.png").exists()
    assert (tmp_path / "out" / "fig6.png").exists()
