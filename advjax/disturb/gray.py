"""Without color, by chance."""

import jax
import jax.numpy as jnp

from advjax.attacks.part import Number
from advjax.disturb.color import luminance
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_channels, check_probability
from advjax.value import number, value

__all__ = ["RandomGrayscale"]


@value
class RandomGrayscale(Disturbance):
    """All channels the luminance 0.299 R + 0.587 G + 0.114 B, with probability p. Gray images stay as they are.

    Attributes:
        p: the probability; one number, or one for each image [B].

    Its draw is whether to, a bool. Source: torchvision's RandomGrayscale, with Pillow's weights.

    >>> RandomGrayscale().apply(jnp.float32([[[1.0, 0.0, 0.0]]]), jnp.bool_(True)).round(3).tolist()
    [[[0.299..., 0.299..., 0.299...]]]
    """

    p: Number = number(default=0.1)

    def __post_init__(self) -> None:
        check_probability("p", self.p)

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Whether to take the color, bool."""
        return jax.random.bernoulli(key, self.p)

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The image, or its luminance in every channel, [H, W, C]."""
        check_channels(image)
        return jnp.where(draw, jnp.broadcast_to(luminance(image), image.shape), image)
