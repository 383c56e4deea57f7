"""Report: what every attack did to every model, image by image; as tables, JSON and figures."""

import base64
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from advjax.evaluate.cell import CLEAN, Cell
from advjax.evaluate.intervals import Accuracy, accuracy_of
from advjax.evaluate.table import markdown

__all__ = ["Report"]

_FORMAT = "advjax evaluation 2"
# Version 1 had no predictions, shares and flags of gradients: they come back as None.
_READ = ("advjax evaluation 1", _FORMAT)
_ARRAYS = {"run_correct": "?", "correct": "?", "loss": "<f4", "prediction": "<i4", "share": "<f4", "failure": "|i1",
           "non_finite": "?", "calls": "<i4", "pass_score": "<f4",
           "l0": "<i4", "l1": "<f4", "l2": "<f4", "linf": "<f4"}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The cells of an evaluation, models in order, for each "clean" first.

    Example:
      >>> import jax, numpy as np
      >>> from advjax import fgs, from_function
      >>> from advjax.evaluate import evaluate
      >>> def model(weights, images):
      ...     return images.reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(model, np.float32([[1, -1]] * 4))
      >>> data = np.full((3, 2, 2, 1), 255, np.uint8), np.zeros(3, np.int32)
      >>> report = evaluate({"linear": classifier}, {"fgs": fgs(0.2)}, data, key=jax.random.key(0))
      >>> report.cell("linear", "fgs").accuracy.value
      1.0
      >>> Report.from_json(report.to_json()).to_markdown() == report.to_markdown()
      True
    """

    cells: tuple[Cell, ...]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, "clean" first."""
        return tuple(dict.fromkeys(cell.attack for cell in self.cells))

    def cell(self, model: str, attack: str, source: str | None = None) -> Cell:
        """The cell of `attack` made on `source` (default: on `model` itself) and answered by `model`.

        Raises:
          KeyError: there is none.
        """
        wanted = (model, attack, model if source is None else source)
        for cell in self.cells:
            if (cell.model, cell.attack, cell.source) == wanted:
                return cell
        raise KeyError(f"no cell for (model, attack, source) = {wanted}: models {self.models}, attacks {self.attacks}")

    def survivors(self, model: str, attacks: Sequence[str] | None = None) -> np.ndarray:
        """bool [N]: the images that `model` answers rightly clean and under each run of each of `attacks` (default:
        all), transferred ones too."""
        chosen = set(self.attacks if attacks is None else (CLEAN, *attacks))
        if not chosen <= set(self.attacks):
            raise KeyError(f"attacks must be among {self.attacks}, got {sorted(chosen - set(self.attacks))}")
        cells = [cell for cell in self.cells if cell.model == model and cell.attack in chosen]
        if not cells:
            raise KeyError(f"model must be one of {self.models}, got {model!r}")
        return np.logical_and.reduce([cell.correct for cell in cells])

    def worst_case(self, attacks: Sequence[str] | None = None) -> dict[str, Accuracy]:
        """For each model the accuracy over the worst of several attacks and restarts, image by image.

        An adversary may use any of them, or leave the image alone; see `survivors` for the images themselves.
        """
        return {model: accuracy_of(self.survivors(model, attacks)) for model in self.models}

    def to_json(self) -> str:
        """Everything, per image too (base64 of little-endian arrays), the same bytes for the same results."""
        cells = [
            {
                **{name: getattr(cell, name) for name in ("model", "attack", "source")},
                "summary": cell.summary(),
                "asks": cell.asks,
                "arrays": {name: _encoded(getattr(cell, name), kind) for name, kind in _ARRAYS.items()},
            }
            for cell in self.cells
        ]
        worst = {model: accuracy._asdict() for model, accuracy in self.worst_case().items()}
        content = {"format": _FORMAT, "images": len(self.cells[0].correct), "worst_case": worst, "cells": cells}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> "Report":
        """The report that `to_json` wrote, now or in version 1 of the format.

        Raises:
          ValueError: the text is not one.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") not in _READ:
            raise ValueError(f'text must be the JSON of a report, with "format": "{_FORMAT}" or "{_READ[0]}"')
        images = content["images"]
        return Report(
            tuple(
                Cell(
                    **{name: cell[name] for name in ("model", "attack", "source")},
                    asks=cell.get("asks"),
                    **{name: _decoded(cell["arrays"].get(name), kind, name, images) for name, kind in _ARRAYS.items()},
                )
                for cell in content["cells"]
            )
        )

    def to_markdown(self) -> str:
        """The table of all cells and of the worst cases, with what its columns mean."""
        return markdown(self.cells, self.worst_case(), self.transferred)

    def heat_map(self, *, title: str = "") -> Any:
        """Accuracies in % as a figure: a column for each model, a row for each attack (and its source)."""
        from advjax.plots import heat_map_figure

        rows = list(dict.fromkeys(self._row(cell) for cell in self.cells))
        values = np.full((len(rows), len(self.models)), np.nan)
        for cell in self.cells:
            values[rows.index(self._row(cell)), self.models.index(cell.model)] = 100 * cell.accuracy.value
        return heat_map_figure(values, rows, self.models, label="accuracy, %", title=title)

    def _row(self, cell: Cell) -> str:
        return f"{cell.attack}, made on {cell.source}" if self.transferred and cell.attack != CLEAN else cell.attack

    @property
    def transferred(self) -> bool:
        """Whether there are attacks made on one model and answered by another."""
        return any(cell.source != cell.model for cell in self.cells)


def _encoded(array: np.ndarray | None, kind: str) -> str | None:
    return None if array is None else base64.b64encode(array.astype(kind).tobytes()).decode()


def _decoded(text: str | None, kind: str, name: str, images: int) -> Any:
    if text is None:
        return None
    array = np.frombuffer(base64.b64decode(text), kind)
    return array.reshape(-1, images) if name == "run_correct" else array
