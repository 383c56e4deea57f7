"""The whole experiment on a small slice of digits: all outputs, resuming to the bit, its refusals."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from advjax.data import load
from experiments.hard_positives import run as stages_of
from experiments.hard_positives.config import BASIC, HELD_OUT_TYPES, PRESETS, Config
from experiments.hard_positives.study import STUDY
from experiments.provenance import commit
from experiments.study import Row, classifiers_of, run

MICRO = Config(
    preset="micro",
    data="digits",
    bases=2,
    orders=2,
    batch_size=16,
    base_iterations=60,
    finetune_iterations=10,
    rows=("HC-D-9", "FGV", BASIC),
    figure4=("FGS", "HC-D-1", "HC-S-1", "HC-D-9"),
    unmixed_rows=("FGV",),
    train_sources=24,
    heldout_sources=24,
    heldout_per_type=9,
    cap_per_type=20,
    bands=(0.0, 0.01, 0.8, 1.0),
    band_iterations=4,
    band_minimum=1,
    pass_per_type=8,
    same_per_type=4,
    attack_batch=16,
    score_batch=8,
    block=20,
)
DONE_AGAIN = ("base", "attack/train/1/HC-3", "score/heldout/0/FGS", "row/FGV")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "micro"
    return out, run(STUDY, MICRO, out)


def arrays(out):
    stages = out / "stages"
    found = {}
    for path in sorted(stages.rglob("*.npz")):
        with np.load(path) as stored:
            found[path.relative_to(stages).as_posix()] = {name: stored[name] for name in stored.files}
    return found


def test_every_output_is_there_and_says_what_the_data_are(finished):
    out, summary = finished
    assert f"{BASIC} on scikit-learn's digits" in summary
    assert "HC-D-9: adversarial error" in summary
    page = (out / "table.md").read_text()
    assert "not MNIST" in page
    assert "| HC-S-5 | 0.733 ± 0.032 | 29.29 | not run | not run |" in page
    assert "HC-D-9-1.05 has 28.18 % less clean error than Basic LeNet (it needs HC-D-9-1.05" in page
    assert "| PASS (valid) 10-800 |" in page
    # No image is so unlike its original: the band is left out, and that is said.
    assert "PASS (valid) 0-10: left out of Fig. 6; some base network has 0 images there, fewer than 1." in summary
    assert "| PASS (valid) 0-10 | left out | left out | only 0 |  |" in page
    assert "| base networks | 3, 10,000 steps of 64 | 2, 60 steps of 16 |" in page
    for name in ("fig2.png", "fig4.png", "fig5.png", "fig6.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture).std() > 5, name
    content = json.loads((out / "config.json").read_text())
    assert content["config"]["mix_clean"] is True
    assert content["commit"] == commit()
    assert content["data"] in page
    assert content["data"].startswith("digits, 1,297 and 500 images (SHA-256 ")
    assert content["versions"]["jax"]
    assert content["hardware"]["devices"]
    assert content["seconds"].keys() >= {"base", "row/FGV", "row/FGV, adversarial images only"}


def test_metrics_hold_every_type_and_row(finished):
    lines = list(csv.reader((finished[0] / "metrics.csv").read_text().splitlines()))
    assert lines[0] == list(Row._fields)
    rows = [Row(*line) for line in lines[1:]]
    assert {row.attack for row in rows if row.data == "digits/heldout"} == {*HELD_OUT_TYPES, "all"}
    errors = [row for row in rows if (row.network, row.attack, row.metric) == ("HC-D-9", "all", "error")]
    assert [row.member for row in errors] == ["0", "1", "2", "3"]
    assert all(0 <= float(row.value) <= 1 for row in errors)


def test_stored_images_fool_their_own_network_and_belong_to_their_sources(finished):
    found = arrays(finished[0])
    data = load("digits", "train")
    for name, stored in found.items():
        if name.startswith("attack/"):
            assert (stored["prediction"] != data.labels[stored["source"]]).all(), name
            change = stored["image"].astype(int) - data.images[stored["source"]]
            np.testing.assert_allclose(np.abs(change).max((1, 2, 3)), stored["linf"], atol=1e-2)
            np.testing.assert_allclose(np.sqrt((change**2).mean((1, 2, 3))), stored["l2"], atol=1e-2)
            assert len(stored["image"]) <= MICRO.cap_per_type


def test_no_source_is_both_trained_on_and_held_out(finished):
    found = arrays(finished[0])
    used = {
        split: {int(i) for name, stored in found.items() if f"attack/{split}/" in name for i in stored["source"]}
        for split in ("train", "heldout")
    }
    assert used["train"]
    assert used["heldout"]
    assert not used["train"] & used["heldout"]


def test_each_network_is_trained_on_its_own_images_and_judged_on_all(finished):
    found = arrays(finished[0])
    basic, row = found[f"row/{BASIC}.npz"], found["row/FGV.npz"]
    own = [len(found[f"attack/train/{base}/FGV.npz"]["source"]) for base in range(2)]
    assert row["adversarial_images"].tolist() == own
    assert row["clean_wrong"].shape == (4, 500)
    held_out = [len(found[f"attack/heldout/{base}/FGV.npz"]["source"]) for base in range(2)]
    assert held_out[0] <= 5
    assert held_out[1] <= 4
    assert basic["adversarial_wrong"].shape == (2, len(row["kind"]))
    assert np.sum(row["kind"] == HELD_OUT_TYPES.index("FGV")) == sum(held_out)


def test_another_study_gets_every_network_of_the_run(finished):
    networks = classifiers_of(STUDY, MICRO, finished[0])
    rows = ("HC-D-9", "FGV", "FGV, adversarial images only", "PASS (valid) 10-800", "PASS (valid) 800-1000")
    tuned = {f"{row} {number}" for row in rows for number in range(4)}
    assert networks.keys() == {f"{BASIC} {number}" for number in range(2)} | tuned
    images, labels = load("digits", "test").images[:50], load("digits", "test").labels[:50]
    wrong = networks["FGV 3"](images / np.float32(255)).argmax(-1) != labels
    np.testing.assert_array_equal(wrong, arrays(finished[0])["row/FGV.npz"]["clean_wrong"][3, :50])


def test_a_run_goes_on_to_the_same_bits(finished, tmp_path):
    out, summary = finished
    copy = tmp_path / "interrupted"
    shutil.copytree(out, copy)
    for name in DONE_AGAIN:
        (copy / "stages" / f"{name}.json").unlink()
    (copy / "stages" / "row" / "FGV.npz").unlink()
    (copy / "stages" / "row" / "FGV.npz.partial").write_bytes(b"half a file")
    assert run(STUDY, MICRO, copy).splitlines()[:3] == summary.splitlines()[:3]
    whole, again = arrays(out), arrays(copy)
    assert whole.keys() == again.keys()
    for name, stored in whole.items():
        for key, value in stored.items():
            np.testing.assert_array_equal(value, again[name][key], err_msg=f"{name}: {key}")


def test_a_finished_run_reports_at_once(finished, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a finished stage was computed again")

    for name in ("train_bases", "attack_images", "score_type", "finetune", "judge"):
        monkeypatch.setattr(stages_of, name, never)
    out, summary = finished
    assert run(STUDY, MICRO, out) == summary


def test_a_folder_of_another_configuration_is_refused(finished):
    with pytest.raises(ValueError, match=r"another configuration \(seed: 0 -> 1\)"):
        run(STUDY, dataclasses.replace(MICRO, seed=1), finished[0])


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to the output folder"):
        run(STUDY, MICRO, tmp_path / "file" / "out")


def test_too_few_images_for_the_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_sources=40000 exceeds the 1297 images"):
        run(STUDY, dataclasses.replace(PRESETS["paper"], data="digits"), tmp_path / "out")
