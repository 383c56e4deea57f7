"""Optax's optimizers by name, for configurations and command lines."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import optax

__all__ = ["OPTIMIZERS", "optimizer"]

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = MappingProxyType(
    {"sgd": optax.sgd, "adam": optax.adam, "adamw": optax.adamw, "rmsprop": optax.rmsprop, "lion": optax.lion}
)


def optimizer(name: str, learning_rate: optax.ScalarOrSchedule, **options: Any) -> optax.GradientTransformation:
    """The optimizer `name` of optax with a learning rate (a number or a schedule) and its own options.

    Raises:
        ValueError: no such optimizer, or an option that it does not have.

    >>> optimizer("sgd", 0.1, momentum=0.9).init(0.0) is not None
    True
    >>> optimizer("sdg", 0.1)
    Traceback (most recent call last):
    ...
    ValueError: optimizer must be one of sgd, adam, adamw, rmsprop, lion, got 'sdg'
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    try:
        return OPTIMIZERS[name](learning_rate, **options)
    except TypeError as error:
        raise ValueError(f"optimizer {name} does not take these options: {error}") from error
