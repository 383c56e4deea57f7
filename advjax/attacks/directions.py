"""Directions: gradient -> ray, with optax's (init, update), where the "params" are the image.

A direction gets the gradient of the objective to *climb*.  Any optax transformation is a direction as it is
(`optax.trace(0.9)`, `optax.scale_by_adam()`, `optax.chain(...)`); an entire optimizer such as `optax.adam(lr)`
descends, so give it a negative learning rate.  Where the gradient is zero the ray is zero, never NaN.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.value import number, static, value

__all__ = ["L1", "L2", "Chain", "Direction", "Masked", "Optax", "Sign", "Value", "as_direction"]


class Direction(Protocol):
    """Gradient -> ray, for one image [H, W, C]."""

    def init(self, image: jax.Array) -> Any:
        """The state before the first step."""

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        """The ray along which to search, and the next state."""


class _Stateless:
    def init(self, image: jax.Array) -> tuple[()]:
        return ()

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        return self.ray(gradient), state

    def ray(self, gradient: jax.Array) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say what its ray is")


@value
class Sign(_Stateless):
    """`sign(g)`: the steepest direction in the linf norm (Goodfellow et al. 2015)."""

    def ray(self, gradient: jax.Array) -> jax.Array:
        return jnp.sign(gradient)


@value
class Value(_Stateless):
    """`g / max|g|`: the gradient as it is (Rozsa et al. 2016, eq. 6), scaled so that a step of s is s in linf."""

    def ray(self, gradient: jax.Array) -> jax.Array:
        return _divide(gradient, jnp.max(jnp.abs(gradient)))


@value
class L2(_Stateless):
    """`g / ||g||_2`: the steepest direction in the l2 norm (Shaham et al. 2015, eq. 11)."""

    def ray(self, gradient: jax.Array) -> jax.Array:
        # Scaled first: the squares of a small gradient would underflow.
        scaled = _divide(gradient, jnp.max(jnp.abs(gradient)))
        return _divide(scaled, jnp.sqrt(jnp.sum(scaled * scaled)))


@value
class L1(_Stateless):
    """`sign(g) / k` on the k entries of largest |g|: the steepest direction in the l1 norm (Shaham, eq. 11)."""

    pixels: int = static(default=1)

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(f"pixels must be 1 or more, got {self.pixels}")

    def ray(self, gradient: jax.Array) -> jax.Array:
        flat = gradient.reshape(-1)
        _, top = jax.lax.top_k(jnp.abs(flat), self.pixels)
        ray = jnp.zeros_like(flat).at[top].set(jnp.sign(flat[top]) / self.pixels)
        return ray.reshape(gradient.shape)


@value
class Masked(_Stateless):
    """`g * mask`: forgets the gradient outside the mask ([H, W, C] or [H, W, 1]; per image with [B, ...])."""

    mask: Any = number(rank=3, dtype=np.bool_)

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError if the mask does not fit images of `shape` [H, W, C]."""
        check_mask_shape(self.mask, shape)

    def ray(self, gradient: jax.Array) -> jax.Array:
        return jnp.where(self.mask, gradient, jnp.zeros_like(gradient))


@value
class Optax:
    """An optax transformation.  Keep it in a variable: its functions are new, and compile anew, when built anew."""

    transformation: optax.GradientTransformation = static()

    def init(self, image: jax.Array) -> Any:
        return self.transformation.init(image)

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        complete = optax.with_extra_args_support(self.transformation)
        # optax mixes integer counts and floats, which strict promotion (a user's setting) would refuse.
        with jax.numpy_dtype_promotion("standard"):
            return complete.update(gradient, state, image, **extra)


@value
class Chain:
    """Directions one after the other: `Chain((optax.trace(0.9), Sign()))` is momentum, then its sign."""

    parts: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(as_direction(part) for part in self.parts))

    def init(self, image: jax.Array) -> tuple[Any, ...]:
        return tuple(part.init(image) for part in self.parts)

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        states = []
        for part, part_state in zip(self.parts, state, strict=True):
            gradient, part_state = part.update(gradient, part_state, image, **extra)
            states.append(part_state)
        return gradient, tuple(states)


def as_direction(part: Any) -> Any:
    """`part` itself, or an optax transformation wrapped so that JAX sees it as structure."""
    return Optax(part) if isinstance(part, optax.GradientTransformation) else part


def check_mask_shape(mask: Any, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `mask` is [..., H, W, C] or [..., H, W, 1] for images of `shape` [H, W, C]."""
    height, width, channels = shape
    if tuple(np.shape(mask)[-3:]) not in {(height, width, channels), (height, width, 1)}:
        raise ValueError(
            f"mask must be [{height}, {width}, {channels}] or [{height}, {width}, 1], or one for each image with "
            f"the batch in front, got shape {np.shape(mask)}"
        )


def _divide(gradient: jax.Array, size: jax.Array) -> jax.Array:
    return jnp.where(size > 0, gradient / jnp.where(size > 0, size, jnp.ones_like(size)), jnp.zeros_like(gradient))
