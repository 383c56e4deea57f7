"""Figures: perturbed images, score histograms, metrics by attack, errors by training set, heat maps, curves.

Each function returns a `matplotlib.figure.Figure` that belongs to no window: save it with `figure.savefig(path)`.
Importing this module does not import matplotlib.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "curve_figure", "error_figure", "heat_map_figure", "histogram_figure", "image_figure", "line_figure",
    "metric_figure", "pair_figure", "panel_figure", "perturbation_figure",
]  # fmt: skip

# Okabe and Ito's colors, which stay distinct for color-blind readers; black stays free for references.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
_DPI = 150


def perturbation_figure(
    original: np.ndarray, perturbed: Sequence[np.ndarray], captions: Sequence[str], *, title: str = ""
) -> Any:
    """The original, then each perturbed image over its perturbation: gray is no change, black -1, white +1.

    The scale is that of the pixels in [0, 1] and the same for all, so that perturbations compare by eye.

    Args:
        original: uint8 [H, W, C], C of 1 or 3.
        perturbed: images of the same shape.
        captions: one for each of them.
        title: of the figure.

    Raises:
        ValueError: a shape or the number of captions does not fit.

    >>> image = np.zeros((8, 8, 1), np.uint8)
    >>> len(perturbation_figure(image, [image, image], ["a", "b"]).axes)
    6
    """
    if len(captions) != len(perturbed):
        raise ValueError(f"captions must be {len(perturbed)} many, one for each image, got {len(captions)}")
    for index, image in enumerate(perturbed):
        if image.shape != original.shape:
            raise ValueError(f"perturbed[{index}] must have shape {original.shape}, got {image.shape}")
    columns = len(perturbed) + 1
    figure, axes = _figure(2, columns, (1.75 * columns, 4.2), title)
    for axis in axes.flat:
        axis.set_axis_off()
    _show(axes[0, 0], original / 255)
    axes[0, 0].set_title("original", fontsize=9)
    for column, (image, caption) in enumerate(zip(perturbed, captions, strict=True), start=1):
        _show(axes[0, column], image / 255)
        axes[0, column].set_title(caption, fontsize=9)
        _show(axes[1, column], 0.5 + 0.5 * (image.astype(float) - original) / 255)
    return figure


def histogram_figure(
    scores: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    bins: int = 50,
    xlabel: str = "",
    ylabel: str = "count",
    title: str = "",
) -> Any:
    """Outlines of histograms over one range.

    Args:
        scores: values [n] by name.
        weights: what each value counts for; default 1.
        bins: number of bins between the smallest value and the largest.
        xlabel, ylabel, title: texts.

    >>> len(histogram_figure({"a": np.array([0.2, 0.3])}).axes)
    1
    """
    figure, axes = _figure(1, 1, (7, 4.2), title)
    axis = axes[0, 0]
    values = np.concatenate(list(scores.values()))
    edges = np.histogram_bin_edges(values, bins)
    for index, (name, own) in enumerate(scores.items()):
        heights, _ = np.histogram(own, edges, weights=None if weights is None else weights[name])
        color = _COLORS[index % len(_COLORS)]
        style = "-" if index < len(_COLORS) // 2 else "--"
        axis.stairs(heights, edges, label=name, color=color, linewidth=1.6, linestyle=style)
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(edges[0], edges[-1]))
    axis.legend(frameon=False, fontsize=8)
    return figure


def metric_figure(names: Sequence[str], curves: Mapping[str, np.ndarray], *, title: str = "") -> Any:
    """Mean and sample standard deviation over networks of several metrics, by attack; one network has no bars.

    Args:
        names: the attacks, [A].
        curves: by metric, the values [A, networks].
        title: of the figure.

    >>> len(metric_figure(["FGS", "FGV"], {"PASS": np.array([[0.7], [0.8]])}).axes)
    1
    """
    figure, axes = _figure(1, 1, (7, 4.2), title)
    axis = axes[0, 0]
    places = np.arange(len(names))
    for index, (label, values) in enumerate(curves.items()):
        shift = 0.08 * (index - (len(curves) - 1) / 2)
        axis.errorbar(
            places + shift,
            values.mean(axis=1),
            _spread(values) if values.shape[1] > 1 else None,
            label=label,
            color=_COLORS[index % len(_COLORS)],
            marker="os^Dv"[index % 5],
            linewidth=1.4,
            capsize=3,
        )
    axis.set_xticks(places, names)
    axis.set_ylim(0, 1.05 * max(values.max() for values in curves.values()) or 1)
    axis.legend(frameon=False, fontsize=8)
    return figure


def error_figure(
    labels: Sequence[str],
    panels: Mapping[str, Sequence[np.ndarray]],
    references: Sequence[float],
    *,
    reference: str,
    xlabel: str = "",
    title: str = "",
) -> Any:
    """One panel for each kind of error: mean and sample standard deviation over networks, by training set.

    Args:
        labels: the training sets, [A].
        panels: by the name of an error, for each training set the errors of its networks.
        references: for each panel the error of networks not so trained, drawn as a line.
        reference: what that line is called.
        xlabel, title: texts.

    >>> len(error_figure(["low", "high"], {"error": [np.ones(3), np.ones(3)]}, [2.0], reference="basic").axes)
    1
    """
    figure, axes = _figure(1, len(panels), (4.2 * len(panels), 3.8), title)
    for index, (axis, (name, errors), level) in enumerate(zip(axes[0], panels.items(), references, strict=True)):
        means = [np.mean(values) for values in errors]
        stds = [float(_spread(np.asarray(values))) if len(values) > 1 else 0.0 for values in errors]
        bars: Any = stds if any(stds) else None
        color = _COLORS[index % len(_COLORS)]
        axis.errorbar(labels, means, bars, color=color, marker="o", linewidth=1.6, capsize=4)
        axis.axhline(level, color="black", linewidth=1, linestyle=":", label=reference)
        axis.set(xlabel=xlabel, ylabel=name)
        axis.margins(x=0.15)
        axis.set_ylim(0, 1.15 * max([*np.add(means, stds), level]) or 1)
        axis.legend(frameon=False, fontsize=8)
    return figure


def heat_map_figure(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, label: str = "%", title: str = ""
) -> Any:
    """A table in colors with its numbers written in.

    Args:
        values: percentages in [0, 100], [rows, columns]; NaN leaves a field empty.
        rows, columns: their names.
        label: of the color bar.
        title: of the figure.

    Raises:
        ValueError: the names do not fit the values.

    >>> len(heat_map_figure(np.array([[99.0, 98.0], [10.0, np.nan]]), ["clean", "PGD"], ["A", "B"]).axes)
    2
    """
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values must have shape {(len(rows), len(columns))}, as the names do, got {values.shape}")
    figure, axes = _figure(1, 1, (2.6 + 0.9 * len(columns), 1.4 + 0.4 * len(rows)), title)
    axis = axes[0, 0]
    picture = axis.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for (row, column), number in np.ndenumerate(values):
        if not np.isnan(number):
            # Dark letters on the bright half of the color map.
            color = "black" if number > 60 else "white"
            axis.text(column, row, f"{number:.1f}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(picture, ax=axis, label=label)
    return figure


def curve_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, xlabel: str = "", ylabel: str = "", title: str = ""
) -> Any:
    """Curves with bands around them.

    Args:
        curves: by name, the places [n] and there the value, the lower and the upper end of the band, [n, 3].
        xlabel, ylabel, title: texts.

    >>> len(curve_figure({"PGD": (np.array([0.0, 0.1]), np.array([[9.0, 8, 10], [5, 4, 6]]))}).axes)
    1
    """
    figure, axes = _figure(1, 1, (6, 4.2), title)
    axis = axes[0, 0]
    for index, (name, (places, values)) in enumerate(curves.items()):
        color, marker = _COLORS[index % len(_COLORS)], "os^Dv"[index % 5]
        axis.plot(places, values[:, 0], label=name, color=color, marker=marker, markersize=4, linewidth=1.6)
        axis.fill_between(places, values[:, 1], values[:, 2], color=color, alpha=0.15, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    return figure


def image_figure(
    rows: Mapping[str, Sequence[np.ndarray]],
    captions: Sequence[Sequence[str]],
    *,
    circles: Mapping[tuple[int, int], tuple[int, int]] | None = None,
    title: str = "",
) -> Any:
    """Rows of images in [0, 1] (values beyond are drawn as black or white), a caption over each.

    Args:
        rows: by its name, a row's images [H, W] or [H, W, 3].
        captions: for each row, one for each image.
        circles: by (row, column), the pixel (line, column) to draw a circle around.
        title: of the figure.

    >>> len(image_figure({"a": [np.zeros((4, 4))] * 3}, [["1", "2", "3"]], circles={(0, 1): (2, 2)}).axes)
    3
    """
    columns = max(len(images) for images in rows.values())
    figure, axes = _figure(len(rows), columns, (max(1.15 * columns, 4), 1.4 * len(rows) + 0.3), title)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set(visible=True, color="#aaaaaa", linewidth=0.5)
    for line, (name, images) in enumerate(rows.items()):
        axes[line, 0].set_ylabel(name, fontsize=8)
        for column, (image, caption) in enumerate(zip(images, captions[line], strict=True)):
            axes[line, column].imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes[line, column].set_title(caption, fontsize=7)
    for place, (y, x) in (circles or {}).items():
        from matplotlib.patches import Circle

        axes[place].add_patch(Circle((x, y), 2.5, fill=False, edgecolor=_COLORS[1], linewidth=1.5))
    return figure


def pair_figure(
    originals: np.ndarray,
    changed: np.ndarray,
    captions: tuple[Sequence[str], Sequence[str]],
    *,
    stretch: bool = False,
    title: str = "",
) -> Any:
    """Originals over what they were changed to; a single changed pixel is circled.

    Args:
        originals, changed: [N, H, W], in [0, 1] or, with `stretch`, of any range.
        captions: over each original, and over each changed image.
        stretch: both images of a pair are mapped by the range of the original, so that equal values look equal.
        title: of the figure.

    >>> before, after = np.zeros((1, 4, 4)), np.eye(4)[None] * [1, 0, 0, 0]
    >>> [len(axis.patches) for axis in pair_figure(before, after, (["7"], ["1"])).axes]
    [0, 1]
    """
    differ = (originals != changed).sum((1, 2)) == 1
    places = [np.unravel_index(np.abs(b - a).argmax(), a.shape) for a, b in zip(originals, changed, strict=True)]
    circles = {(1, i): (int(y), int(x)) for i, (y, x) in enumerate(places) if differ[i]}
    if stretch:
        low, high = (reduce(originals, axis=(1, 2), keepdims=True) for reduce in (np.min, np.max))
        originals, changed = ((values - low) / np.maximum(high - low, 1e-6) for values in (originals, changed))
    return image_figure({"original": [*originals], "adversarial": [*changed]}, captions, circles=circles, title=title)


def line_figure(
    x: Sequence[float] | Sequence[str],
    lines: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    second: tuple[float, str] | None = None,
    log: bool = False,
    spread: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """Lines over one axis.

    Args:
        x: places [n].
        lines: by its name, the values [n] of a line.
        spread: by the name of a line the half lengths [n] of the bars around its values.
        xlabel, ylabel, title: texts.
        second: another unit for x, drawn above: (its value at x = 1, its label).
        log: a logarithmic axis of values.

    >>> len(line_figure([0, 1], {"a": np.array([1.0, 0.5])}, xlabel="x", ylabel="y").axes)
    1
    """
    figure, axes = _figure(1, 1, (6.4, 4.2), title)
    axis = axes[0, 0]
    for index, (name, values) in enumerate(lines.items()):
        color, marker = ("#000000", *_COLORS)[index % (1 + len(_COLORS))], "os^Dv*"[index % 6]
        bars = None if spread is None else spread[name]
        axis.errorbar(x, values, bars, label=name, color=color, marker=marker, markersize=4, linewidth=1.5, capsize=3)
    axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if second is not None:
        factor, label = second
        axis.spines["top"].set_visible(True)
        above = axis.secondary_xaxis("top", functions=(lambda value: value * factor, lambda value: value / factor))
        above.set_xlabel(label)
    axis.legend(frameon=False, fontsize=8)
    return figure


def panel_figure(
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    xlabel: str,
    columns: int = 2,
    title: str = "",
) -> Any:
    """Several panels of lines over one axis: what a training did, side by side. A name has one color in all panels.

    Args:
        x: places [n].
        panels: by what a panel shows, the values [n] of its lines by name.
        xlabel, title: texts.
        columns: panels side by side.

    >>> panels = {"loss": {"a": np.ones(2), "b": np.ones(2)}, "accuracy": {"a": np.zeros(2)}, "size": {"b": np.ones(2)}}
    >>> len(panel_figure([0, 1], panels, xlabel="epoch").axes)
    3
    """
    lines = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure, axes = _figure(lines, columns, (5.0 * columns, 3.4 * lines), title)
    for axis, (panel, curves) in zip(axes.flat, panels.items(), strict=False):
        for name, values in curves.items():
            index = names.index(name)
            style = ("-", "--", ":", "-.")[index // len(_COLORS) % 4]
            axis.plot(x, values, label=name, color=_COLORS[index % len(_COLORS)], linestyle=style, linewidth=1.5)
        axis.set(xlabel=xlabel, ylabel=panel)
        axis.legend(frameon=False, fontsize=7)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    return figure


def _figure(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Any, np.ndarray]:
    # Not pyplot: its figures stay in a global list until they are closed.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "advjax[experiments]"') from error
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, axes


def _spread(values: np.ndarray) -> np.ndarray:
    """The sample standard deviation along the last axis, as the tables give it."""
    return values.std(axis=-1, ddof=1)


def _show(axis: Any, image: np.ndarray) -> None:
    picture = image[..., 0] if image.shape[-1] == 1 else image
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
