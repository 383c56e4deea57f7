"""What a result was made by, and of: the commit of the code, and the data sets that were read."""

import functools
import os
import pathlib
import subprocess
from collections.abc import Mapping, Sized
from typing import Any

import advjax
from advjax.data import Dataset, data_read, load

__all__ = ["check_counts", "commit", "load_both"]

_HERE = pathlib.Path(__file__)


def load_both(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Dataset, Dataset, str]:
    """The training and the test set, and what was read in words."""
    train, test = (load(name, split, data_dir=data_dir) for split in ("train", "test"))
    return train, test, data_read(train, test)


def check_counts(config: Any, there: Mapping[str, Sized]) -> None:
    """Raises a `ValueError` that names a field of `config` which asks for more images than `there` are for it."""
    for name, images in there.items():
        if getattr(config, name) > len(images):
            wanted = f"{name}={getattr(config, name)}"
            raise ValueError(f"{wanted} exceeds the {len(images)} images that {config.data} has for it")


@functools.cache
def commit() -> str:
    """The commit of this checkout, "-dirty" after it if tracked files were changed; without one the version.

    >>> commit() != ""
    True
    """
    # Only if this very file is tracked: an installed copy may lie inside somebody else's repository.
    tracked = _git("ls-files", "--error-unmatch", _HERE.name)
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else _version()


def _git(*arguments: str) -> str:
    """What git prints, "" if there is no git or it refuses."""
    try:
        done = subprocess.run(["git", *arguments], cwd=_HERE.parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version() -> str:
    return f"advjax {advjax.__version__}"
