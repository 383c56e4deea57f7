"""A crop at a random place, and one of the five crops at the corners and in the middle."""

import jax
import jax.numpy as jnp

from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_size
from advjax.value import static, value

__all__ = ["RandomCrop", "RandomFiveCrop"]


@value
class RandomCrop(Disturbance):
    """A square cut out at a random place, each place as likely as any other.

    The defaults cut the ImageNet photographs of Di et al., Table 1, from 256 down to 224. With `padding` zeros are put
    around the image first: `RandomCrop(32, padding=4)` is the usual augmentation of CIFAR-10, `RandomCrop(28,
    padding=2)` shifts digits by two pixels (Sabour et al. 2017).

    Attributes:
        size: height and width of the result.
        padding: rows and columns of zeros put on each side before.

    Its draw is the first row and column, int32 [2], in the padded image. Source: torchvision's RandomCrop.

    >>> images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> RandomCrop(3).apply(images[0], jnp.array([1, 0]))[..., 0].tolist()
    [[4.0, 5.0, 6.0], [8.0, 9.0, 10.0], [12.0, 13.0, 14.0]]
    """

    size: int = static(default=224)
    padding: int = static(default=0)

    def __post_init__(self) -> None:
        check_size("size", self.size)
        check_size("padding", self.padding, 0)

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """The first row and column, int32 [2]."""
        height, width = (length + 2 * self.padding for length in image.shape[:2])
        _check_fits(self.size, height, width)
        return jax.random.randint(key, (2,), 0, jnp.array([height - self.size + 1, width - self.size + 1]))

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The crop [size, size, C]."""
        around = (self.padding, self.padding)
        return _crop(jnp.pad(image, (around, around, (0, 0))), draw, self.size)


@value
class RandomFiveCrop(Disturbance):
    """One of five squares, each as likely: the four corners and the middle; resized to `resized`, bilinearly.

    Di et al. do not give the size. Their accuracies fall by 11 points, so that it is smaller than the 224 of 256 that
    their random crop keeps: 160 is our choice.

    Attributes:
        size: height and width of the crops.
        resized: height and width of the result.

    Its draw is an int32: 0 to 4 for top left, top right, bottom left, bottom right and the middle, half a pixel of
    doubt going to the even row or column. Source: torchvision's FiveCrop and resize, with antialiasing.

    >>> image = jnp.arange(9.0).reshape(3, 3, 1)
    >>> [RandomFiveCrop(1, resized=1).apply(image, jnp.int32(i)).item() for i in range(5)]
    [0.0, 2.0, 6.0, 8.0, 4.0]
    """

    size: int = static(default=160)
    resized: int = static(default=224)

    def __post_init__(self) -> None:
        check_size("size", self.size)
        check_size("resized", self.resized)

    def draw(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Which of the five, int32."""
        return jax.random.randint(key, (), 0, 5)

    def apply(self, image: jax.Array, draw: jax.Array) -> jax.Array:
        """The crop, resized to [resized, resized, C]."""
        height, width, channels = image.shape
        _check_fits(self.size, height, width)
        low, right = height - self.size, width - self.size
        middle = [round(low / 2), round(right / 2)]
        corners = jnp.array([[0, 0], [0, right], [low, 0], [low, right], middle], jnp.int32)
        crop = _crop(image, corners[draw], self.size)
        return jax.image.resize(crop, (self.resized, self.resized, channels), "linear", antialias=True)


def _check_fits(size: int, height: int, width: int) -> None:
    if size > min(height, width):
        raise ValueError(f"size must be that of a crop inside the images of {height}x{width}, got {size}")


def _crop(image: jax.Array, corner: jax.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, image.shape[-1]))
