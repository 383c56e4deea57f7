"""The files of checkpoints: what they are called, which are whole, which stay. Knows nothing of what is in them.

    folder/000007-step-350/...            a finished checkpoint, the seventh one written
                           record.json    step, score and whatever else, as JSON
                           SHA256SUMS     the SHA-256 of all its other files (`sha256sum -c SHA256SUMS` checks by hand)
    folder/unfinished/                    what is being written or deleted; never read
    folder/damaged-000006-step-300/       found damaged and set aside; never read, never deleted

The number in front counts the writes: the newest checkpoint is the one written last, also after a run was taken up
again from an earlier step. A folder gets its name by one `rename`, after all its bytes are on the disk: whatever has
such a name was once whole, so a file that is missing or differs later means damage, not a write cut short.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable
from typing import Any

from advjax.fingerprint import file_digest

__all__ = [
    "Saved",
    "finished",
    "latest",
    "best_first",
    "unfinished",
    "start",
    "publish",
    "prune",
    "discard",
    "damage",
    "set_aside",
]

_NAME = re.compile(r"(damaged-)?(\d+)-step-(\d+)")
_RECORD, _SUMS, _SCRATCH = "record.json", "SHA256SUMS", "unfinished"


@dataclasses.dataclass(frozen=True, order=True)
class Saved:
    """A finished checkpoint; ordered by when it was written."""

    number: int
    step: int
    path: pathlib.Path

    def contents(self) -> dict[str, Any]:
        """What `publish` was given as record."""
        return json.loads((self.path / _RECORD).read_text())

    def score(self) -> float | None:
        """None also if it cannot be read: keeping and deleting must go on next to a damaged checkpoint."""
        try:
            return self.contents()["score"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def finished(folder: pathlib.Path) -> list[Saved]:
    """All finished checkpoints in the order of writing."""
    matches = [match for match in map(_NAME.fullmatch, os.listdir(folder)) if match and not match[1]]
    return sorted(Saved(int(match[2]), int(match[3]), folder / match[0]) for match in matches)


def latest(folder: pathlib.Path) -> dict[int, Saved]:
    """The finished checkpoint of each step: of several the one written last."""
    return {saved.step: saved for saved in finished(folder)}


def best_first(checkpoints: Iterable[Saved]) -> list[Saved]:
    """Those with a score, by falling score; of equal scores the one written first leads."""
    scored = [(score, saved) for saved in checkpoints if (score := saved.score()) is not None]
    return [saved for _, saved in sorted(scored, key=lambda pair: (-pair[0], pair[1]))]


def unfinished(folder: pathlib.Path) -> pathlib.Path:
    """Where a checkpoint is written before it is finished; made by `start`."""
    return folder / _SCRATCH / "new"


def start(folder: pathlib.Path) -> None:
    """Deletes what an earlier write left unfinished, and makes `unfinished(folder)` anew."""
    discard(folder)
    unfinished(folder).mkdir(parents=True)


def discard(folder: pathlib.Path) -> None:
    """Deletes what is unfinished."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / _SCRATCH)


def publish(folder: pathlib.Path, step: int, record: str) -> None:
    """Makes what was written since `start` a finished checkpoint."""
    new = unfinished(folder)
    (new / _RECORD).write_text(record)
    (new / _SUMS).write_text(_sums(new))
    for path in [*new.rglob("*"), new]:
        _flush(path)
    numbers = [int(match[2]) for match in map(_NAME.fullmatch, os.listdir(folder)) if match]
    new.rename(folder / f"{1 + max(numbers, default=0):06d}-step-{step}")
    _flush(folder)


def prune(folder: pathlib.Path, keep_last: int, keep_best: int) -> None:
    """Deletes all finished checkpoints but the last and the best, and what is unfinished."""
    ordered = sorted(latest(folder).values())
    keep = ordered[-keep_last:] + best_first(ordered)[:keep_best]
    for saved in finished(folder):
        if saved not in keep:
            # Out of the way in one move first: a deletion cut short must not look like a damaged checkpoint.
            saved.path.rename(folder / _SCRATCH / saved.path.name)
    discard(folder)


def damage(path: pathlib.Path) -> str:
    """What is wrong with the files of the finished checkpoint in `path`; empty if all are as they were written."""
    if not (path / _SUMS).is_file():
        return f"{_SUMS} is missing"
    try:
        listed, found = (path / _SUMS).read_bytes().decode(errors="replace"), _sums(path)
    except OSError as error:
        return str(error)
    if listed == found:
        return ""
    want, have = (
        {name: digest for digest, _, name in (line.partition("  ") for line in text.split("\n"))}
        for text in (listed, found)
    )
    wrong = [
        f"{name} {'is missing' if name not in have else f'does not match {_SUMS}'}"
        for name in sorted(want.keys() | have.keys())
        if want.get(name) != have.get(name)
    ]
    return ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "") or f"{_SUMS} is damaged"


def set_aside(saved: Saved) -> None:
    """Renames a damaged checkpoint: it no longer counts, and a person can look at it."""
    saved.path.rename(saved.path.with_name(f"damaged-{saved.path.name}"))


def _sums(path: pathlib.Path) -> str:
    """The text of SHA256SUMS for the files below `path`."""
    lines = []
    for file in sorted(file for file in path.rglob("*") if file.is_file() and file != path / _SUMS):
        lines.append(f"{file_digest(file)}  {file.relative_to(path).as_posix()}\n")
    return "".join(lines)


def _flush(path: pathlib.Path) -> None:
    """Has the file or folder on the disk, not only in the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
