"""Configurations: frozen dataclasses that check their fields, are changed by `--set`, and explained by `--help`."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["check_fields", "explained", "with_settings"]

C = TypeVar("C")


def check_fields(config: Any, at_least: Mapping[str, int] | None = None) -> None:
    """Checks what the types of a dataclass's fields say: one of a `Literal`'s values, ints of 1 or more, finite floats.

    Args:
        config: the dataclass.
        at_least: the smallest value of the ints for which that is not 1.

    Raises:
        ValueError: a field is not as above; the message names it.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     data: Literal["digits", "mnist"] = "mnist"
    ...     steps: int = 1
    >>> check_fields(Config(steps=0))
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0
    """
    for name, kind in get_type_hints(type(config)).items():
        content = getattr(config, name)
        if get_origin(kind) is Literal and content not in get_args(kind):
            raise ValueError(f"{name} must be one of {get_args(kind)}, got {content!r}")
        least = (at_least or {}).get(name, 1)
        if kind is int and content < least:
            raise ValueError(f"{name} must be at least {least}, got {content}")
        numbers = content if kind == tuple[float, ...] else (content,) if kind is float else ()
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{name} must be finite, got {content}")


def with_settings(config: C, settings: Iterable[str]) -> C:
    """The configuration with fields given as texts "field=value"; the members of a tuple stand between commas.

    Raises:
        ValueError: a text is no such pair, there is no such field, or it does not take the value.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     steps: int = 1
    ...     norms: tuple[str, ...] = ("l2",)
    >>> with_settings(Config(), ["steps=1000", "norms=l1,linf"])
    Config(steps=1000, norms=('l1', 'linf'))
    """
    kinds, given = get_type_hints(type(config)), {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in kinds or name == "preset":
            names = ", ".join(name for name in kinds if name != "preset")
            raise ValueError(f"--set must be field=value with a field of {names}; got {setting!r}")
        given[name] = _read(name, kinds[name], text)
    return dataclasses.replace(config, **given)  # type: ignore[type-var]


def explained(config: Any) -> str:
    """One line for each field but `preset`: its value in this configuration, its type, and what its docstring says.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     '''One run.
    ...
    ...     Attributes:
    ...         steps: of training,
    ...             in all.
    ...     '''
    ...     steps: int = 1
    >>> explained(Config())
    'steps=1 (int): of training, in all.'
    """
    kinds, found = get_type_hints(type(config)), []
    for names, text in re.findall(r"^ {8}([\w, ]+): (.*(?:\n {12}.*)*)", type(config).__doc__ or "", re.MULTILINE):
        for name in names.split(", "):
            if name in kinds and name != "preset":
                found.append(f"{name}={_told(getattr(config, name))} ({_kind(kinds[name])}): {' '.join(text.split())}")
    return "\n".join(found)


def _read(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_read(name, get_args(kind)[0], part) for part in text.split(",") if part)
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)  # `check_fields` refuses others
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind is not bool:
            return kind(text.replace("_", "") if kind is int else text)
    except ValueError:
        pass
    raise ValueError(f"{name} must be {_kind(kind)}, got {text!r}")


def _told(content: Any) -> str:
    return ",".join(map(str, content)) if isinstance(content, tuple) else str(content)


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_kind(get_args(kind)[0])}s between commas"
    return "true or false" if kind is bool else str(kind.__name__)
