"""Two folders: every picture of the one beside its partner in the other, as a table."""

import collections
import contextlib
import itertools
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from advjax.command import INTERRUPTED, fail
from advjax.data.picture_files import told
from advjax.score_command.blocks import Settings
from advjax.score_command.buckets import buckets
from advjax.score_command.loaded import shape_of
from advjax.score_command.pairs import Pair, pair_up
from advjax.score_command.queue import rows
from advjax.score_command.table import partial, table

__all__ = ["score_folders"]

_SOME_BAD = 1


def score_folders(original: pathlib.Path, changed: pathlib.Path, csv: pathlib.Path | None, settings: Settings) -> int:
    """Writes the table of two folders to `csv`, or to stdout; returns 1 if some pictures could not be scored, else 0.

    Raises:
        Ended: Ctrl-C; the rows so far are kept.
        ValueError: no picture of the one belongs to one of the other, or several may.
        OSError: a folder cannot be read, or the table not be written.
    """
    found = pair_up(original, changed)
    for folder, skipped in zip((original, changed), found.skipped, strict=True):
        if skipped:
            _say(f"left out of {folder}: {told(skipped)}")
    if not found.pairs:
        raise ValueError(f"no picture of {changed} has the name of one of {original}")
    faults = [f"{path} has no partner in the other folder" for path in found.alone]
    with _interrupts() as came:
        shapes = _shapes(found.pairs, settings.levels, faults, came)
        results = rows([*shapes], _bucket_of(shapes), settings, came)
        with table(csv) as growing, contextlib.closing(results):
            for result in _with_bar(results, len(shapes)):
                if isinstance(result, ValueError):
                    faults.append(str(result))
                else:
                    growing.add(result)
            growing.whole = not came()
    if faults:
        _say(f"{len(faults)} of {len(found.pairs) + len(found.alone)} could not be scored:", *faults)
    if not growing.whole:
        kept = "" if csv is None else f", their rows are in {partial(csv)}"
        fail("advjax", f"{growing.rows} of {len(found.pairs)} pairs are scored{kept}", INTERRUPTED)
    return _SOME_BAD if faults else 0


def _shapes(
    pairs: Sequence[Pair], levels: int, faults: list[str], stopped: Callable[[], bool]
) -> dict[Pair, tuple[int, int, int]]:
    """The shape of each pair that has one; what is wrong with the others goes to `faults`."""
    shapes = {}
    for pair in itertools.takewhile(lambda pair: not stopped(), pairs):
        try:
            shapes[pair] = shape_of(pair, levels)
        except ValueError as error:
            faults.append(str(error))
    return shapes


def _bucket_of(shapes: Mapping[Pair, tuple[int, int, int]]) -> dict[Pair, tuple[int, int, int]]:
    bucket = buckets(collections.Counter(shapes.values()))
    return {pair: bucket[shape] for pair, shape in shapes.items()}


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came, instead of an exception in the middle of a row. A second one acts at once, as before."""
    came: list[int] = []

    def hold(number: int, frame: Any) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield lambda: False  # signals reach the main thread only; a shell's background jobs are to ignore Ctrl-C
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def _with_bar(results: Iterator[Any], total: int) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(results, total=total, unit="pair", disable=not sys.stderr.isatty()))


def _say(*lines: str) -> None:
    print("advjax:", "\n  ".join(lines), file=sys.stderr)
