"""Cells and reports against numbers worked out by hand; JSON, Markdown and figures."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import Failure
from advjax.evaluate import Report, wilson
from advjax.evaluate.cell import Cell, merge_runs

CLEAN = np.array([True, True, True, True, False])
# Two runs over five images; the last is answered wrongly when clean.
RUNS = {
    "correct": np.array([[True, False, True, False, False], [True, True, False, False, True]]),
    "met": ~np.array([[True, False, True, False, False], [True, True, False, False, True]]),
    "possible": np.ones((2, 5), bool),
    "loss": np.array([[0.1, 2.0, 0.3, 1.0, 3.0], [0.2, 0.5, 1.5, np.nan, 0.4]], np.float32),
    "prediction": np.array([[0, 1, 0, 1, 1], [0, 0, 2, 3, 0]], np.int32),
    "share": np.array([[1, 0, 1, 0, 0], [1, 1, 0, 0, 1]], np.float32),
    "non_finite": np.array([[False, True, False, False, False], [False, False, False, True, False]]),
    "failure": np.array([[4, 0, 4, 0, 1], [2, 2, 0, 0, 1]], np.int8),
    "calls": np.array([[42, 42, 42, 42, 42], [42, 1, 42, 3, 42]], np.int32),
    "l0": np.array([[9, 1, 9, 2, 9], [8, 9, 3, 4, 9]], np.int32),
    **{name: np.array([[9, 0.5, 9, 2, 9], [9, 9, 3, 4, 9]], np.float32) for name in ("l1", "l2", "linf")},
}


@pytest.fixture
def cell():
    return merge_runs("m", "pgd", "m", RUNS, CLEAN, is_random=False, asks="scores")


@pytest.fixture
def report(cell):
    prediction = np.where(CLEAN, 0, 1).astype(np.int32)
    clean = Cell("m", "clean", "m", CLEAN[None], CLEAN, np.full(5, 0.5, np.float32), prediction)
    transferred = dataclasses.replace(cell, model="n", attack="a|b", correct=np.ones(5, bool), pass_score=cell.l1 / 10)
    return Report((clean, cell, dataclasses.replace(clean, model="n", source="n"), transferred))


def test_each_image_counts_with_the_run_that_hurt_it_most(cell):
    np.testing.assert_array_equal(cell.correct, [True, False, False, False, False])
    np.testing.assert_array_equal(cell.l0, [8, 1, 3, 4, 9])  # 3: a loss that is NaN is the larger one
    np.testing.assert_array_equal(cell.loss[:3], np.float32([0.2, 2.0, 1.5]))
    np.testing.assert_array_equal(cell.prediction, [0, 1, 2, 3, 1])
    np.testing.assert_array_equal(cell.non_finite, [False, True, False, True, False])  # in any of the runs
    assert cell.share is None
    reasons = [Failure.NO_DIRECTION, Failure.NONE, Failure.NONE, Failure.NONE, Failure.ALREADY_MISCLASSIFIED]
    np.testing.assert_array_equal(cell.failure, reasons)


def test_the_numbers_of_a_cell(cell):
    assert cell.accuracy == (0.2, *wilson(1, 5))
    assert cell.success_rate == 3 / 4
    assert cell.mean_distances["l0"] == pytest.approx((1 + 3 + 4) / 3)
    assert cell.mean_distances["l2"] == pytest.approx(2.5)
    assert cell.failures == {"ALREADY_MISCLASSIFIED": 1, "NO_DIRECTION": 1}
    np.testing.assert_array_equal(cell.success, [False, True, True, True, False])
    np.testing.assert_array_equal(cell.calls, [84, 43, 84, 45, 84])  # of both runs
    assert (cell.mean_calls, cell.asks) == (68, "scores")
    assert {"asks": "scores", "mean_calls": 68.0}.items() <= cell.summary().items()


def test_no_success_has_no_distance():
    runs = {**RUNS, "correct": np.ones((2, 5), bool), "met": np.zeros((2, 5), bool)}
    cell = merge_runs("m", "pgd", "m", runs, CLEAN, is_random=False, asks="scores")
    assert cell.success_rate == 0
    assert set(cell.mean_distances.values()) == {None}
    assert merge_runs("m", "pgd", "m", runs, np.zeros(5, bool), is_random=False, asks="scores").success_rate is None


def test_of_a_targeted_attack_the_run_that_reached_the_target_comes_first():
    # Right; wrong with another class and a large loss; the target with a small one. The last label is the target.
    runs = {
        "correct": np.array([[True, True, True], [False, True, True], [False, False, True]]),
        "met": np.array([[False, False, False], [False, False, False], [True, False, False]]),
        "possible": np.array([[True, True, False]] * 3),
        "loss": np.float32([[0.1, 0.1, 0.3], [9, 0.2, 0.1], [1, 3, 0.2]]),
        "prediction": np.int32([[0, 0, 2], [1, 0, 2], [2, 1, 2]]),
        "failure": np.full((3, 3), Failure.NOT_FOOLED, np.int8),
        "non_finite": np.zeros((3, 3), bool),
        "share": np.zeros((3, 3), np.float32),
        "calls": np.ones((3, 3), np.int32),
    }
    cell = merge_runs("m", "towards 2", "m", runs, np.ones(3, bool), is_random=False, asks="scores")
    np.testing.assert_array_equal(cell.loss, np.float32([1, 3, 0.3]))
    np.testing.assert_array_equal(cell.prediction, [2, 1, 2])
    np.testing.assert_array_equal(cell.correct, [False, False, True])
    np.testing.assert_array_equal(cell.failure, [Failure.NONE, Failure.NOT_FOOLED, Failure.LABEL_IS_TARGET])
    assert cell.success_rate == 1 / 2
    assert cell.failures == {"NOT_FOOLED": 1, "LABEL_IS_TARGET": 1}


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 9, width=32)), min_size=6, max_size=6),
    st.tuples(st.booleans(), st.booleans()),
)
def test_merging_takes_the_worst(pairs, clean):
    correct = np.array([right for right, _ in pairs]).reshape(3, 2)
    loss = np.array([number for _, number in pairs], np.float32).reshape(3, 2)
    others = {"met": ~correct, "possible": np.ones((3, 2), bool), "non_finite": np.zeros((3, 2), bool)}
    others["calls"] = np.ones((3, 2), np.int32)
    runs = {"correct": correct, "loss": loss, "failure": np.full((3, 2), Failure.NOT_FOOLED, np.int8), **others}
    cell = merge_runs("m", "a", "m", runs, np.array(clean), is_random=False, asks="scores")
    np.testing.assert_array_equal(cell.correct, correct.all(axis=0))
    for image in range(2):
        wrong = [run for run in range(3) if not correct[run, image]]
        assert cell.loss[image] == max(loss[run, image] for run in wrong or range(3))
        assert cell.success[image] == (clean[image] and bool(wrong))


def test_json_comes_back_bit_for_bit(report):
    text = report.to_json()
    again = Report.from_json(text)
    assert again.to_json() == text
    for one, other in zip(report.cells, again.cells, strict=True):
        for field in dataclasses.fields(Cell):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
            if isinstance(getattr(one, field.name), np.ndarray):
                assert getattr(one, field.name).dtype == getattr(other, field.name).dtype
    content = json.loads(text)
    assert content["format"] == "advjax evaluation 2"
    assert content["images"] == 5
    assert content["cells"][1]["summary"]["non_finite_share"] == 0.4
    assert content["cells"][1]["summary"]["accuracy"]["value"] == 0.2
    assert content["cells"][1]["summary"]["run_accuracies"] == [0.4, 0.6]
    assert content["worst_case"]["m"]["value"] == 0.2


def test_reports_of_version_1_are_read(report):
    content = json.loads(report.to_json())
    content["format"] = "advjax evaluation 1"
    for cell in content["cells"]:
        for name in ("prediction", "share", "non_finite"):
            del cell["arrays"][name]
    old = Report.from_json(json.dumps(content))
    assert [cell.prediction for cell in old.cells] == [None] * 4
    assert [cell.non_finite_share for cell in old.cells] == [None] * 4
    assert old.cell("m", "pgd").success_rate == report.cell("m", "pgd").success_rate
    assert "not finite" not in old.to_markdown()
    assert Report.from_json(old.to_json()).to_json() == old.to_json()


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": "advjax evaluation 0"}'])
def test_other_json_is_no_report(text):
    with pytest.raises(ValueError, match="text must be the JSON of a report"):
        Report.from_json(text)


def test_markdown(report):
    lines = report.to_markdown().splitlines()
    low, high = wilson(1, 5)
    assert lines[0].startswith("| model | attack | made on | accuracy | loss | success | l0 | l1 | l2 | linf | PASS |")
    share = f"20.00 [{100 * low:.2f}, {100 * high:.2f}]"
    assert f"| m | pgd | m | {share} | nan | 75.00 | 2.667 | 2.5 | 2.5 | 2.5 |  | 68: scores | 40.00 |" in lines[3]
    assert "| not finite | failures |" in lines[0]
    assert "one draw" not in report.to_markdown()
    assert "1 ALREADY_MISCLASSIFIED, 1 NO_DIRECTION |" in lines[3]
    assert "a\\|b" in lines[5]
    assert len({line.replace("\\|", "").count("|") for line in lines[:8]}) == 1
    assert "95 % Wilson interval" in report.to_markdown()
    assert "5 images" in report.to_markdown()


def test_markdown_of_a_random_model(report, cell):
    random = dataclasses.replace(cell, share=np.float32([1, 0, 0.5, 0.5, 0]), non_finite=np.zeros(5, bool))
    lines = Report((report.cells[0], random)).to_markdown().splitlines()
    assert lines[0].startswith("| model | attack | accuracy | one draw | loss |")
    assert "not finite" not in lines[0]
    assert "| 40.00 | nan | 75.00 |" in lines[3]
    assert "several fresh draws" in "".join(lines)


def test_cells_are_found_by_name(report, cell):
    assert report.cell("m", "pgd").l0 is cell.l0
    assert report.cell("n", "a|b", "m").model == "n"
    with pytest.raises(KeyError, match="no cell for"):
        report.cell("n", "a|b")
    with pytest.raises(KeyError, match="attacks must be among"):
        report.survivors("m", ["fgs"])
    with pytest.raises(KeyError, match="model must be one of"):
        report.survivors("x")


def test_an_adversary_may_leave_the_image_alone(report):
    # The attack left every answer right, even that of the image which is answered wrongly when clean.
    np.testing.assert_array_equal(report.survivors("n", ["a|b"]), CLEAN)
    assert report.worst_case([])["m"].value == CLEAN.mean()


def test_heat_map_has_a_row_for_each_attack_and_source(report):
    axis = report.heat_map(title="t").axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["m", "n"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["clean", "pgd, made on m", "a|b, made on m"]
    assert sorted(text.get_text() for text in axis.texts) == ["100.0", "20.0", "80.0", "80.0"]


def test_figures_without_matplotlib_say_what_is_missing():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "import numpy as np, advjax.evaluate, advjax.plots\n"
        "advjax.plots.heat_map_figure(np.zeros((1, 1)), ['a'], ['b'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert 'ImportError: figures need matplotlib: pip install "advjax[experiments]"' in run.stderr
