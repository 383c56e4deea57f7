"""Files that are written whole or not at all: a temporary one beside the target, then one rename."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO

__all__ = ["write_text", "write_whole"]


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write` with a binary file that takes the place of `path` at once, when all of it is on the disk.

    Where anything fails on the way (a full disk, an interruption) what stood at `path` still stands there. The file
    that a link leads to is replaced, not the link; a device or a pipe (`/dev/stdout`) is written to as it is.

    Example:
      >>> import pathlib, tempfile
      >>> from advjax.files import write_whole
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "numbers")
      ...     write_whole(path, lambda file: file.write(b"1 2 3"))
      ...     path.read_bytes(), [entry.name for entry in path.parent.iterdir()]
      (b'1 2 3', ['numbers'])
    """
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            write(file)
        return
    # One name: what a killed process leaves behind is written over by the next.
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))
