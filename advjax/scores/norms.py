"""Distances between an image and its perturbed version, image by image.

Of floats, or of pixels as a file holds them, uint8 or uint16: then in gray levels, and the differences are exact,
where those of k / 255 are rounded. Half precision is computed, and returned, in float32.
"""

import jax
import jax.numpy as jnp

__all__ = ["check_pair", "l0", "l1", "l2", "l2_per_pixel", "linf", "widened"]


def check_pair(first: jax.Array, second: jax.Array, first_name: str, second_name: str) -> None:
    """Raises unless both are float images [..., H, W, C] of one shape, H, W and C not 0."""
    _check_shapes(first, second, first_name, second_name)
    for name, image in ((first_name, first), (second_name, second)):
        if not jnp.issubdtype(jnp.result_type(image), jnp.floating):
            raise TypeError(f"{name}: expected floats in [0, 1], got {jnp.result_type(image)}")


def _check_shapes(first: jax.Array, second: jax.Array, first_name: str, second_name: str) -> None:
    for name, image in ((first_name, first), (second_name, second)):
        if jnp.ndim(image) < 3 or 0 in jnp.shape(image)[-3:]:
            raise ValueError(f"{name}: expected shape [..., H, W, C], got {jnp.shape(image)}")
    if jnp.shape(first) != jnp.shape(second):
        raise ValueError(
            f"{first_name}: expected the shape of {second_name}, {jnp.shape(second)}, got {jnp.shape(first)}"
        )


def widened(image: jax.Array) -> jax.Array:
    """The image in float32 if it is of lower precision, which cannot hold squares and means of pixels."""
    image = jnp.asarray(image)
    return image.astype(jnp.float32) if jnp.finfo(image.dtype).bits < 32 else image


def _difference(perturbed: jax.Array, original: jax.Array) -> jax.Array:
    _check_shapes(perturbed, original, "perturbed", "original")
    kinds = tuple(jnp.result_type(image) for image in (perturbed, original))
    if kinds[0] == kinds[1] and kinds[0] in (jnp.uint8, jnp.uint16):
        levels = [jnp.asarray(image).astype(jnp.int32) for image in (perturbed, original)]
        return (levels[0] - levels[1]).astype(jnp.float32)
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(
            f"perturbed, original: expected both floats, both uint8 or both uint16, got {kinds[0]} and {kinds[1]}"
        )
    return widened(perturbed) - widened(original)


def l0(perturbed: jax.Array, original: jax.Array) -> jax.Array:
    """Number of pixel positions at which any channel differs: |{(i, j) : x~_ij != x_ij}|.

    A color pixel counts once however many of its channels moved, as in one-pixel attacks.

    Args:
      perturbed: x~, floats, uint8 or uint16 [..., H, W, C].
      original: x, of the same shape and kind.

    Returns:
      int32 [...], between 0 and H * W.

    Raises:
      ValueError, TypeError: fewer than three axes, unequal shapes, or other or unlike kinds of numbers.

    >>> import jax.numpy as jnp
    >>> x = jnp.zeros((4, 4, 3))
    >>> int(l0(x.at[1, 2].set(0.5), x))
    1
    """
    changed = (_difference(perturbed, original) != 0).any(axis=-1)
    return changed.sum(axis=(-2, -1), dtype=jnp.int32)


def l1(perturbed: jax.Array, original: jax.Array) -> jax.Array:
    """Sum of absolute differences, ||x~ - x||_1, in image units: [..., H, W, C] -> [...].

    >>> import jax.numpy as jnp
    >>> float(l1(jnp.full((2, 2, 1), 0.5), jnp.zeros((2, 2, 1))))
    2.0
    """
    return jnp.abs(_difference(perturbed, original)).sum(axis=(-3, -2, -1))


def l2(perturbed: jax.Array, original: jax.Array) -> jax.Array:
    """Euclidean distance, ||x~ - x||_2, in image units: [..., H, W, C] -> [...].

    >>> import jax.numpy as jnp
    >>> float(l2(jnp.full((2, 2, 1), 0.5), jnp.zeros((2, 2, 1))))
    1.0
    """
    return jnp.sqrt(jnp.square(_difference(perturbed, original)).sum(axis=(-3, -2, -1)))


def l2_per_pixel(perturbed: jax.Array, original: jax.Array) -> jax.Array:
    """Root mean square difference, sqrt(mean((x~ - x)^2)) over H, W and C: [..., H, W, C] -> [...].

    The "L2 norm per pixel" of Rozsa et al. (Szegedy's distortion), in image units: gray levels for uint8.

    >>> import jax.numpy as jnp
    >>> float(l2_per_pixel(jnp.full((2, 2, 1), 0.5), jnp.zeros((2, 2, 1))))
    0.5
    """
    return jnp.sqrt(jnp.square(_difference(perturbed, original)).mean(axis=(-3, -2, -1)))


def linf(perturbed: jax.Array, original: jax.Array) -> jax.Array:
    """Largest absolute difference, ||x~ - x||_inf, in image units: [..., H, W, C] -> [...].

    >>> import jax.numpy as jnp
    >>> float(linf(jnp.full((2, 2, 1), 0.5), jnp.zeros((2, 2, 1))))
    0.5
    >>> pixels = jnp.full((2, 2, 1), 200, jnp.uint8)
    >>> float(linf(pixels, pixels + jnp.uint8(3)))
    3.0
    """
    return jnp.abs(_difference(perturbed, original)).max(axis=(-3, -2, -1))
