"""Finished chunks on disk: each is written whole or not at all, and only a run of the same configuration goes on."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import advjax
from advjax.files import write_text, write_whole
from advjax.fingerprint import differences
from advjax.lock import FolderLock

__all__ = ["Chunks", "open_chunks"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Finished chunks in the folder `root`, which is held for this process; without one nothing is kept."""

    root: pathlib.Path | None
    lock: FolderLock | None = None

    def ensure(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """The chunk's arrays: those stored, or else what `compute` returns, which is then stored."""
        if self.root is None:
            return compute()
        path = self.root / "chunks" / f"{name}.npz"
        if not path.exists():
            content: Any = compute()  # `Any`: keys are argument names of `savez`
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: np.savez(file, **content))
        with np.load(path) as stored:
            return dict(stored)


def open_chunks(folder: str | os.PathLike[str] | None, configuration: Mapping[str, Any]) -> Chunks:
    """The chunks of `configuration` (JSON-able) in `folder`, which is made if it is not there.

    Raises:
      ValueError: the folder holds chunks of another configuration; the message names what differs.
      FolderInUseError: another process evaluates in it.
    """
    if folder is None:
        return Chunks(None)
    root = pathlib.Path(folder)
    lock = FolderLock(root)
    wanted = {**configuration, "versions": {"advjax": advjax.__version__, "jax": jax.__version__}}
    path = root / "evaluation.json"
    if path.exists():
        if changed := differences(json.loads(path.read_text()), wanted):
            raise ValueError(
                f"folder {os.fspath(folder)!r} holds another evaluation, which differs in {changed}. "
                "Choose another folder, or remove that one."
            )
    else:
        write_text(path, json.dumps(wanted, indent=2) + "\n")
    return Chunks(root, lock)
