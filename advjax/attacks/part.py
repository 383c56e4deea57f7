"""Part: what an attack and everything in it is asked beside its own job, and what most of them answer."""

from collections.abc import Iterator
from typing import TypeAlias

import jax
import numpy as np

from advjax.value import walk

__all__ = ["Mask", "Number", "Part", "parts"]

Number: TypeAlias = float | np.ndarray | jax.Array
"""A setting of an attack: one number, or one for each image [B]."""

Mask: TypeAlias = np.ndarray | jax.Array
"""0/1, 1 = may change: [H, W, C] or [H, W, 1], or one for each image with the batch in front."""


class Part:
    """Base of all that an attack is made of: attacks, objectives, directions, searches, constraints, regions, criteria.

    Each kind adds what it is called with (`Objective`, `Direction`, ...); a part of your own derives from its kind and
    is a `@value`.  Of these answers it overrides those that are not true of it.
    """

    @property
    def random(self) -> bool:
        """Whether it draws random numbers: then `perturb` wants a key, and `evaluate` makes restarts."""
        return False

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError if it does not fit images of `shape` [H, W, C]."""

    def asked_classes(self) -> dict[str, Number]:
        """What it asks of the model's classes: their numbers as "targets", ranks among the others as "rank"."""
        return {}


def parts(attack: Part) -> Iterator[Part]:
    """Every part of an attack or a stack, itself first."""
    return (part for part in walk(attack) if isinstance(part, Part))
