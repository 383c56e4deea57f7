"""Figures of the experiments: rows of images, and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["curves", "image_rows"]

# Okabe and Ito's colours, which stay distinct for colour-blind readers.
_COLOURS = ("#000000", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00")


def image_rows(
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

    >>> len(image_rows({"a": [np.zeros((4, 4))] * 3}, [["1", "2", "3"]], circles={(0, 1): (2, 2)}).axes)
    3
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    columns = max(len(images) for images in rows.values())
    size = (max(1.15 * columns, 4), 1.4 * len(rows) + 0.3)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set(color="#aaaaaa", linewidth=0.5)
    for line, (name, images) in enumerate(rows.items()):
        axes[line, 0].set_ylabel(name, fontsize=8)
        for column, (image, caption) in enumerate(zip(images, captions[line], strict=True)):
            axis = axes[line, column]
            axis.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(caption, fontsize=7)
            if (line, column) in (circles or {}):
                y, x = (circles or {})[line, column]
                axis.add_patch(Circle((x, y), 2.5, fill=False, edgecolor="#D55E00", linewidth=1.5))
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def curves(
    x: Sequence[float] | Sequence[str],
    lines: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    second: tuple[float, str] | None = None,
    log: bool = False,
) -> Any:
    """Lines over one axis.

    Args:
        x: places [n].
        lines: by its name, the values [n] of a line.
        xlabel, ylabel, title: texts.
        second: another unit for x, drawn above: (its value at x = 1, its label).
        log: a logarithmic axis of values.

    >>> len(curves([0, 1], {"a": np.array([1.0, 0.5])}, xlabel="x", ylabel="y").axes)
    1
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axis = figure.subplots()
    axis.spines["right"].set_visible(False)
    axis.spines["top"].set_visible(second is not None)
    for index, (name, values) in enumerate(lines.items()):
        style: Any = {"color": _COLOURS[index % len(_COLOURS)], "marker": "os^Dv*"[index % 6]}
        axis.plot(x, values, label=name, markersize=4, linewidth=1.5, **style)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        axis.set_yscale("log")
    if second is not None:
        factor, label = second
        functions: Any = (lambda value: value * factor, lambda value: value / factor)
        above = axis.secondary_xaxis("top", functions=functions)
        above.set_xlabel(label)
    axis.legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
