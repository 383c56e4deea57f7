"""The report as a Markdown table, with what its columns mean."""

from collections.abc import Iterable, Mapping

from advjax.evaluate.cell import Cell
from advjax.evaluate.intervals import Accuracy

__all__ = ["markdown"]

_NOTE = """\
{images} images. Accuracy in %, with its 95 % Wilson interval; a wrong answer in any run of the attack counts.
Loss: mean cross-entropy over all images. Success: of the images answered rightly when clean, the share in % that is
answered wrongly when perturbed; for a targeted attack, of those not of the target's class the share that is answered
with it. {measures}: means over these successes alone, in units of [0, 1] (l0: pixels changed).
Asked: evaluations of the attacked model for one image, in all runs, and the most that the attack learned from them:
gradients, scores (logits), decisions (classes) or nothing.
"""
_DRAWS = """\
One draw: a model that draws random numbers is judged by most of its answers at several fresh draws; its accuracy at a
single one, on average, in %.
"""
_NON_FINITE = """\
Not finite: share of all images in % at which some gradient held NaN or infinity; such entries count as zero, so that
the attack is weaker than it looks.
"""


def markdown(cells: Iterable[Cell], worst: Mapping[str, Accuracy], transferred: bool) -> str:
    """One row for each cell, one for each model's worst case, and a note."""
    cells = list(cells)
    measures = ["l0", "l1", "l2", "linf"]
    if any(cell.pass_score is not None for cell in cells):
        measures.append("PASS")
    # What is seldom there has a column only where it is.
    columns = {
        "made on": transferred,
        "one draw": any(cell.share is not None for cell in cells),
        "not finite": any(cell.non_finite_share for cell in cells),
    }
    shown = [name for name, needed in columns.items() if needed]
    names = ["made on", "accuracy", "one draw", "loss", "success", *measures, "asked", "not finite", "failures"]
    head = ["model", "attack", *(name for name in names if columns.get(name, True))]
    rows = [_row(cell, measures, shown) for cell in cells]
    for model, accuracy in worst.items():
        row = [model, "worst of all", *(["any"] if transferred else []), _percent(accuracy)]
        rows.append(row + [""] * (len(head) - len(row)))
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)
    notes = [_NOTE.format(images=len(cells[0].correct), measures=", ".join(measures))]
    notes += [note for name, note in (("one draw", _DRAWS), ("not finite", _NON_FINITE)) if columns[name]]
    return table + "\n\n" + "".join(notes)


def _row(cell: Cell, measures: list[str], shown: list[str]) -> list[str]:
    means = cell.mean_distances
    found = [means.get("pass_score" if name == "PASS" else name) for name in measures]
    source = cell.source if cell.failure is not None else ""
    return [
        cell.model,
        cell.attack,
        *([source] if "made on" in shown else []),
        _percent(cell.accuracy),
        *([_share(cell.mean_share)] if "one draw" in shown else []),
        f"{cell.mean_loss:.4g}",
        _share(cell.success_rate),
        *("" if mean is None else f"{mean:.4g}" for mean in found),
        "" if cell.mean_calls is None else f"{cell.mean_calls:.4g}: {cell.asks}",
        *([_share(cell.non_finite_share)] if "not finite" in shown else []),
        ", ".join(f"{count} {name}" for name, count in cell.failures.items()),
    ]


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _percent(accuracy: Accuracy) -> str:
    value, low, high = (100 * share for share in accuracy)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
