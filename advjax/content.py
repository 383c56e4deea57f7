"""Content: a static part of a program compared by what it holds, arrays, lists and dictionaries included."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from advjax.fingerprint import fingerprint

__all__ = ["Content"]


class Content:
    """Makes any object fit for a static field: equal content is equal, whether or not the object can be hashed.

    The content is read once, here: arrays by type, shape and bytes; lists, tuples, dictionaries and dataclasses part
    by part; everything else that can be hashed by its own equality, the rest by identity.

    Example:
      >>> import numpy as np
      >>> Content({"mean": np.zeros(3)}) == Content({"mean": np.zeros(3)})
      True
      >>> Content({"mean": np.zeros(3)}) == Content({"mean": np.ones(3)})
      False
    """

    def __init__(self, held: Any) -> None:
        self.held = held
        self._identity = _identity(held)
        self._hash = hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type["Content"], tuple[Any]]:
        # Read again where it is unpickled: hashes of strings are others in every process.
        return Content, (self.held,)

    def __repr__(self) -> str:
        # Not that of `held`, in which arrays are abbreviated: fingerprints of an evaluation are taken of it.
        return f"Content({self._identity!r})"


def _identity(part: Any) -> Any:
    """A hashable object that is equal for equal content and no other."""
    if isinstance(part, jax.Array | np.ndarray) and not isinstance(part, jax.core.Tracer):
        return _array_identity(part)
    if isinstance(part, list | tuple):
        return type(part), tuple(map(_identity, part))
    try:
        hash(part)
    except TypeError:
        pass
    else:
        return type(part), part  # with its type, since 1, 1.0 and True are equal
    if isinstance(part, Mapping):
        return type(part), tuple((_identity(name), _identity(content)) for name, content in part.items())
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return type(part), tuple(
            (field.name, _identity(getattr(part, field.name))) for field in dataclasses.fields(part)
        )
    return type(part), id(part)


def _array_identity(array: Any) -> Any:
    kind = type(array) if isinstance(array, np.ndarray) else jax.Array
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return kind, str(array.dtype), _array_identity(jax.random.key_data(array))
    numbers = np.ascontiguousarray(array)
    if numbers.dtype == object:
        return kind, numbers.shape, tuple(map(_identity, numbers.ravel().tolist()))
    return kind, str(numbers.dtype), np.shape(array), fingerprint(numbers)
