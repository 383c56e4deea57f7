"""The butterfly study on a few digits, all four forms being one of two dense layers: played, judged and reported."""

import csv

import numpy as np
import pytest

from advjax.data import load
from advjax.evaluate import answers_of
from experiments import provenance
from experiments.butterfly import forms
from experiments.butterfly import run as of_study
from experiments.butterfly.config import PRESETS
from experiments.butterfly.images import load as load_parts
from experiments.butterfly.rows import ROWS, STAND_INS
from experiments.butterfly.study import STUDY
from experiments.study import classifiers_of, run
from tests.experiments.butterfly_for_tests import TINY, Form


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """The first digits alone, and one small form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "load", lambda name, split, data_dir: load(name, f"{split}[:96]", data_dir=data_dir))
        patch.setattr(forms, "network", lambda config, parts, form, key, classes=0: Form(classes or 10, key))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(STUDY, TINY, out)


def stored(out, stage):
    with np.load(out / "stages" / f"{stage}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_the_page_says_that_these_are_stand_ins_and_has_every_cell_of_the_paper(finished):
    page = (finished[0] / "table.md").read_text()
    assert "**Stand-ins: digits" in page
    lines = page.splitlines()
    for name, cell in ROWS.items():
        own = [line for line in lines if line.startswith(f"| {name} |")]
        if cell.data not in STAND_INS:
            assert len(own) == 1, name
            assert f"| {cell.told} | not run: " in own[0]
        else:
            assert len(own) == (name in TINY.cells), name
    assert "In all games together 0 variables of classifiers and trunks changed in a bit." in page
    assert "| digits | 24 | 24 | 24 | 8 | 24 |" in page


def test_metrics_are_the_answers_image_by_image(finished):
    out, _ = finished
    game = TINY.game(ROWS["table1/digits/R50/A/Prop-50"])
    found = stored(out, f"judged/{game.name}")
    assert found["right"].shape == found["mean_square"].shape == found["right_rounded"].shape == (24,)
    # std v is what v is in pixels; the rounded image leaves no pixel range.
    np.testing.assert_allclose(found["pixel_square"], found["units"] ** 2 * found["mean_square"], rtol=1e-4)
    np.testing.assert_allclose(found["norm"], np.sqrt(784 * found["pixel_square"]), rtol=1e-4)
    assert len(found["pass"]) == 4
    with open(out / "metrics.csv") as file:
        lines = list(csv.DictReader(file))
    attack = "enhancing Prop-50-ls gamma 0.0001"
    own = [line for line in lines if line["network"] == "R50 A" and line["member"] == "0"]
    values = {(line["attack"], line["metric"]): float(line["value"]) for line in own}
    assert values[attack, "accuracy"] == pytest.approx(found["right"].mean())
    assert values[f"{attack}, 8 bits", "accuracy"] == pytest.approx(found["right_rounded"].mean())


def test_networks_are_those_that_were_judged_and_a_generator_left_its_classifier_alone(finished):
    out, _ = finished
    found = classifiers_of(STUDY, TINY, out)
    assert list(found) == ["digits/R50-A 0", "digits/R50-B 0"]
    config, data, _ = load_parts(TINY, None)

    def read(stage, *keys):
        arrays = stored(out, stage)
        return {key: arrays[key] for key in keys or arrays}

    test = data.parts["digits"].test
    right = answers_of(found["digits/R50-A 0"], test.images) == test.labels
    np.testing.assert_array_equal(right, stored(out, "vanilla/digits/R50-A 0")["right"])
    players = of_study.trained_players(config, data, read, TINY.games[0])
    inside = answers_of_frozen(players, test.images)
    np.testing.assert_array_equal(inside == test.labels, right)


def answers_of_frozen(players, images):
    return np.asarray(players.frozen("classifier", images / np.float32(255)).argmax(-1))


def test_the_courses_are_drawn_by_epoch(finished):
    out, _ = finished
    assert {path.name for path in out.glob("fig*.png")} == {
        "fig3-digits.png", "fig4-digits.png", "fig5-digits.png", "fig6-digits.png", "fig7-digits.png",
        "fig8-digits.png", "fig9-digits.png",
    }  # fmt: skip
    assert {path.name for path in out.glob("told*.png")} == {"told-courses-digits.png", "told-images-digits.png"}
    for game in TINY.games:
        found = stored(out, f"game/{game.name}")
        assert found["l2"].shape == found["positive"].shape == found["validation_accuracy"].shape == (3,)
        (head,) = (array for name, array in found.items() if "head" in name and "kernel" in name)
        assert head.shape[-1] == (10 if game.per_label else 1)


def test_presets_that_run_here_need_nothing_that_is_not():
    for name in ("quick", "cpu"):
        config = PRESETS[name]
        assert set(config.data) <= set(STAND_INS)
        assert config.encoder_images
        assert config.mains
        assert config.seeds >= 3
    assert len(PRESETS["paper"].cells) == 144
    with pytest.raises(FileNotFoundError, match=r"folder with resnet50\.safetensors"):
        load_parts(PRESETS["paper"], None)
