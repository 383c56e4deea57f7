"""Which files of a folder are pictures to read, and what is left out and why."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping

__all__ = ["BROKEN", "HIDDEN", "LOOP", "OTHER", "SUFFIXES", "PictureFiles", "picture_files", "told"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of the files that are read, in any case: torchvision's `ImageFolder`, and GIF."""

HIDDEN = "hidden, or of the system"
OTHER = "of a suffix that is not read"
LOOP = "links back into a folder that they lie in"
BROKEN = "broken links, or no files"

_SYSTEM = ("__MACOSX", "@eaDir")
"""Folders of macOS archives and of network drives, full of previews that are named like pictures."""


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """The files below a folder.

    Attributes:
        paths: of the pictures, relative to the folder, with "/" between the parts: a folder's own files by name, then
            those of its subfolders (torchvision's order).
        skipped: for each reason, the paths of what was left out. A folder that was left out counts once.
    """

    paths: tuple[str, ...]
    skipped: Mapping[str, tuple[str, ...]]


def picture_files(root: str | os.PathLike[str]) -> PictureFiles:
    """The picture files below `root`, links followed, as torchvision's `ImageFolder` finds them.

    Left out are files whose suffix is not in `SUFFIXES`; hidden files and folders (`.ipynb_checkpoints`, `._cat.jpg`),
    which torchvision takes; broken links; and links back into a folder that they lie in, which would never end.

    Raises:
        OSError: a folder cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.PNG", "a.jpg", "notes.txt", ".DS_Store"):
    ...         pathlib.Path(folder, name).touch()
    ...     found = picture_files(folder)
    >>> found.paths
    ('a.jpg', 'b.PNG')
    >>> found.skipped["hidden, or of the system"], found.skipped["of a suffix that is not read"]
    (('.DS_Store',), ('notes.txt',))
    """
    paths: list[str] = []
    skipped: dict[str, list[str]] = {}
    _walk(pathlib.Path(root), "", (), paths, skipped)
    return PictureFiles(tuple(paths), {reason: tuple(each) for reason, each in skipped.items()})


def told(skipped: Mapping[str, Iterable[str]]) -> str:
    """What was left out, in words: a count and an example for each reason.

    >>> told({OTHER: ("notes.txt", "x.svg")})
    '2 of a suffix that is not read (such as notes.txt)'
    """
    counted = ((reason, list(paths)) for reason, paths in skipped.items())
    return ", ".join(f"{len(paths)} {reason} (such as {paths[0]})" for reason, paths in counted if paths)


def _walk(
    folder: pathlib.Path,
    prefix: str,
    above: tuple[tuple[int, int], ...],
    paths: list[str],
    skipped: dict[str, list[str]],
) -> None:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        skipped.setdefault(LOOP, []).append(prefix.rstrip("/"))
        return
    folders = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            reason = _reason(entry)
            if reason is not None:
                skipped.setdefault(reason, []).append(prefix + entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
            else:
                paths.append(prefix + entry.name)
    for name in folders:
        _walk(folder / name, f"{prefix}{name}/", (*above, here), paths, skipped)


def _reason(entry: os.DirEntry[str]) -> str | None:
    """Why an entry is left out; None: it is not."""
    if entry.name.startswith(".") or entry.name in _SYSTEM:
        return HIDDEN
    if entry.is_dir():
        return None
    if not entry.name.lower().endswith(SUFFIXES):
        return OTHER
    return None if entry.is_file() else BROKEN
