"""Configurations: each field says what it is for and is checked; `--set`, presets and `--help` come of that."""

import dataclasses
import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["Settings", "explained", "presets", "setting", "with_settings"]

V = TypeVar("V")


def setting(default: V, meaning: str, *, least: int = 1) -> V:
    """A field of a configuration: its default, what it is for, and of an int its smallest value."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "least": least})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all configurations have. A field is one of a `Literal`'s values, an int not too small, finite floats.

    Attributes:
        preset: the name it started from.

    Raises:
        ValueError: a field is not as above; the message names it.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config(Settings):
    ...     data: Literal["digits", "mnist"] = setting("mnist", "what is read.")
    ...     steps: int = setting(1, "of training.")
    >>> Config("quick", steps=0)
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0
    """

    preset: str
    seed: int = setting(0, "decides every draw of the run.", least=0)

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            name, kind, content = field.name, kinds[field.name], getattr(self, field.name)
            if get_origin(kind) is Literal and content not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {content!r}")
            if kind is int and content < field.metadata["least"]:
                raise ValueError(f"{name} must be at least {field.metadata['least']}, got {content}")
            numbers = content if kind == tuple[float, ...] else (content,) if kind is float else ()
            if not all(map(math.isfinite, numbers)):
                raise ValueError(f"{name} must be finite, got {content}")


C = TypeVar("C", bound=Settings)


def presets(config: type[C], settings: Mapping[str, str]) -> dict[str, C]:
    """Configurations by name: the defaults, but for what a text says, as it would stand after `--set`.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config(Settings):
    ...     steps: int = setting(1, "of training.")
    ...     rows: tuple[str, ...] = setting((), "of the table.")
    >>> presets(Config, {"quick": "seed=1 rows='FGV,Basic LeNet'"})["quick"]
    Config(preset='quick', seed=1, steps=1, rows=('FGV', 'Basic LeNet'))
    """
    return {name: with_settings(config(name), shlex.split(text)) for name, text in settings.items()}


def with_settings(config: C, settings: Iterable[str]) -> C:
    """The configuration with fields given as texts "field=value"; the members of a tuple stand between commas.

    Raises:
        ValueError: a text is no such pair, there is no such field, or it does not take the value.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config(Settings):
    ...     steps: int = setting(1, "of training.")
    ...     norms: tuple[str, ...] = setting(("l2",), "of the attacks.")
    >>> with_settings(Config("quick"), ["steps=1000", "norms=l1,linf"])
    Config(preset='quick', seed=0, steps=1000, norms=('l1', 'linf'))
    """
    kinds, given = get_type_hints(type(config)), {}
    for pair in settings:
        name, equals, text = pair.partition("=")
        if not equals or name not in kinds or name == "preset":
            names = ", ".join(name for name in kinds if name != "preset")
            raise ValueError(f"--set must be field=value with a field of {names}; got {pair!r}")
        given[name] = _read(name, kinds[name], text)
    return dataclasses.replace(config, **given)


def explained(config: Settings) -> str:
    """One line for each field but `preset`: its value in this configuration, its type, and what it is for.

    >>> explained(Settings("quick"))
    'seed=0 (int): decides every draw of the run.'
    """
    kinds, fields = get_type_hints(type(config)), [field for field in dataclasses.fields(config) if field.metadata]
    return "\n".join(
        f"{field.name}={_told(getattr(config, field.name))} ({_kind(kinds[field.name])}): {field.metadata['meaning']}"
        for field in fields
    )


def _read(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_read(name, get_args(kind)[0], part) for part in text.split(",") if part)
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)  # `Settings` refuses others
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
