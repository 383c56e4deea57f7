"""The experiment on a few digits: trained, judged and reported; and every row for two steps, among the slow tests."""

import csv

import numpy as np
import pytest

from advjax.attacks import fgs
from advjax.data import load
from experiments import provenance
from experiments.random_sign import run as of_study
from experiments.random_sign.config import Config
from experiments.random_sign.rows import ROWS
from experiments.random_sign.study import STUDY, compared, interval
from experiments.study import classifiers_of, run

TINY = Config(
    "tiny",
    data="digits",
    rows=("mnist/LeNet", "mnist/R-LeNet"),
    seeds=2,
    epochs=1,
    batch_size=16,
    where=("both",),
    sweep=(0.1,),
    sweep_seeds=1,
    heldout=32,
    attacked_images=8,
    square_queries=5,
    attack_batch=32,
    block=4,
)


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """The first digits alone, and one attack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "load", lambda name, split, data_dir: load(name, f"{split}[:96]", data_dir=data_dir))
        patch.setattr(of_study, "attacks", lambda config, data: {"fgs 0.1": fgs(0.1)})
        patch.setattr(of_study, "health_check", lambda *_, **__: [])
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(STUDY, TINY, out)


def test_page_has_each_row_with_the_papers_error_and_says_what_was_not_run(finished):
    out, summary = finished
    page = (out / "table.md").read_text()
    assert "not MNIST" in page
    for name, row in ROWS.items():
        own = [line for line in page.splitlines() if line.startswith((f"| {name} |", f"| {name} both |"))]
        assert own, name
        assert any("not run" in line for line in own) == (name not in TINY.rows), name
        if row.error is not None:
            assert all(f"| {row.error:g}" in line for line in own if "Table 1" not in line) or "accuracy" in page
    assert "mnist/R-LeNet both: error" in summary


def test_metrics_are_the_answers(finished):
    out, _ = finished
    with open(out / "metrics.csv") as file:
        lines = list(csv.DictReader(file))
    with np.load(out / "stages" / "judged" / "mnist" / "R-LeNet both.npz") as stored:
        right = stored["right"]
    own = [float(line["value"]) for line in lines if line["network"] == "mnist/R-LeNet both" and not line["attack"]]
    np.testing.assert_allclose(own, right.mean(1), atol=1e-6)
    held_out = [line for line in lines if line["data"].endswith("held out")]
    assert {line["network"] for line in held_out} == {"mnist/LeNet base", "mnist/LeNet both"}


def test_trained_networks_are_handed_out(finished):
    out, _ = finished
    found = classifiers_of(STUDY, TINY, out)
    assert list(found) == ["mnist/LeNet 0", "mnist/LeNet 1", "mnist/R-LeNet both 0", "mnist/R-LeNet both 1"]


def test_a_verdict_wants_images_and_seeds_to_agree():
    rng = np.random.default_rng(0)
    base = rng.random((5, 2000)) > 0.05
    assert compared(base, base) == "no clear difference"
    assert compared(base, base | (rng.random((5, 2000)) > 0.2)) == "better"
    assert compared(base, base & (rng.random((5, 2000)) > 0.02)) == "worse"
    # One seed of five makes all of the difference: images agree that there is one, seeds do not.
    lucky = base.copy()
    lucky[0] = True
    assert compared(base, lucky) == "no clear difference"
    assert interval(np.array([1.0, 1.0])) == "1.00 [1.00, 1.00]"


SIZES = {"imagenet/NASNet-A": 1, "imagenet/SENet": 1}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_two_steps_at_its_full_size(row, tmp_path):
    names = (row,) if ROWS[row].kind == "base" else (ROWS[row].recipe, row)
    config = Config("steps", rows=names, steps=2, seeds=1, batch_size=SIZES.get(ROWS[row].recipe, 2))
    summary = run(STUDY, config, tmp_path)
    assert "steps on random images" in summary
    text = (tmp_path / "table.md").read_text()
    assert f"| {row} |" in text
    assert "not run; 2 steps ran" in text
    with open(tmp_path / "metrics.csv") as file:
        losses = [float(line["value"]) for line in csv.DictReader(file) if line["metric"] == "loss"]
    assert len(losses) == len(names)
    assert np.isfinite(losses).all()
