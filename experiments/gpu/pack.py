"""A folder of runs as a few files that are small enough to be handed back, and made of them again."""

import collections
import io
import pathlib
import tarfile
from collections.abc import Sequence

__all__ = ["pack", "unpack"]

# What comes back from the machine: 8 files of 16 MiB, 64 MiB in all; archives add a little.
_ROOM = 62 * 2**20
_PIECE = 16 * 2**20
# Pieces of archives: `cat reports.tar.gz.* | tar -xz`.
_ARCHIVES = ("reports.tar.gz", "state.tar.gz")
# What is made again at once, or has been packed.
_NOT_PACKED = ("cache", "site", "packed")

_Files = list[pathlib.Path]
_Groups = collections.defaultdict[tuple[str, ...], _Files]


def pack(runs: pathlib.Path, out: pathlib.Path) -> _Files:
    """Packs the folder `runs` into files in `out`: reports, the training in progress, then stages, the smallest first.

    A stage is packed with its marker, the newest training with all its checkpoints; the others are over. Of a task that
    is done, only reports are. Whatever finds no room is made again by the run that goes on; a stage that is there
    is not.

    Returns:
        the files that found no room.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in _pieces(out):
        old.unlink()
    reports, state = _units(runs)
    free, left_out = _ROOM, []
    for name, units in zip(_ARCHIVES, (reports, state), strict=True):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for unit in units:
                size = sum(1024 + path.stat().st_size for path in unit)  # a header, and padding
                if size > free:
                    left_out += unit
                    continue
                free -= size
                for path in unit:
                    archive.add(path, path.relative_to(runs).as_posix())
        for number, start in enumerate(range(0, content.tell(), _PIECE)):
            unfinished = out / f".{name}.{number}"
            unfinished.write_bytes(content.getbuffer()[start : start + _PIECE])
            unfinished.replace(out / f"{name}.{number}")
    return left_out


def unpack(folder: pathlib.Path, runs: pathlib.Path) -> None:
    """Puts what `pack` left in `folder` back where it was in `runs`, unless that folder is there already."""
    if runs.exists():
        return
    for name in _ARCHIVES:
        if content := b"".join(piece.read_bytes() for piece in _pieces(folder, name)):
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(runs, filter="data")


def _pieces(folder: pathlib.Path, *names: str) -> _Files:
    return [path for name in names or _ARCHIVES for path in sorted(folder.glob(f"{name}.?"))]


def _units(runs: pathlib.Path) -> tuple[Sequence[_Files], Sequence[_Files]]:
    """The reports, and what a run goes on from: files of which one is worth nothing without the others, in order."""
    reports, trainings, stages = _Groups(list), _Groups(list), _Groups(list)
    for path in sorted(path for path in runs.rglob("*") if path.is_file()):
        parts = path.relative_to(runs).parts
        if parts[0] in _NOT_PACKED or path.suffix == ".partial" or path.name == "lock":
            continue
        if not {"stages", "checkpoints"}.intersection(parts):
            reports[parts].append(path)
        elif (runs / f"{parts[0]}.done").exists():
            continue
        elif "stages" in parts:
            stages[(*parts[:-1], path.stem)].append(path)
        else:
            trainings[parts[: parts.index("checkpoints") + 2]].append(path)
    newest = max(trainings.values(), key=lambda unit: max(path.stat().st_mtime_ns for path in unit), default=[])
    small_first = sorted(stages.values(), key=lambda unit: sum(path.stat().st_size for path in unit))
    return list(reports.values()), [newest, *small_first]
