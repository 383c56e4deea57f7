"""A folder that one run at a time writes to: the system frees its lock when the process ends, however it ends."""

import contextlib
import dataclasses
import datetime
import errno
import os
import pathlib
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Self

__all__ = ["FolderInUseError", "FolderLock"]

_NAME = "lock"
_REFUSED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FolderInUseError(OSError):
    """Another process writes to the folder; the message says which, where, and since when."""


@dataclasses.dataclass
class _Held:
    """The open lock file of a folder that this process holds, and how often."""

    file: int
    times: int


# By the lock file itself, `(device, inode)`, however its path is spelled. While it is open no other file is that.
_Key = tuple[int, int]
_held: dict[_Key, _Held] = {}
# Locks may be collected, and so released, while another one is taken by the same thread.
_guard = threading.RLock()


class FolderLock:
    """Holds a folder for this process, until it is released, left (as a context), or collected.

    A file `lock` in the folder is locked by `flock`: the kernel frees it when the process ends, by SIGKILL too, so
    that nothing is ever left to be removed by hand. The file names who holds it. The same process may hold a folder
    several times, for a store that is opened again; the last release frees it. Readers need no lock.

    Where the system or the file system has no such locks (Windows, some network file systems), there is one warning,
    and no lock.

    Args:
        folder: made if it is not there.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the folder cannot be made or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, FolderLock(folder):
    ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
    ['lock']
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with _guard:
            # Not opened twice: where `flock` is made of POSIX locks (NFS), closing the second one frees the first.
            key = _key(path / _NAME) if (path / _NAME).exists() else (-1, -1)
            if key not in _held:
                file = _take(path)
                key = _key(file)
                _held[key] = _Held(file, 0)
            _held[key].times += 1
        # Called once: by `release`, when the object is collected, or when the interpreter ends.
        self._release: Callable[[], Any] = weakref.finalize(self, _release, key)

    def release(self) -> None:
        """Frees the folder, unless this process holds it otherwise too."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _key(file: int | pathlib.Path) -> _Key:
    found = os.stat(file)
    return found.st_dev, found.st_ino


def _take(path: pathlib.Path) -> int:
    """The descriptor of the lock file, locked; not inherited by programs that this one starts."""
    file = os.open(path / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(file, path)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
    except BaseException:
        os.close(file)
        raise
    return file


def _lock(file: int, path: pathlib.Path) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _REFUSED:
            holder = os.read(file, 500).decode(errors="replace").strip() or "a process that did not say its name"
            raise FolderInUseError(
                f"the folder {path} is in use by {holder}: wait for its end, stop it, or choose another folder"
            ) from None
        warnings.warn(f"{path} cannot be locked ({error}): nothing keeps a second run out of it", stacklevel=5)


def _release(key: _Key) -> None:
    with _guard, contextlib.suppress(KeyError):
        _held[key].times -= 1
        if not _held[key].times:
            os.close(_held.pop(key).file)
