"""Configurations: each field says what it is for and is checked; `--set`, presets and `--help` come of that."""

import dataclasses
import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["Settings", "explained", "presets", "setting", "with_settings"]

V = TypeVar("V")


def setting(default: V, meaning: str, *, least: float | None = None, among: Iterable[str] = ()) -> V:
    """A field of a configuration.

    Args:
        default: its value in the paper's preset.
        meaning: what it is for.
        least: the smallest value of a number, or of the numbers of a tuple; None: 1 of an int, 0 of a float.
        among: the texts that it, or each member of a tuple, may be; (): any.
    """
    return dataclasses.field(default=default, metadata={"meaning": meaning, "least": least, "among": tuple(among)})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all configurations have; their fields are checked.

    Attributes:
        preset: the name it started from.

    Raises:
        ValueError: a field is none of the values of its `Literal` or of `among`, or a number too small or not finite.

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
        for field, kind in _fields(self):
            content = getattr(self, field.name)
            members = content if isinstance(content, tuple) else (content,)
            allowed = get_args(kind) if get_origin(kind) is Literal else field.metadata["among"]
            if allowed and not set(members) <= set(allowed):
                raise ValueError(f"{field.name} must be among {allowed}, got {content!r}")
            if kind not in (int, float, tuple[float, ...]):
                continue
            if not all(map(math.isfinite, members)):
                raise ValueError(f"{field.name} must be finite, got {content}")
            least = int(kind is int) if field.metadata["least"] is None else field.metadata["least"]
            if members and min(members) < least:
                raise ValueError(f"{field.name} must be at least {least}, got {content}")


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
    kinds, given = {field.name: kind for field, kind in _fields(config)}, {}
    for pair in settings:
        name, equals, text = pair.partition("=")
        if not equals or name not in kinds:
            raise ValueError(f"--set must be field=value with a field of {', '.join(kinds)}; got {pair!r}")
        given[name] = _read(name, kinds[name], text)
    return dataclasses.replace(config, **given)


def explained(config: Settings) -> str:
    """One line for each field but `preset`: its value in this configuration, its type, and what it is for.

    >>> explained(Settings("quick"))
    'seed=0 (int): decides every draw of the run.'
    """
    return "\n".join(
        f"{field.name}={_told(getattr(config, field.name))} ({_kind(kind)}): {field.metadata['meaning']}"
        for field, kind in _fields(config)
    )


def _fields(config: Settings) -> list[tuple[dataclasses.Field[Any], Any]]:
    """All but `preset`, with their types."""
    kinds = get_type_hints(type(config))
    return [(field, kinds[field.name]) for field in dataclasses.fields(config) if field.name != "preset"]


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
