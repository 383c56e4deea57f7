"""The files of a data set that TFDS prepared: its versions, and what is wrong with files before TFDS meets them."""

import json
import pathlib
import re
from collections.abc import Sequence

__all__ = ["newest_version", "problem_of_json", "problem_of_shard", "problem_of_shards"]

_NUMBER = r"(?:0|[1-9]\d*)"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}")
# ArrayRecord's blocks are of 64 KiB, and the last one is always written in full.
_SHORTEST = 2**16
_LONGEST_POINTER = 1000
_POINTERS = {
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: run `git lfs pull` in its repository",
    b"/annex/objects/": "is a pointer of git-annex and not the file itself: run `git annex get` in its repository",
}


def newest_version(folder: pathlib.Path) -> tuple[pathlib.Path | None, list[str]]:
    """The subfolder of the newest version x.y.z, and the names of the subfolders that are no versions.

    Copies that people keep (`3.0.1.bak`) and what TFDS has not finished (`3.0.1.incompleteAB12`) are none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("3.0.1", "3.0.1.bak2", "2.9.10", "incomplete.AB12_3.0.2"):
    ...         pathlib.Path(folder, name).mkdir()
    ...     version, others = newest_version(pathlib.Path(folder))
    >>> version.name, others
    ('3.0.1', ['3.0.1.bak2', 'incomplete.AB12_3.0.2'])
    """
    folders = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    versions = [entry for entry in folders if _VERSION.fullmatch(entry.name)]
    others = sorted(entry.name for entry in folders if entry not in versions)
    return max(versions, key=lambda entry: [int(part) for part in entry.name.split(".")], default=None), others


def problem_of_json(path: pathlib.Path) -> str | None:
    """Why `path` holds no JSON object; None if it does."""
    if (problem := _problem_of_file(path)) is not None:
        return problem
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"is cut or no JSON ({error})"
    return None if isinstance(content, dict) and content else "holds no JSON object"


def problem_of_shard(path: pathlib.Path) -> str | None:
    """Why `path` can be no ArrayRecord file, told without opening one that may be large; None if it may be one."""
    if (problem := _problem_of_file(path)) is not None:
        return problem
    size = path.stat().st_size
    return None if size >= _SHORTEST else f"is cut: it has {size:,} bytes, the shortest ArrayRecord file {_SHORTEST:,}"


def problem_of_shards(paths: Sequence[pathlib.Path], lengths: Sequence[int]) -> tuple[pathlib.Path, str] | None:
    """The first ArrayRecord file that cannot be opened or does not hold as many records as it should, and why."""
    from array_record.python import array_record_module

    for path, length in zip(paths, lengths, strict=True):
        if (problem := problem_of_shard(path)) is not None:
            return path, problem
        try:
            reader = array_record_module.ArrayRecordReader(str(path))
            count = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError, OSError) as error:
            return path, "is cut or damaged" + (f" ({error})" if str(error) else "")
        if count != length:
            return path, f"holds {count:,} examples, by dataset_info.json it should hold {length:,}"
    return None


def _problem_of_file(path: pathlib.Path) -> str | None:
    if not path.exists():
        return "is missing"
    if not path.is_file():
        return "is no file"
    if path.stat().st_size > _LONGEST_POINTER:
        return None
    start = path.read_bytes()
    return next((problem for word, problem in _POINTERS.items() if start.startswith(word)), None)
