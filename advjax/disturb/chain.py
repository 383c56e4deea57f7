"""Several disturbances, one after the other."""

import jax

from advjax.disturb.disturbance import Disturbance
from advjax.value import value

__all__ = ["Chain"]


@value
class Chain(Disturbance):
    """`steps` one after the other, each with a key of its own.

    The usual augmentation of CIFAR-10 is `Chain((RandomCrop(32, padding=4), RandomFlip()))`, with `RandomErasing()`
    last that of Zhong et al.

    Attributes:
        steps: disturbances, in the order in which they change the image.

    Its draw is the keys of the steps, which draw when the image has come to them.

    >>> import jax.numpy as jnp
    >>> from advjax.disturb import RandomCrop, RandomFlip
    >>> augment = Chain((RandomCrop(4, padding=1), RandomFlip()))
    >>> augment(jax.random.key(0), jnp.zeros((2, 4, 4, 3))).shape
    (2, 4, 4, 3)
    """

    steps: tuple[Disturbance, ...]

    def __post_init__(self) -> None:
        steps = self.steps
        if not (isinstance(steps, tuple) and steps and all(isinstance(step, Disturbance) for step in steps)):
            raise TypeError(f"steps must be a tuple of one disturbance or more, got {steps!r}")

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """A key for each step."""
        return jax.random.split(key, len(self.steps))

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The image after the last step."""
        for step, key in zip(self.steps, draw, strict=True):
            image = step.apply(image, step.draw(key, image))
        return image
