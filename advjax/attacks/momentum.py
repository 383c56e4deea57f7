"""Directions that make an attack transfer: a memory of gradients, and gradients of other places than the image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.directions import Direction
from advjax.attacks.part import Number
from advjax.attacks.settings import check_count, check_radius
from advjax.value import number, static, value

__all__ = ["Momentum", "Smoothed", "VarianceTuned"]


@value
class Momentum(Direction):
    """`m <- decay m + g / mean|g|` (Dong et al. 2018, eq. 6), read ahead for Nesterov's (Lin et al. 2020, eq. 5).

    As in the authors' code of both, the mean where the papers have the l1 norm, which is H W C times as much: the sign
    of m is the same, while `look_ahead` is in pixels.

    Attributes:
      decay: 0 or more; 1 in both papers.
      look_ahead: the gradient is that of x + look_ahead decay m: 0, or the step size for Nesterov's.
    """

    decay: Number = number(default=1.0)
    look_ahead: Number = number(default=0.0)

    def __post_init__(self) -> None:
        check_radius("decay", self.decay)
        check_radius("look_ahead", self.look_ahead)

    def init(self, image: jax.Array) -> jax.Array:
        return jnp.zeros_like(image)

    def ahead(self, image: jax.Array, state: jax.Array) -> jax.Array:
        return image + self.look_ahead * self.decay * state

    def update(
        self, gradient: jax.Array, state: jax.Array, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, jax.Array]:
        # Divided by the largest first: the sum of tiny entries would underflow.
        size = jnp.max(jnp.abs(gradient))
        scaled = gradient / jnp.where(size > 0, size, 1.0)
        mean = jnp.mean(jnp.abs(scaled))
        momentum: jax.Array = jnp.asarray(self.decay) * state + scaled / jnp.where(mean > 0, mean, 1.0)
        return momentum, momentum


@value
class Smoothed(Direction):
    """The gradient convolved with a Gaussian: that of the mean over translations (Dong et al. 2019, TI, eq. 7).

    As in the authors' code the kernel ends at three standard deviations, sigma = (size - 1) / 6 pixels, and outside the
    image the gradient is 0.

    Attributes:
      size: of the kernel, in pixels; odd.  The paper has 15, for images of 299 x 299.
    """

    size: int = static(default=15)

    def __post_init__(self) -> None:
        check_count("size", self.size)
        if self.size < 3 or self.size % 2 == 0:
            raise ValueError(f"size must be an odd integer of 3 or more, got {self.size}")

    def ray(self, gradient: jax.Array) -> jax.Array:
        bell = np.exp(-0.5 * np.linspace(-3, 3, self.size) ** 2)
        bell = (bell / bell.sum()).astype(gradient.dtype)
        # Each channel by itself, and rows after columns: the kernel is the product of both.
        channels = jnp.moveaxis(gradient, -1, 0)[..., None]
        for kernel in (bell.reshape(-1, 1, 1, 1), bell.reshape(1, -1, 1, 1)):
            channels = jax.lax.conv_general_dilated(
                channels, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return jnp.moveaxis(channels[..., 0], 0, -1)


@value
class VarianceTuned(Direction):
    """`g + v`, and `v <- (1/n) sum_i grad(x + r_i) - g` with r_i uniform in a cube (Wang & He 2021, eqs. 6 and 7).

    First in a `Chain`, since its gradients are as the model gives them.

    Attributes:
      radius: half the side of the cube, in [0, 1] units; one number, or one for each image [B].
      neighbors: n.
    """

    radius: Number = number()
    neighbors: int = static(default=20)
    random = True

    def __post_init__(self) -> None:
        check_radius("radius", self.radius)
        check_count("neighbors", self.neighbors)

    @property
    def gradients(self) -> int:
        return self.neighbors

    def init(self, image: jax.Array) -> jax.Array:
        return jnp.zeros_like(image)

    def update(
        self, gradient: jax.Array, state: jax.Array, image: jax.Array | None = None, **extra: Any
    ) -> tuple[jax.Array, jax.Array]:
        if image is None or "key" not in extra or "gradient_at" not in extra:
            raise ValueError(f"VarianceTuned needs image, key and gradient_at beside the gradient, got {sorted(extra)}")
        center, key, gradient_at = image, extra["key"], extra["gradient_at"]

        def add(neighbor: jax.Array, total: jax.Array) -> jax.Array:
            offset = jax.random.uniform(jax.random.fold_in(key, neighbor), center.shape, center.dtype, -1.0, 1.0)
            found: jax.Array = total + gradient_at(center + self.radius * offset)
            return found

        total: jax.Array = jax.lax.fori_loop(0, self.neighbors, add, jnp.zeros_like(gradient))
        return gradient + state, total / self.neighbors - gradient
