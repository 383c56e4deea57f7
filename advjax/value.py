"""Values: frozen pytrees whose numbers are traced by JAX and whose structure is compared by value.

A part of an attack is such a value.  Because equal structures are equal, building the same attack anew, or with
another epsilon, factor or mask of the same shape, never compiles again.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np
from numpy.typing import DTypeLike

__all__ = ["batch_axes", "number", "shared", "static", "value", "walk"]

T = TypeVar("T")


def number(rank: int = 0, dtype: DTypeLike = np.float32, **field_options: Any) -> Any:
    """A traced field.  With `rank` axes it is shared by all images, with one more in front it is per image."""
    return dataclasses.field(metadata={"rank": rank, "dtype": np.dtype(dtype)}, **field_options)


def static(**field_options: Any) -> Any:
    """A field that is part of the structure: hashable, compared by value, a change of it compiles anew."""
    return dataclasses.field(metadata={"static": True}, **field_options)


def shared(**field_options: Any) -> Any:
    """A traced field that holds any pytree of arrays, such as a network's variables, the same for all images."""
    return dataclasses.field(metadata={"shared": True}, **field_options)


@dataclass_transform(frozen_default=True, field_specifiers=(number, shared, static))
def value(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and a JAX pytree; numbers given as Python or NumPy numbers become arrays.

    Example:
      >>> from advjax.value import number, value
      >>> @value
      ... class Radius:
      ...     epsilon: float = number()
      >>> jax.tree.leaves(Radius(0.5))
      [array(0.5, dtype=float32)]
    """
    own_check = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            if "rank" in field.metadata:
                object.__setattr__(self, field.name, _as_number(field, getattr(self, field.name)))
        if own_check is not None:
            own_check(self)

    def __eq__(self: Any, other: Any) -> Any:
        if type(self) is not type(other):
            return NotImplemented
        structure: Any = jax.tree.structure(self)
        if structure != jax.tree.structure(other):
            return False
        return all(map(np.array_equal, jax.tree.leaves(self), jax.tree.leaves(other)))

    def __hash__(self: Any) -> int:
        return hash(jax.tree.structure(self))

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    # A dataclass would compare arrays by ==, which has no truth value, and hash them, which fails.
    cls.__eq__, cls.__hash__ = __eq__, __hash__  # type: ignore[method-assign]
    frozen = dataclasses.dataclass(frozen=True, eq=False)(cls)
    _register(frozen)
    return frozen


def _as_number(field: dataclasses.Field[Any], content: Any) -> Any:
    """`content` as a NumPy array of the field's type, so that checks can read it and equal numbers trace equally."""
    # Tracers have no value yet, and arrays of several hosts none that this one could read.
    if isinstance(content, jax.Array) and (isinstance(content, jax.core.Tracer) or not content.is_fully_addressable):
        return content
    if isinstance(content, str | bytes | complex):
        raise TypeError(f"{field.name} must hold numbers, got {content!r}")
    if not isinstance(content, int | float | list | tuple | np.generic | np.ndarray | jax.Array):
        return content
    try:
        given, wanted = np.asarray(content), field.metadata["dtype"]
    except ValueError as error:  # a list of lists of several lengths
        raise TypeError(f"{field.name} must hold numbers in equal rows, got {content!r}") from error
    # A truth value is no number, but 0 and 1 are truth values.
    if given.dtype.kind in "OUSc" or (given.dtype.kind == "b" and wanted.kind != "b"):
        raise TypeError(f"{field.name} must hold numbers, got {content!r}")
    array = given.astype(wanted)
    if wanted.kind in "ib" and not np.array_equal(array, given):
        raise ValueError(
            f"{field.name} must hold {'0 and 1 only' if wanted.kind == 'b' else 'integers'}, got {content}"
        )
    return array


def _register(cls: Any) -> None:
    # Not jax.tree_util.register_dataclass: structures of two such classes with equal fields compare equal
    # (jaxlib 0.10 to 0.12), so that jit could run the program of another attack.
    fields = dataclasses.fields(cls)
    names = [f.name for f in fields if not f.metadata.get("static")]
    static_names = [f.name for f in fields if f.metadata.get("static")]

    def flatten(part: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(part, name) for name in names], tuple(getattr(part, name) for name in static_names)

    def flatten_with_keys(part: Any) -> tuple[list[Any], tuple[Any, ...]]:
        children, statics = flatten(part)
        keys = map(jax.tree_util.GetAttrKey, names)
        return list(zip(keys, children, strict=True)), statics

    def unflatten(statics: tuple[Any, ...], children: Any) -> Any:
        # Without __post_init__: JAX rebuilds values around tracers and placeholders, which no check could read.
        part = object.__new__(cls)
        for name, content in zip((*names, *static_names), (*children, *statics), strict=True):
            object.__setattr__(part, name, content)
        return part

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def walk(part: Any) -> Iterator[Any]:
    """Every value inside `part`, itself first."""
    if isinstance(part, tuple):
        for element in part:
            yield from walk(element)
    elif dataclasses.is_dataclass(part):
        yield part
        for field in dataclasses.fields(part):
            if not field.metadata.keys() & {"static", "shared", "rank"}:
                yield from walk(getattr(part, field.name))


def batch_axes(part: Any, batch: int, *, extra: int = 0) -> list[int | None]:
    """For each leaf of `part`, in `jax.tree.leaves` order, the axis that runs over the images, or None.

    `extra` leading axes (of a stack of attacks) come before.  Raises ValueError where a per-image leaf has another
    number of images than `batch`, or an impossible rank.
    """
    axes: list[int | None] = []
    for element in _in_leaf_order(part):
        field, content = element
        if field.metadata.get("shared"):
            if extra:
                raise ValueError(f"{field.name} is shared by all images: run attacks that hold it in turn, not stacked")
            axes += [None] * len(jax.tree.leaves(content))
            continue
        rank = np.ndim(content) - extra
        if rank == field.metadata["rank"]:
            axes.append(None)
        elif rank == field.metadata["rank"] + 1:
            if np.shape(content)[extra] != batch:
                raise ValueError(
                    f"{field.name} has one entry for each of {np.shape(content)[extra]} images, "
                    f"but the batch has {batch}"
                )
            axes.append(0)
        else:
            raise ValueError(
                f"{field.name} must have rank {field.metadata['rank']} (shared by all images) or "
                f"{field.metadata['rank'] + 1} (one for each), got shape {np.shape(content)[extra:]}"
            )
    return axes


def _in_leaf_order(part: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    if isinstance(part, tuple):
        for element in part:
            yield from _in_leaf_order(element)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            content = getattr(part, field.name)
            if "rank" in field.metadata or field.metadata.get("shared"):
                if content is not None:
                    yield field, content
            elif not field.metadata.get("static"):
                yield from _in_leaf_order(content)
