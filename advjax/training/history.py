"""The course of a training: loss and accuracy of each network, as arrays, as CSV and for TensorBoard."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from advjax.files import write_text
from advjax.training.predictions import Score

__all__ = ["History", "Log"]

_COLUMNS = ("loss", "accuracy", "validation_loss", "validation_accuracy")
_NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclasses.dataclass(eq=False)
class History:
    """One row for each block of steps: the step after it, its means, and what validation said there.

    Attributes:
        rows: each `{"step": int, "loss": [S], "accuracy": [S]}` and, where it was measured, "validation_loss" and
            "validation_accuracy" [S]; all JSON values, so that a checkpoint can hold them.
        also: names of further means [S] in each row.
        lower_is_better: whether the best validation is that of the lowest accuracy.
    """

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    also: tuple[str, ...] = ()
    lower_is_better: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in a row, each network's numbers, in the order of `metrics.csv`."""
        return (*_COLUMNS, *self.also)

    def with_rows(self, rows: list[dict[str, Any]]) -> "History":
        """One of the same kind that begins with rows of a checkpoint."""
        return dataclasses.replace(self, rows=list(rows))

    def add(
        self, step: int, loss: np.ndarray, accuracy: np.ndarray, also: Mapping[str, np.ndarray] = _NOTHING
    ) -> dict[str, Any]:
        """Appends the row of the block that ended before `step`, and returns it."""
        means = {"loss": loss, "accuracy": accuracy, **also}
        self.rows.append({"step": step} | {name: _listed(mean) for name, mean in means.items()})
        return self.rows[-1]

    def validated(self, score: Score) -> float:
        """Adds what validation said of the last row's networks, and returns their `score`."""
        self.rows[-1] |= {"validation_loss": _listed(score.loss), "validation_accuracy": _listed(score.accuracy)}
        return self.score()

    def score(self) -> float:
        """The mean validation accuracy of the last row, or where lower is better its opposite."""
        return self._score_of(self.rows[-1])

    def _score_of(self, row: dict[str, Any]) -> float:
        accuracy = float(np.mean(row["validation_accuracy"]))
        return -accuracy if self.lower_is_better else accuracy

    def column(self, name: str, networks: int) -> np.ndarray:
        """One column as float32 [S, rows], over the rows that have it.

        >>> history = History()
        >>> row = history.add(10, np.array([0.5, 0.25]), np.array([1.0, 1.0]))
        >>> history.column("loss", 2).tolist()
        [[0.5], [0.25]]
        """
        found = [row[name] for row in self.rows if name in row]
        return np.array(found, np.float32).reshape(-1, networks).T

    def best(self) -> tuple[int, float] | None:
        """The step of the highest `score` in validation, the first of equals, and that score; None: none."""
        scores = [(row["step"], self._score_of(row)) for row in self._validations()]
        return max(scores, key=lambda pair: pair[1]) if scores else None

    def validations_since_best(self) -> int:
        """How many validations there were after the best one."""
        best = self.best()
        return 0 if best is None else sum(row["step"] > best[0] for row in self._validations())

    def _validations(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "validation_accuracy" in row]


class Log:
    """Writes rows as they come to `folder/metrics.csv` and, if asked, to TensorBoard event files in `folder`.

    The CSV has a line for each row and network: step, network, loss, accuracy, validation_loss, validation_accuracy
    (empty where it was not measured), and what else the step says. A resumed training begins with the rows it
    restored, and drops later ones.

    Args:
        folder: where to write; made if it is not there.
        history: the rows so far.
        tensorboard: needs tensorboardX: `pip install "advjax[tensorboard]"`.

    Raises:
        ImportError: tensorboardX is missing.
    """

    def __init__(self, folder: str | os.PathLike[str], history: History, *, tensorboard: bool = False) -> None:
        path = pathlib.Path(folder) / "metrics.csv"
        self._events = _events(path.parent, history) if tensorboard else None
        self._columns = history.columns
        write_text(path, ",".join(("step", "network", *self._columns)) + "\n" + "".join(map(self._lines, history.rows)))
        self._file = open(path, "a", newline="")  # noqa: SIM115 (closed by `close`)

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row, so that whoever watches the file sees it now."""
        self._file.write(self._lines(row))
        self._file.flush()
        if self._events is not None:
            for name in self._columns:
                for network, number in enumerate(row.get(name, ())):
                    self._events.add_scalar(f"{name}/network_{network}", number, row["step"])

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _lines(self, row: dict[str, Any]) -> str:
        def line(network: int) -> str:
            numbers = (str(row[name][network]) if name in row else "" for name in self._columns)
            return ",".join([str(row["step"]), str(network), *numbers]) + "\n"

        return "".join(map(line, range(len(row["loss"]))))


def _events(folder: pathlib.Path, history: History) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError('tensorboard=True needs tensorboardX: pip install "advjax[tensorboard]"') from error
    # Rows after the restored step belong to a course that is being made again.
    return SummaryWriter(str(folder), purge_step=history.rows[-1]["step"] + 1 if history.rows else 0)


def _listed(values: np.ndarray) -> list[float]:
    return [float(number) for number in np.asarray(values, np.float32)]
