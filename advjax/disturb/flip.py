"""Left for right, by chance."""

import jax
import jax.numpy as jnp

from advjax.attacks.part import Number
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_probability
from advjax.value import number, value

__all__ = ["RandomFlip"]


@value
class RandomFlip(Disturbance):
    """The image mirrored, left for right, with probability p. Source: torchvision's RandomHorizontalFlip.

    Attributes:
        p: the probability; one number, or one for each image [B].

    Its draw is whether to, a bool.

    >>> RandomFlip().apply(jnp.arange(3.0).reshape(1, 3, 1), jnp.bool_(True)).ravel().tolist()
    [2.0, 1.0, 0.0]
    """

    p: Number = number(default=0.5)

    def __post_init__(self) -> None:
        check_probability("p", self.p)

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Whether to mirror, bool."""
        return jax.random.bernoulli(key, self.p)

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The image, or its mirror image, [H, W, C]."""
        return jnp.where(draw, image[:, ::-1], image)
