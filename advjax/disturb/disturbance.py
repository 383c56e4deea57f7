"""Disturbance: one image and one draw in, one image out. The one `vmap` and the one `jit` of the disturbances."""

from abc import ABC, abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.fastcpu import compiled
from advjax.keys import image_keys
from advjax.value import batch_axes

__all__ = ["Disturbance"]


class Disturbance(ABC):
    """A random change of an image, with the draw apart from what is made of it.

    One of your own is a `@value` that derives from this: what changes between calls is a `number()`, what decides the
    program is `static()` (see `advjax.value`). It says what to `draw` for one image, and how to `apply` it.

    >>> from advjax.disturb import RandomFlip
    >>> images = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> RandomFlip(p=1.0)(jax.random.key(0), images).ravel().tolist()
    [2.0, 1.0, 0.0]
    """

    def draw(self, key: jax.Array, image: jax.Array) -> Any:
        """What chance decides for one image [H, W, C]: a pytree of arrays; nothing, unless it is overridden."""
        return ()

    @abstractmethod
    def apply(self, image: jax.Array, draw: Any) -> jax.Array:
        """The image [H', W', C] made of one image [H, W, C] by what `draw` gave."""

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Disturbs each image of a batch by a draw of its own, in one compiled program.

        Args:
            key: `jax.random.key(seed)`: image i draws from `fold_in(key, i)`, whatever batch or device it is on. Or an
                array of keys, one for each image.
            images: [B, H, W, C] float32 in [0, 1].

        Returns:
            [B, H', W', C] float32 in [0, 1].

        Raises:
            TypeError, ValueError: an argument is not as above, or of a shape that the disturbance does not take.
        """
        _check(key, images)
        return _disturbed(self, key, images)


@compiled
def _disturbed(disturbance: Disturbance, key: jax.Array, images: jax.Array) -> jax.Array:
    batch = images.shape[0]
    keys = image_keys(key, batch) if key.ndim == 0 else key
    leaves, structure = jax.tree.flatten(disturbance)

    def one(leaves: list[Any], key: jax.Array, image: jax.Array) -> jax.Array:
        here = jax.tree.unflatten(structure, leaves)
        return here.apply(image, here.draw(key, image))

    return jax.vmap(one, (batch_axes(disturbance, batch), 0, 0))(leaves, keys, images)


def _check(key: Any, images: Any) -> None:
    wanted = "images must be a float32 array [B, H, W, C] with values in [0, 1]"
    if not isinstance(images, jax.Array | np.ndarray):
        raise TypeError(f"{wanted}, got {type(images).__name__}")
    if images.dtype != np.float32:
        hint = ": use advjax.data.to_float" if images.dtype == np.uint8 else ""
        raise TypeError(f"{wanted}, got {images.dtype}{hint}")
    if images.ndim != 4:
        raise ValueError(f"{wanted}, got shape {images.shape}")
    wanted = f"key must be jax.random.key(seed), or an array of {images.shape[0]} such keys"
    if not isinstance(key, jax.Array):
        raise TypeError(f"{wanted}, got {type(key).__name__}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{wanted}, got {key.dtype}{list(key.shape)}, the old kind: use jax.random.key")
    if key.shape not in ((), images.shape[:1]):
        raise ValueError(f"{wanted}, got shape {key.shape}")
    if str(jax.random.key_impl(key)) != "threefry2x32":
        # Under vmap the others draw from one key for the whole batch.
        raise ValueError(f"{wanted}, of the implementation threefry2x32, got {jax.random.key_impl(key)}")
