"""Directions: gradient -> ray, with optax's (init, update), where the "params" are the image.

A direction gets the gradient of the objective to *climb*.  Any optax transformation is a direction as it is
(`optax.trace(0.9)`, `optax.scale_by_adam()`, `optax.chain(...)`); an entire optimizer such as `optax.adam(lr)`
descends, so give it a negative learning rate.  Where the gradient is zero the ray is zero, never NaN.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.part import Mask, Part
from advjax.attacks.settings import check_count
from advjax.value import number, static, value

__all__ = [
    "L1", "L2", "Chain", "Direction", "Inside", "Masked", "Optax", "Sign", "Tangent", "Value", "as_direction",
    "steepest_ray",
]  # fmt: skip


class Direction(Part):
    """Gradient -> ray, for one image [H, W, C].

    One that remembers nothing says what its `ray` is; others override `init` and `update`, as optax has them.
    """

    @property
    def gradients(self) -> int:
        """How many gradients an update takes itself, by `gradient_at`, beside the one that it is given."""
        return 0

    def init(self, image: jax.Array) -> Any:
        """The state before the first step."""
        return ()

    def ahead(self, image: jax.Array, state: Any) -> jax.Array:
        """Where the gradient is to be taken for the next update: at the image itself, unless it is overridden."""
        return image

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        """The ray along which to search, and the next state; `extra` holds a `key` and `gradient_at(image)`."""
        return self.ray(gradient), state

    def ray(self, gradient: jax.Array) -> jax.Array:
        """The ray of this gradient."""
        raise TypeError(f"{type(self).__name__} does not say what its ray is")


@value
class Sign(Direction):
    """`sign(g)`: the steepest direction in the linf norm (Goodfellow et al. 2015)."""

    def ray(self, gradient: jax.Array) -> jax.Array:
        return jnp.sign(gradient)


@value
class Value(Direction):
    """`g / max|g|`: the gradient as it is (Rozsa et al. 2016, eq. 6), scaled so that a step of s is s in linf."""

    def ray(self, gradient: jax.Array) -> jax.Array:
        return _divide(gradient, jnp.max(jnp.abs(gradient)))


@value
class L2(Direction):
    """`g / ||g||_2`: the steepest direction in the l2 norm (Shaham et al. 2015, eq. 11)."""

    def ray(self, gradient: jax.Array) -> jax.Array:
        # Scaled first: the squares of a small gradient would underflow.
        scaled = _divide(gradient, jnp.max(jnp.abs(gradient)))
        return _divide(scaled, jnp.sqrt(jnp.sum(scaled * scaled)))


@value
class L1(Direction):
    """`sign(g) / k` on the k entries of largest |g|: the steepest direction in the l1 norm (Shaham, eq. 11)."""

    pixels: int = static(default=1)

    def __post_init__(self) -> None:
        check_count("pixels", self.pixels)

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        if self.pixels > np.prod(shape):
            raise ValueError(f"pixels must be at most {np.prod(shape)}, the entries of an image, got {self.pixels}")

    def ray(self, gradient: jax.Array) -> jax.Array:
        flat = gradient.reshape(-1)
        _, top = jax.lax.top_k(jnp.abs(flat), self.pixels)
        ray = jnp.zeros_like(flat).at[top].set(jnp.sign(flat[top]) / self.pixels)
        return ray.reshape(gradient.shape)


@value
class Masked(Direction):
    """`g * mask`: forgets the gradient outside the mask ([H, W, C] or [H, W, 1]; per image with [B, ...])."""

    mask: Mask = number(rank=3, dtype=np.bool_)

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        check_mask_shape(self.mask, shape)

    def ray(self, gradient: jax.Array) -> jax.Array:
        return jnp.where(self.mask, gradient, jnp.zeros_like(gradient))


@value
class Inside(Direction):
    """Forgets the gradient where the pixel is 0 and ought to fall, or 1 and ought to rise: no step goes there."""

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        if image is None:
            raise ValueError("Inside needs the image beside the gradient, got None")
        stuck = ((image <= 0) & (gradient < 0)) | ((image >= 1) & (gradient > 0))
        return jnp.where(stuck, jnp.zeros_like(gradient), gradient), state


@value
class Tangent(Direction):
    """`Pi_B g`: the gradient's orthogonal projection onto the span of `basis` (Shaham et al. 2015, eq. 12-13).

    Attributes:
      basis: [k, H, W, C], or one for each image [B, k, H, W, C]; the k vectors need not be orthonormal, nor
        independent.
    """

    basis: np.ndarray | jax.Array = number(rank=4)

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(np.shape(self.basis)[-3:]) != tuple(shape):
            raise ValueError(
                f"basis must be [k, {', '.join(map(str, shape))}], or one for each image, got {np.shape(self.basis)}"
            )

    def ray(self, gradient: jax.Array) -> jax.Array:
        vectors = jnp.asarray(self.basis).reshape(-1, gradient.size)
        _, sizes, rows = jnp.linalg.svd(vectors, full_matrices=False)
        # What float error alone adds to the span is no part of it.
        slack = jnp.finfo(rows.dtype).eps * max(vectors.shape)
        rows = jnp.where((sizes > slack * jnp.max(sizes))[:, None], rows, jnp.zeros_like(rows))
        return (rows.T @ (rows @ gradient.reshape(-1))).reshape(gradient.shape)


@value
class Optax(Direction):
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
            ray, state = complete.update(gradient, state, image, **extra)
        return ray, state


@value
class Chain(Direction):
    """Directions one after the other: `Chain((optax.trace(0.9), Sign()))` is momentum, then its sign."""

    parts: tuple[Direction, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(as_direction(part) for part in self.parts))

    @property
    def gradients(self) -> int:
        return sum(part.gradients for part in self.parts)

    def init(self, image: jax.Array) -> tuple[Any, ...]:
        return tuple(part.init(image) for part in self.parts)

    def ahead(self, image: jax.Array, state: Any) -> jax.Array:
        for part, part_state in zip(self.parts, state, strict=True):
            image = part.ahead(image, part_state)
        return image

    def update(
        self, gradient: jax.Array, state: Any, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, Any]:
        states = []
        for part, part_state in zip(self.parts, state, strict=True):
            gradient, part_state = part.update(gradient, part_state, image, **extra)
            states.append(part_state)
        return gradient, tuple(states)


def steepest_ray(norm: Literal["linf", "l2", "l1"], pixels: int = 1) -> Sign | L2 | L1:
    """The direction of steepest ascent under `norm`: the one d of norm 1 that maximizes `<g, d>`."""
    if norm not in ("linf", "l2", "l1"):
        raise ValueError(f'norm must be "linf", "l2" or "l1", got {norm!r}')
    if norm == "l1":
        return L1(pixels)
    if pixels != 1:
        raise ValueError(f'pixels is an option of norm="l1" alone, got {pixels} with {norm!r}')
    return Sign() if norm == "linf" else L2()


def as_direction(part: Direction | optax.GradientTransformation) -> Direction:
    """`part` itself, or an optax transformation wrapped so that JAX sees it as structure."""
    return Optax(part) if isinstance(part, optax.GradientTransformation) else part


def check_mask_shape(mask: Mask, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `mask` is [..., H, W, C] or [..., H, W, 1] for images of `shape` [H, W, C]."""
    height, width, channels = shape
    if tuple(np.shape(mask)[-3:]) not in {(height, width, channels), (height, width, 1)}:
        raise ValueError(
            f"mask must be [{height}, {width}, {channels}] or [{height}, {width}, 1], or one for each image with "
            f"the batch in front, got shape {np.shape(mask)}"
        )


def _divide(gradient: jax.Array, size: jax.Array) -> jax.Array:
    return jnp.where(size > 0, gradient / jnp.where(size > 0, size, jnp.ones_like(size)), jnp.zeros_like(gradient))
