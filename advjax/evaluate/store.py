"""Finished chunks on disk: each is written whole or not at all, and only a run of the same configuration goes on."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advjax
from advjax.files import write_text, write_whole
from advjax.lock import FolderLock

__all__ = ["Chunks", "digest", "open_chunks"]

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
        found = json.loads(path.read_text())
        changed = [part for part in {**found, **wanted} if found.get(part) != wanted.get(part)]
        if changed:
            differences = "; ".join(f"{part}: {found.get(part)} -> {wanted.get(part)}" for part in changed)
            raise ValueError(
                f"folder {os.fspath(folder)!r} holds another evaluation, which differs in {differences}. "
                "Choose another folder, or remove that one."
            )
    else:
        write_text(path, json.dumps(wanted, indent=2) + "\n")
    return Chunks(root, lock)


def digest(*parts: Any) -> str:
    """A fingerprint of arrays and of pytrees of them: the numbers, and the structure without memory addresses."""
    known = hashlib.sha256()
    for part in parts:
        leaves, structure = jax.tree.flatten(part)
        known.update(re.sub(r" at 0x[0-9a-f]+", "", repr(structure)).encode())
        for leaf in map(_numbers, leaves):
            known.update(f"{leaf.dtype}{leaf.shape}".encode())
            known.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return known.hexdigest()[:16]


def _numbers(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
