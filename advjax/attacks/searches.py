"""Searches: how far along the ray.

A search is called as `search(candidate, fooled, active)` for one image: `candidate(scale)` is the allowed image at
that distance, `fooled(image)` asks the model, `active` is False where there is no direction.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.part import Number, Part
from advjax.attacks.settings import check_count, check_radius
from advjax.value import number, static, value

__all__ = ["Boundary", "Fixed", "Found", "Search"]

# Of a trained LeNet's 415 rays that cross their target class, on scikit-learn's digits, two passes found 412, four 414
# and eight 415 (2026-11-25).
_TARGET_PASSES = 8


class Found(NamedTuple):
    """What a search returns: the image, its distance along the ray, model calls made, and whether it was found."""

    image: jax.Array
    scale: jax.Array
    calls: jax.Array
    found: jax.Array


class Search(Part, ABC):
    """How far to go along a ray, on one image."""

    @abstractmethod
    def __call__(
        self,
        candidate: Callable[[jax.Array], jax.Array],
        fooled: Callable[[jax.Array], jax.Array],
        active: jax.Array,
    ) -> Found:
        """See the module's docstring."""

    def towards(self, targets: Number) -> "Search":
        """The search for images of these classes, for `targeted`: the same, unless they are harder to find."""
        return self


@value
class Fixed(Search):
    """Goes `step_size` far and does not ask the model."""

    step_size: Number = number()

    def __post_init__(self) -> None:
        check_radius("step_size", self.step_size)

    def __call__(
        self,
        candidate: Callable[[jax.Array], jax.Array],
        fooled: Callable[[jax.Array], jax.Array],
        active: jax.Array,
    ) -> Found:
        step_size = jnp.asarray(self.step_size)
        # Like `active`: see `Boundary`.
        scale = step_size + jnp.zeros_like(active, dtype=step_size.dtype)
        return Found(candidate(scale), scale, jnp.zeros_like(active, dtype=jnp.int32), jnp.ones_like(active))


@value
class Boundary(Search):
    """The smallest distance at which the model is fooled: doubling steps, then bisection in the last section.

    Rozsa et al. 2016, section 4.3, gives no numbers; these are ours.  Steps of 1, 2, 4, ... times `start` are added
    until the candidate at s_j fools the model or s_j would pass `maximum`.  Then they are tried again from 1.5 times
    `start`, between the first ones, and in later `passes` from 1.25, 1.75, 1.125, ... times.  Once one fools,
    (s_{j-1}, s_j] is halved until it is no wider than `tolerance * max(start, s)`.  Its upper end s*, which itself was
    tested, is the boundary, and the image returned is the one at `factor * s*`: with factor > 1 a hard positive.  If
    nothing fools the model the image is the one that the search started from.

    Attributes:
      factor: multiple of the boundary distance, 1 = minimal adversarial image.
      start: first step, in units of the ray.
      maximum: longest distance.  Raw gradients need far more than 1, because their largest pixels saturate first.
      tolerance: relative width at which the bisection stops.
      passes: how often the steps are tried: a power of two, p, finds any section of the ray that fools, from a to b,
        which is as long as b >= (1 + 1/p) a + start.  Beyond the nearest boundary a ray mostly stays in wrong classes,
        so that two suffice; one target class it may cross briefly, and `targeted` makes eight.
    """

    factor: Number = number(default=1.0)
    start: float = static(default=1.0 / 255.0)
    maximum: float = static(default=1e5 / 255.0)
    tolerance: float = static(default=1e-3)
    passes: int = static(default=2)

    def __post_init__(self) -> None:
        check_radius("factor", self.factor)
        bounds = (self.start, self.maximum)
        if not all(isinstance(bound, int | float) for bound in bounds) or not 0 < self.start <= self.maximum < math.inf:
            raise ValueError(f"start and maximum must be 0 < start <= maximum, got {self.start} and {self.maximum}")
        # Narrower, and a section of two adjacent float32 numbers could be halved for ever.
        if not 1e-6 <= self.tolerance <= 1:
            raise ValueError(f"tolerance must be from 1e-6 to 1, got {self.tolerance}")
        check_count("passes", self.passes)

    def towards(self, targets: Number) -> Search:
        return dataclasses.replace(self, passes=max(self.passes, _TARGET_PASSES))

    def __call__(
        self,
        candidate: Callable[[jax.Array], jax.Array],
        fooled: Callable[[jax.Array], jax.Array],
        active: jax.Array,
    ) -> Found:
        factor = jnp.asarray(self.factor)
        # Like `active`, so that in a user's `shard_map` the loop's carry varies over devices as its body does.
        zero = jnp.zeros_like(active, dtype=factor.dtype)
        starts = [self.start * between for between in _between(self.passes) if self.start * between <= self.maximum]
        start = zero + self.start

        class Section(NamedTuple):
            low: jax.Array
            high: jax.Array
            turn: jax.Array
            found: jax.Array
            calls: jax.Array

        # Doubling and halving share one loop: in a batch some images bisect while others still look for the section.
        def probe(s: Section) -> jax.Array:
            first = jnp.asarray(starts, factor.dtype)[s.turn]
            return jnp.where(s.found, 0.5 * (s.low + s.high), 2.0 * s.high + first)

        def unfinished(s: Section) -> jax.Array:
            wide = s.high - s.low > self.tolerance * jnp.maximum(start, s.high)
            return jnp.where(s.found, wide, active & ((probe(s) <= self.maximum) | (s.turn + 1 < len(starts))))

        def narrow(s: Section) -> Section:
            again = ~s.found & (probe(s) > self.maximum)
            s = s._replace(high=jnp.where(again, zero, s.high), turn=jnp.where(again, s.turn + 1, s.turn))
            scale = probe(s)
            hit = fooled(candidate(scale))
            low = jnp.where(s.found, jnp.where(hit, s.low, scale), s.high)
            high = jnp.where(s.found & ~hit, s.high, scale)
            return Section(low, high, s.turn, s.found | hit, s.calls + 1)

        none = jnp.zeros_like(active, dtype=jnp.int32)
        section = Section(zero, zero, none, fooled(candidate(zero)), none + 1)
        section = jax.lax.while_loop(unfinished, narrow, section)
        scale = jnp.where(section.found, section.high * self.factor, zero)
        return Found(candidate(scale), scale, section.calls, section.found)


def _between(passes: int) -> list[float]:
    """1, 1.5, 1.25, 1.75, ...: numbers in [1, 2), each in the middle of the widest gap that those before it left."""
    reversed_bits = [int(f"{turn:b}"[::-1], 2) / 2 ** turn.bit_length() for turn in range(passes)]
    return [1.0 + fraction for fraction in reversed_bits]
