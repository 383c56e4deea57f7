"""The table of `advjax score`: its columns, and a CSV file that grows beside its place and moves there when whole."""

import contextlib
import csv
import io
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from advjax.score_command.columns import COLUMNS
from advjax.score_command.loaded import Loaded, distances

__all__ = ["Scored", "Table", "notes", "partial", "row", "table"]


class Scored(NamedTuple):
    """What the table holds of a `PassScore`."""

    score: np.ndarray
    ssim: np.ndarray
    warp: np.ndarray
    converged: np.ndarray


def row(loaded: Loaded, scored: Scored, padding: str) -> dict[str, Any]:
    """The table's row of a pair."""
    height, width, _ = loaded.original.pixels.shape
    l2_per_pixel, linf = distances(loaded)
    masked = 0.0 if loaded.masks is None else 1 - float((loaded.masks[0] & loaded.masks[1]).mean())
    return {
        "file": loaded.pair.name,
        "pass": float(scored.score),
        "ssim": float(scored.ssim),
        "l2_per_pixel": l2_per_pixel,
        "linf": linf,
        "converged": bool(scored.converged),
        **{f"h{r}{c}": float(scored.warp[r, c]) for r in range(3) for c in range(3)},
        "padding": padding,
        "changed": loaded.pair.changed_name,
        "width": width,
        "height": height,
        "mode": loaded.original.mode,
        "changed_mode": loaded.changed.mode,
        "masked": masked,
        "notes": "; ".join(notes(loaded)),
    }


def notes(loaded: Loaded) -> list[str]:
    """What was done to the pictures on the way in, or left of them."""
    said = []
    for which, picture in (("original", loaded.original), ("changed", loaded.changed)):
        if picture.orientation > 1:
            said.append(f"{which} turned upright (EXIF orientation {picture.orientation})")
        if picture.several:
            said.append(f"{which} is the first of several pictures in its file")
    return said


class Table:
    """Rows on their way into a file, as UTF-8; names that are no UTF-8 keep their bytes.

    Attributes:
        rows: that it has.
        whole: False: rows are missing, so that it must not take the place of another table.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.rows = 0
        self.whole = True
        self._file = file
        self._write(COLUMNS)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Writes one row, whole, and at once."""
        self._write([entry[column] for column in COLUMNS])
        self.rows += 1

    def _write(self, cells: Iterable[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._file.write(line.getvalue().encode("utf-8", "surrogateescape"))
        self._file.flush()


def partial(path: pathlib.Path) -> pathlib.Path:
    """Where the rows lie until the table is whole: beside the file that a link leads to; a device takes them itself."""
    path = pathlib.Path(os.path.realpath(path))
    return path if path.exists() and not path.is_file() else path.with_name(path.name + ".partial")


@contextlib.contextmanager
def table(path: pathlib.Path | None) -> Iterator[Table]:
    """A table at `path`, or on stdout. What stood at `path` stays there until all rows are written.

    After an error, or when the table is not whole, the rows that there are lie in `partial(path)`.
    """
    if path is None:
        yield Table(sys.stdout.buffer)
        return
    beside = partial(path)
    with open(beside, "wb") as file:
        growing = Table(file)
        yield growing
        if beside.is_file():
            os.fsync(file.fileno())
    if growing.whole and beside.is_file():
        os.replace(beside, os.path.realpath(path))
