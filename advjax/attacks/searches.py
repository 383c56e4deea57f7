"""Searches: how far along the ray.

A search is called as `search(candidate, fooled, active)` for one image: `candidate(scale)` is the allowed image at
that distance, `fooled(image)` asks the model, `active` is False where there is no direction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from advjax.attacks.constraints import check_not_negative
from advjax.value import number, static, value

__all__ = ["Boundary", "Fixed", "Found", "Search"]


class Found(NamedTuple):
    """What a search returns: the image, its distance along the ray, model calls made, and whether it was found."""

    image: jax.Array
    scale: jax.Array
    calls: jax.Array
    found: jax.Array


class Search(Protocol):
    """See the module's docstring."""

    def __call__(
        self,
        candidate: Callable[[jax.Array], jax.Array],
        fooled: Callable[[jax.Array], jax.Array],
        active: jax.Array,
    ) -> Found: ...


@value
class Fixed:
    """Goes `epsilon` far and does not ask the model."""

    epsilon: float = number()

    def __post_init__(self) -> None:
        check_not_negative("epsilon", self.epsilon)

    def __call__(self, candidate: Any, fooled: Any, active: jax.Array) -> Found:
        scale = jnp.asarray(self.epsilon)
        return Found(candidate(scale), scale, jnp.int32(0), jnp.bool_(True))


@value
class Boundary:
    """The smallest distance at which the model is fooled: doubling steps, then bisection in the last section.

    Rozsa et al. 2016, section 4.3, gives no numbers; these are ours.  Steps of 1, 2, 4, ... times `start` are added
    until the candidate at s_j fools the model or s_j would pass `maximum`; then (s_{j-1}, s_j] is halved until it is no
    wider than `tolerance * max(start, s)`.  Its upper end s*, which itself was tested, is the boundary, and the
    image returned is the one at `factor * s*`: with factor > 1 a hard positive.  If nothing fools the model the
    image is the one that the search started from.

    Attributes:
      factor: multiple of the boundary distance, 1 = minimal adversarial image.
      start: first step, in units of the ray.
      maximum: longest distance.  Raw gradients need far more than 1, because their largest pixels saturate first.
      tolerance: relative width at which the bisection stops.
    """

    factor: float = number(default=1.0)
    start: float = static(default=1.0 / 255.0)
    maximum: float = static(default=1e5 / 255.0)
    tolerance: float = static(default=1e-3)

    def __post_init__(self) -> None:
        check_not_negative("factor", self.factor)

    def __call__(
        self,
        candidate: Callable[[jax.Array], jax.Array],
        fooled: Callable[[jax.Array], jax.Array],
        active: jax.Array,
    ) -> Found:
        zero = jnp.zeros_like(jnp.asarray(self.factor))
        start = zero + self.start

        class Section(NamedTuple):
            low: jax.Array
            high: jax.Array
            found: jax.Array
            calls: jax.Array

        def search_on(s: Section) -> jax.Array:
            return active & ~s.found & (2.0 * s.high + start <= self.maximum)

        def double(s: Section) -> Section:
            # s_j = (2^j - 1) start, so the next end is 2 s_j + start.
            high = 2.0 * s.high + start
            return Section(s.high, high, fooled(candidate(high)), s.calls + 1)

        def wide(s: Section) -> jax.Array:
            return s.found & (s.high - s.low > self.tolerance * jnp.maximum(start, s.high))

        def halve(s: Section) -> Section:
            middle = 0.5 * (s.low + s.high)
            below = fooled(candidate(middle))
            low, high = jnp.where(below, s.low, middle), jnp.where(below, middle, s.high)
            return Section(low, high, s.found, s.calls + 1)

        section = Section(zero, zero, fooled(candidate(zero)), jnp.int32(1))
        section = jax.lax.while_loop(search_on, double, section)
        section = jax.lax.while_loop(wide, halve, section)
        scale = jnp.where(section.found, section.high * self.factor, zero)
        return Found(candidate(scale), scale, section.calls, section.found)
