"""The report as a Markdown table, with what its columns mean."""

from collections.abc import Iterable, Mapping

from advjax.evaluate.cell import Cell
from advjax.evaluate.intervals import Accuracy

__all__ = ["markdown"]

_NOTE = """\
{images} images. Accuracy in %, with its 95 % Wilson interval; a wrong answer in any run of the attack counts.
Loss: mean cross-entropy over all images. Success: of the images answered rightly when clean, the share in % that is
answered wrongly when perturbed. {measures}: means over these successes alone, in units of [0, 1] (l0: pixels changed).
"""


def markdown(cells: Iterable[Cell], worst: Mapping[str, Accuracy], transferred: bool) -> str:
    """One row for each cell, one for each model's worst case, and a note."""
    cells = list(cells)
    measures = ["l0", "l1", "l2", "linf"]
    if any(cell.pass_score is not None for cell in cells):
        measures.append("PASS")
    made_on = ["made on"] if transferred else []
    head = ["model", "attack", *made_on, "accuracy", "loss", "success", *measures, "failures"]
    rows = [_row(cell, measures, transferred) for cell in cells]
    for model, accuracy in worst.items():
        row = [model, "worst of all", *(["any"] if transferred else []), _percent(accuracy)]
        rows.append(row + [""] * (len(head) - len(row)))
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)
    return table + "\n\n" + _NOTE.format(images=len(cells[0].correct), measures=", ".join(measures))


def _row(cell: Cell, measures: list[str], transferred: bool) -> list[str]:
    means = cell.mean_distances
    found = [means.get("pass_score" if name == "PASS" else name) for name in measures]
    rate = cell.success_rate
    return [
        cell.model,
        cell.attack,
        *([cell.source if cell.failure is not None else ""] if transferred else []),
        _percent(cell.accuracy),
        f"{cell.mean_loss:.4g}",
        "" if rate is None else f"{100 * rate:.2f}",
        *("" if mean is None else f"{mean:.4g}" for mean in found),
        ", ".join(f"{count} {name}" for name, count in cell.failures.items()),
    ]


def _percent(accuracy: Accuracy) -> str:
    value, low, high = (100 * share for share in accuracy)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
