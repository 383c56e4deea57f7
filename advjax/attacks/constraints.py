"""Constraints: (candidate image, origin) -> the nearest allowed image.

A constraint acts on the candidate, not on the step, so a search reads the model only at images that may be
returned.  All are for one image [H, W, C]; `origin` is the clean image.
"""

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from advjax.attacks.part import Number, Part
from advjax.attacks.settings import check_radius
from advjax.value import number, static, value

__all__ = ["All", "Ball", "Box", "Constraint", "L1Ball", "L2Ball", "LinfBall", "Quantize", "ball"]


class Constraint(Part, ABC):
    """What an image may be, beside the clean one."""

    @abstractmethod
    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        """The nearest allowed image [H, W, C] to the candidate [H, W, C]; `origin` [H, W, C] is the clean image."""


@value
class Box(Constraint):
    """Every pixel in [0, 1]."""

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        return jnp.clip(candidate, 0.0, 1.0)


@value
class Quantize(Constraint):
    """Every pixel on the grid k / (levels - 1), as an image file stores it.

    Attributes:
      levels: number of gray levels, 256 for 8 bit.
      rounding: "nearest" (half to even), or "inward": towards the origin, so that a ball or a box that held the
        candidate holds the rounded image too (the origin must be on the grid).
    """

    levels: int = static(default=256)
    rounding: Literal["nearest", "inward"] = static(default="nearest")

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 2 <= self.levels <= 1024:
            raise ValueError(f"levels must be an integer from 2 to 1024, got {self.levels!r}")
        if self.rounding not in ("nearest", "inward"):
            raise ValueError(f'rounding must be "nearest" or "inward", got {self.rounding!r}')

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        steps = float(self.levels - 1)
        if self.rounding == "nearest":
            return self.snap(candidate)
        # A candidate within 1e-4 of a level is on it: otherwise epsilon = 8/255 would lose a level to float error.
        slack = 1e-4
        inward = jnp.where(
            candidate >= origin, jnp.floor(candidate * steps + slack), jnp.ceil(candidate * steps - slack)
        )
        return self._on_grid(inward)

    def snap(self, image: jax.Array) -> jax.Array:
        """The nearest image on the grid."""
        return self._on_grid(jnp.round(image * float(self.levels - 1)))

    def _on_grid(self, level: jax.Array) -> jax.Array:
        """level / (levels - 1), rounded correctly, so that it is the number that reading the image file gives.

        A compiled division by a constant is a multiplication by its reciprocal, one bit off for some levels.  Here
        the reciprocal is the sum of two numbers, the first so short that its product with a level is exact.
        """
        reciprocal = Fraction(1, self.levels - 1)
        bits = jnp.finfo(level.dtype).nmant + 1 - math.ceil(math.log2(self.levels))
        unit = Fraction(2) ** (math.frexp(reciprocal)[1] - bits)
        high = reciprocal // unit * unit
        return level * float(high) + level * float(reciprocal - high)


@value
class Ball(Constraint):
    """All images within `epsilon` of the origin, in some norm.

    Attributes:
      epsilon: radius in units of [0, 1]; one number, or one for each image [B].
    """

    epsilon: Number = number()

    def __post_init__(self) -> None:
        check_radius("epsilon", self.epsilon)

    @abstractmethod
    def sample(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """A uniform draw from the ball around zero, of the shape of `image`."""


@value
class LinfBall(Ball):
    """`max |x - origin| <= epsilon`."""

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        return origin + jnp.clip(candidate - origin, -self.epsilon, self.epsilon)

    def sample(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return jax.random.uniform(key, image.shape, image.dtype, -1.0, 1.0) * self.epsilon


@value
class L2Ball(Ball):
    """`||x - origin||_2 <= epsilon`."""

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        change = candidate - origin
        size = jnp.linalg.norm(change)
        # Not optax's, which divides by zero for a radius of 0.
        return origin + change * jnp.where(size > self.epsilon, self.epsilon / jnp.where(size > 0, size, 1.0), 1.0)

    def sample(self, key: jax.Array, image: jax.Array) -> jax.Array:
        direction, length = jax.random.split(key)
        normal = jax.random.normal(direction, image.shape, image.dtype)
        radius = jax.random.uniform(length, (), image.dtype) ** (1.0 / image.size)
        return normal * (self.epsilon * radius / jnp.sqrt(jnp.sum(normal * normal)))


@value
class L1Ball(Ball):
    """`sum |x - origin| <= epsilon`, by the exact projection (Duchi et al. 2008)."""

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        # optax mixes integers and floats in there: strict promotion (a user's setting) would refuse that, and with
        # 64 bits enabled it comes out in float64.
        wide = jnp.result_type(float)
        epsilon = jnp.asarray(self.epsilon, wide)
        with jax.numpy_dtype_promotion("standard"):
            # It divides by the radius: by zero, or to infinity where it is that small.
            some = epsilon > 1e-30
            projected = optax.projections.projection_l1_ball(
                (candidate - origin).astype(wide), jnp.where(some, epsilon, 1.0)
            )
        return origin + jnp.where(some, projected, 0.0).astype(candidate.dtype)

    def sample(self, key: jax.Array, image: jax.Array) -> jax.Array:
        # n + 1 exponentials, normalized, are uniform on the simplex; dropping one leaves its filled l1 ball.
        signs, sizes, rest = jax.random.split(key, 3)
        exponential = jax.random.exponential(sizes, image.shape, image.dtype)
        total = jnp.sum(exponential) + jax.random.exponential(rest, (), image.dtype)
        return exponential * jax.random.rademacher(signs, image.shape, image.dtype) * (self.epsilon / total)


@value
class All(Constraint):
    """Constraints one after the other.  Put a ball before the box and the grid last, rounding inward."""

    parts: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        for part in self.parts:
            candidate = part(candidate, origin)
        return candidate


def ball(norm: Literal["linf", "l2", "l1"], epsilon: Number) -> Ball:
    """The ball of radius `epsilon` (a number, or one for each image [B]) in `norm`."""
    kinds: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}
    if norm not in kinds:
        raise ValueError(f'norm must be "linf", "l2" or "l1", got {norm!r}')
    return kinds[norm](epsilon)
