"""Between stored pixels (uint8, 0..255) and images (float32, on the grid k/255)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = ["to_float", "to_uint8"]

# Inside jit XLA turns `x / 255` into `x * (1 / 255)`, which is one unit in the last place off for some k.
# A table holds the correctly rounded quotients, so eager, jitted and NumPy values are the same bits.
_GRID = np.arange(256, dtype=np.float32) / np.float32(255)

# What float32 arithmetic may leave outside [0, 1]: far below half a grid step (1/510).
_TOLERANCE = 1e-6


def to_float(images: np.ndarray | jax.Array) -> jax.Array:
    """Images in [0, 1] from stored pixels: k -> the float32 nearest to k/255.

    Args:
        images: uint8, any shape. May be traced.

    Returns:
        float32 `jax.Array` of the same shape, bit-identical eagerly, under `jit` and in NumPy.

    Raises:
        TypeError: if `images` is not uint8.

    >>> to_float(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    dtype = getattr(images, "dtype", type(images))
    if dtype != np.uint8:
        raise TypeError(f"images must be uint8 pixels (0..255), got {dtype}")
    return jnp.asarray(_GRID)[jnp.asarray(images)]


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Stored pixels from images in [0, 1]: x -> round(255 x), the inverse of `to_float` on the grid.

    Args:
        images: floating point, any shape, in [0, 1] (1e-6 beyond is forgiven). Read on the host.

    Returns:
        uint8 NumPy array of the same shape.

    Raises:
        TypeError: if `images` is not floating point.
        ValueError: if a value is outside [0, 1] or not finite.

    >>> to_uint8(to_float(np.array([0, 51, 255], np.uint8)))
    array([  0,  51, 255], dtype=uint8)
    """
    values = np.asarray(images)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"images must be floating point in [0, 1], got {values.dtype}")
    inside = (values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE)  # false for NaN
    if not inside.all():
        raise ValueError(f"images must be finite and in [0, 1], got {values[~inside].flat[0]}")
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
