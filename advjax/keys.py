"""Keys of images: what an image draws does not depend on its batch, nor on the device on which it lies."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["image_keys"]


def image_keys(key: jax.Array, count: int, first: ArrayLike = 0) -> jax.Array:
    """The keys [count] of a batch's images first, first + 1, ..., each `fold_in(key, index)`.

    >>> image_keys(jax.random.key(0), 3).shape
    (3,)
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))
