"""What all studies share: stages in order and once, one page, one table of numbers, networks for others."""

import csv
import json

import numpy as np
import pytest

from experiments.page import Page, page_text
from experiments.papers import STUDIES
from experiments.study import Row, accuracy_row, classifiers_of, pivot, rows_text, run
from experiments.verdicts import SAMPLING
from tests.experiments.studies import PRESETS, STUDY, Config

DRAWN = np.random.default_rng(0).random(2)


def test_a_run_leaves_its_report_and_says_its_summary(tmp_path):
    said = run(STUDY, PRESETS["quick"], tmp_path, data_dir=5).splitlines()
    numbers = 2 * DRAWN + 5
    assert said[:2] == [f"{number:.3f}" for number in numbers]
    assert said[2].endswith(f"minutes of work; in {tmp_path}: table.md, metrics.csv, config.json")
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["config"] == {"preset": "quick", "data": "digits", "seed": 0}
    assert content["summary"] == said[:2]
    assert content["data"] == "two numbers"
    assert list(content["seconds"]) == ["drawn", "doubled/all"]
    found = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in found] == pytest.approx(numbers, rel=1e-6)
    assert [row["epsilon"] for row in found] == ["", ""]
    page = (tmp_path / "table.md").read_text()
    assert page.startswith("# A study: preset `quick`, seed 0\n\n| the table |\n\n## The two schedules\n")
    assert "| seed | 0 | 1 |" in page
    assert f"## The paper's claims\n\n- Holds: a claim.\n\n{SAMPLING}\n\n## More\n\na\n" in page
    assert "Images read: two numbers." in page


def test_a_second_run_computes_what_is_missing_alone(tmp_path):
    said = run(STUDY, PRESETS["quick"], tmp_path)
    # The stage that is there is believed, the other made of it.
    with np.load(tmp_path / "stages" / "drawn.npz") as stored:
        np.testing.assert_array_equal(stored["number"], DRAWN)
    np.savez(tmp_path / "stages" / "drawn.npz", number=[1.0, 2.0])
    assert run(STUDY, PRESETS["quick"], tmp_path).splitlines()[:2] == said.splitlines()[:2]
    (tmp_path / "stages" / "doubled" / "all.json").unlink()
    assert run(STUDY, PRESETS["quick"], tmp_path).splitlines()[:2] == ["2.000", "4.000"]
    with pytest.raises(ValueError, match=r"a run of another configuration \(seed: 0 -> 7\)"):
        run(STUDY, Config("quick", seed=7), tmp_path)


def test_another_study_gets_the_networks_of_the_run_in_the_folder(tmp_path):
    run(STUDY, PRESETS["quick"], tmp_path)
    network = classifiers_of(STUDY, PRESETS["quick"], tmp_path)["base"]
    np.testing.assert_allclose(network(np.ones((1, 2), np.float32)), DRAWN[None], rtol=1e-6)
    with pytest.raises(ValueError, match="a run of another configuration"):
        classifiers_of(STUDY, PRESETS["paper"], tmp_path)


def test_two_schedules_that_name_other_things_are_refused():
    page = Page("", {"seed": "0", "epochs": "1"}, {"seed": "0"}, [], [], {})
    with pytest.raises(ValueError, match=r"the two schedules must name the same: \['epochs'\]"):
        page_text("A study", PRESETS["quick"], page, "nothing")


def test_a_page_has_the_chapters_that_it_was_given():
    page = Page("table", {}, {}, [], [], {}, ["b > a"], note="**Not MNIST**", counted="As they are.")
    text = page_text("A study", PRESETS["quick"], page, "nothing")
    assert text.index("**Not MNIST**") < text.index("table")
    assert "## What was found\n\n- b > a\n\nAs they are.\n" in text
    assert "claims" not in text
    assert "- Holds: a.\n\nAs they are.\n" in page_text("", PRESETS["quick"], page._replace(claims=["Holds: a."]), "")


def test_rows_keep_seven_digits_and_an_accuracy_is_of_all_its_images():
    row = accuracy_row("p", "digits/test", "base", "fgs", np.arange(3) < 2, 0.1, member=1)
    assert row == Row("p", "digits/test", "base", 1, "fgs", 0.1, "accuracy", 3, 2 / 3)
    assert rows_text([row]).splitlines()[1] == "p,digits/test,base,1,fgs,0.1,accuracy,3,0.6666667"
    assert accuracy_row("p", "d", "base", "", np.zeros(0, bool)).value == 0


def test_a_pivot_has_a_mean_over_members_and_a_gap_where_nothing_was_measured():
    def row(network, attack, value, member=0, epsilon=None, metric="accuracy"):
        return Row("p", "digits/test", network, member, attack, epsilon, metric, 10, value)

    rows = [
        row("base", "", 0.5),
        row("base", "fgs", 0.25, epsilon=0.1),
        row("robust", "", 0.5),
        row("robust", "", 0.7, member=1),
        row("robust", "fgs", 3.0, epsilon=0.1, metric="loss"),
        row("robust", "fgs", 0.2, epsilon=0.2),
    ]
    assert pivot(rows, "accuracy", digits=1).splitlines()[2:] == [
        "| digits/test | none |  | 50.0 | 60.0 ± 14.1 |",
        "| digits/test | fgs | 0.1 | 25.0 |  |",
        "| digits/test | fgs | 0.2 |  | 20.0 |",
    ]


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_study_tells_a_time_for_each_preset_and_has_committed_results(study):
    assert {"quick", "paper"} <= study.presets.keys() == study.times.keys()
    assert all(config.preset == name for name, config in study.presets.items())
    for name in study.presets:
        assert f"python -m experiments {study.name} --preset {name} " in study.doc
    for folder in study.results.iterdir():
        content = json.loads((folder / "config.json").read_text())
        assert content["config"]["preset"] == folder.name
        assert content["summary"]
        with (folder / "metrics.csv").open() as file:
            found = list(csv.DictReader(file))
        assert list(found[0]) == list(Row._fields)
        assert {row["paper"] for row in found} == {study.name}
