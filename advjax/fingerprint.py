"""Fingerprints, short texts that are equal for equal content in every process; and what differs between two records."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["differences", "file_digest", "fingerprint"]


def fingerprint(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of arrays, numbers, texts and bytes, and of pytrees of them.

    What counts is type, shape and numbers of each array, and the structure they lie in, without memory addresses: an
    attack and a classifier have fingerprints, as a configuration of JSON values has. Typed keys count as their data.

    Raises:
        TypeError: a leaf is none of these, such as a function outside of a static field.

    >>> fingerprint({"rate": 0.1, "layers": [1, 2]}) == fingerprint({"layers": [1, 2], "rate": 0.1})
    True
    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros((3, 1)))
    False
    """
    known = hashlib.sha256()
    for part in parts:
        leaves, structure = jax.tree.flatten(part)
        known.update(re.sub(r" at 0x[0-9a-f]+", "", repr(structure)).encode())
        for leaf in leaves:
            numbers = _numbers(leaf)
            known.update(f"{numbers.dtype}{numbers.shape}".encode())
            known.update(np.ascontiguousarray(numbers).view(np.uint8).data)
    return known.hexdigest()[:16]


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, all 64 hex digits, as `sha256sum` prints it.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     file_digest(file.name)
    'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which values of two records differ, and how; "" where none does.

    >>> differences({"rate": 0.1, "steps": 5}, {"rate": 0.2, "steps": 5})
    'rate: 0.1 -> 0.2'
    """
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)} -> {new.get(name)}" for name in changed)


def _numbers(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    numbers = np.asarray(leaf)
    if numbers.dtype == object:
        raise TypeError(f"a fingerprint is of arrays, numbers, texts and bytes, got {type(leaf).__name__}")
    return numbers
