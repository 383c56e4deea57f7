"""What figures draw: one scale for all perturbations, sample deviations as bars, no bars for one network."""

import numpy as np
import pytest

from advjax.plots import error_figure, line_figure, metric_figure, perturbation_figure

THREE = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])


def bars(axis, index=0):
    """The half lengths of the error bars of one line of an axis."""
    container = axis.containers[index]
    assert container.has_yerr
    (collection,) = container.lines[2]
    return [0.5 * np.ptp(segment[:, 1]) for segment in collection.get_segments()]


def test_perturbations_have_the_papers_scale_black_for_minus_1_and_white_for_plus_1():
    original = np.full((2, 2, 1), 100, np.uint8)
    changed = [original.copy(), original.copy()]
    changed[0][0, 0], changed[0][1, 1] = 0, 200
    changed[1][0, 0] = 110  # a small change beside a large one
    axes = perturbation_figure(original, changed, ["a", "b"]).axes
    pictures = [np.asarray(axis.images[0].get_array()) for axis in axes if axis.images]
    assert len(pictures) == 5
    np.testing.assert_allclose(pictures[3], [[0.5 - 50 / 255, 0.5], [0.5, 0.5 + 50 / 255]])
    np.testing.assert_allclose(pictures[4], [[0.5 + 5 / 255, 0.5], [0.5, 0.5]])
    assert {axis.images[0].get_clim() for axis in axes if axis.images} == {(0, 1)}


def test_bars_are_sample_deviations_as_in_the_tables():
    (axis,) = metric_figure(["FGS", "FGV"], {"PASS": THREE}).axes
    np.testing.assert_allclose(bars(axis), np.std(THREE, axis=1, ddof=1))
    (axis,) = error_figure(["low", "high"], {"error": list(THREE)}, [2.0], reference="basic").axes
    np.testing.assert_allclose(bars(axis), np.std(THREE, axis=1, ddof=1))


def test_lines_have_the_bars_they_are_given():
    lines = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 5.0])}
    (axis,) = line_figure([0, 1], lines, xlabel="x", ylabel="y", spread={"a": lines["b"], "b": lines["a"]}).axes
    np.testing.assert_allclose([bars(axis, 0), bars(axis, 1)], [lines["b"], lines["a"]])
    np.testing.assert_array_equal(axis.containers[1].lines[0].get_ydata(), lines["b"])
    (axis,) = line_figure([0, 1], lines, xlabel="x", ylabel="y").axes
    assert not any(container.has_yerr for container in axis.containers)


@pytest.mark.parametrize("draw", ["metrics", "errors"])
def test_one_network_has_no_bars(draw):
    if draw == "metrics":
        (axis,) = metric_figure(["FGS", "FGV"], {"PASS": THREE[:, :1]}).axes
    else:
        (axis,) = error_figure(["low", "high"], {"error": [row[:1] for row in THREE]}, [2.0], reference="basic").axes
    assert not axis.containers[0].has_yerr
