"""Checks of the numbers that an attack is made with, by the name that the user knows them by."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["check_count", "check_integer", "check_radius", "check_real"]


def check_radius(name: str, content: object) -> None:
    """Raises unless `content` is a finite number of 0 or more, or an array of such, one for each image."""
    check_real(name, content, "a finite number of 0 or more", lambda array: np.isfinite(array) & (array >= 0))


def check_integer(name: str, content: object, least: int = 0) -> None:
    """Raises unless `content` is an integer of `least` or more, or an array of such, one for each image."""
    check_real(
        name, content, f"an integer of {least} or more", lambda array: (array == np.floor(array)) & (array >= least)
    )


def check_real(name: str, content: object, wanted: str, allowed: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raises TypeError for what is no real number, nor an array or list of them, ValueError for what is not `allowed`.

    Text, None, complex numbers and truth values are no numbers.  What is traced has no values to ask `allowed` about.
    """
    wanted = f"{name} must be {wanted}, or one for each image"
    if not isinstance(content, int | float | list | tuple | np.generic | np.ndarray | jax.Array):
        raise TypeError(f"{wanted}, got {content!r}")
    # An array that is traced, or lies on another host, has no values here.
    known = not isinstance(content, jax.core.Tracer) and getattr(content, "is_fully_addressable", True)
    try:
        array: Any = np.asarray(content) if known else content
    except ValueError as error:  # a list of lists of several lengths
        raise TypeError(f"{wanted}, got {content!r}") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{wanted}, got {content!r}")
    refused: Any = array[~allowed(array)] if known else ()
    if len(refused):
        raise ValueError(f"{wanted}, got {refused[0]}" + (" among others" if array.ndim else ""))


def check_count(name: str, count: object) -> None:
    """Raises ValueError unless `count` is an integer of 1 or more."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, got {count!r}")
