"""Figures of the paper: one-pixel attacks, samples of A, accuracy by epoch, accuracy by epsilon."""

from typing import Any

import numpy as np

from advjax.data import to_float
from experiments.drawing import curves, image_rows
from experiments.robust_optimization.config import Part
from experiments.robust_optimization.paper import FIGURES
from experiments.robust_optimization.preprocess import Images
from experiments.robust_optimization.table import data_name, network_name, paper_of
from experiments.store import Arrays

__all__ = ["draw", "one_pixel"]

_COLUMNS = 10


def draw(part: Part, test: Images, found: Arrays, results: dict[str, Arrays]) -> dict[str, Any]:
    """The part's figures by file name; those of images need at least one of them."""
    names, figures = FIGURES[paper_of(part)], {}
    pixels = one_pixel(part, found)
    if "pixel" in names and len(pixels):
        figures[names["pixel"]] = _fig1(part, test, found, pixels)
    if len(found["label"]):
        figures[names["sample"]] = _sample(part, test, found)
    epochs = range(1, part.epochs + 1)
    lines = {network_name(name): 100 * results[name]["epoch_test"] for name in part.networks}
    title = f"{data_name(part)}: {part.epochs} epochs"
    figures[names["epoch"]] = curves(epochs, lines, xlabel="epoch", ylabel="test accuracy, %", title=title)
    lines = {network_name(name): 100 * results[name]["sweep"] for name in part.networks}
    figures[names["epsilon"]] = curves(
        part.epsilons,
        lines,
        xlabel="epsilon, standardised units",
        ylabel="accuracy under the fast gradient sign, %",
        title=f"{data_name(part)}, {part.epochs} epochs: each network attacked through its own gradient",
        second=(float(test.std), "epsilon, [0, 1] units"),
    )
    return figures


def one_pixel(part: Part, found: Arrays) -> np.ndarray:
    """Rows of A that differ from their digit in exactly one pixel; those that stay wrong as 8-bit images first."""
    if "l1" not in part.norms:
        return np.zeros(0, np.int64)
    rows = np.flatnonzero((found["norm"] == part.norms.index("l1")) & (found["l0"] == 1))
    return rows[np.argsort(~found["stored_wrong"][rows], kind="stable")]


def _fig1(part: Part, test: Images, found: Arrays, rows: np.ndarray) -> Any:
    rows = rows[:_COLUMNS]
    pairs = [(_clean(test, found["source"][row]), found["image"][row]) for row in rows]
    places = [np.unravel_index(np.abs(after - before)[..., 0].argmax(), before.shape[:2]) for before, after in pairs]
    circles = {(1, column): (int(y), int(x)) for column, (y, x) in enumerate(places)}
    title = f"{data_name(part)}: one pixel (circled) makes the baseline err"
    return _pairs(found, rows, pairs, title, circles)


def _sample(part: Part, test: Images, found: Arrays) -> Any:
    chosen = []
    for number in range(len(part.norms)):
        own = np.flatnonzero(found["norm"] == number)
        share = _COLUMNS // len(part.norms) + (number < _COLUMNS % len(part.norms))
        chosen.extend(own[np.linspace(0, len(own) - 1, min(share, len(own))).astype(int)])
    rows = np.asarray(chosen)
    pairs = [(_clean(test, found["source"][row]), found["image"][row]) for row in rows]
    title = f"{data_name(part)}: adversarial images of the baseline, eq. 11"
    return _pairs(found, rows, pairs, title, {}, [part.norms[found["norm"][row]] for row in rows])


def _pairs(
    found: Arrays,
    rows: np.ndarray,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    title: str,
    circles: dict[tuple[int, int], tuple[int, int]],
    norms: list[str] | None = None,
) -> Any:
    before = [f"{found['label'][row]}" for row in rows]
    kinds = [f" ({norm})" for norm in norms] if norms else [""] * len(rows)
    after = [f"{found['prediction'][row]}{kind}" for row, kind in zip(rows, kinds, strict=True)]
    originals, changed = zip(*(_pictures(*pair) for pair in pairs), strict=True)
    return image_rows({"original": originals, "adversarial": changed}, [before, after], circles=circles, title=title)


def _clean(test: Images, source: int) -> np.ndarray:
    image = test.images[source]
    return np.asarray(to_float(image)) if image.dtype == np.uint8 else image


def _pictures(clean: np.ndarray, changed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn of a pair: grey digits as they are; of normalised YUV images the contrast-normalised brightness.

    The brightness of both is mapped by the range of the clean one, so that equal values look equal.
    """
    before, after = clean[..., 0], changed[..., 0]
    if clean.shape[-1] == 1:
        return before, after
    low, spread = before.min(), max(np.ptp(before), 1e-6)
    return (before - low) / spread, (after - low) / spread
