"""Photographs to network inputs on the host: decode, resize, crop, flip; uint8 in and out.

Draws come from a NumPy generator that is passed in. Resizing is Pillow's bilinear one with antialiasing, as in
torchvision. Pillow is imported by the first call.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.data.pictures import read_picture

__all__ = ["CenterCrop", "RandomCrop", "center_crop", "decode", "flip", "random_box", "resize", "resize_shorter"]

Example = Mapping[str, Any]
Box = tuple[int, int, int, int]

_TRIES = 10


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """A transform for `Stream`: decode, resize, cut out the middle. Nothing is drawn.

    Attributes:
        crop: height and width of the result.
        resize: the length that the shorter side is brought to before; or (height, width), whatever the shape was, as
            Caffe's ImageNet networks were trained; None: not resized.

    Raises:
        ValueError: sizes below 1; the crop does not fit into the resized image.

    >>> photograph = np.zeros((400, 300, 3), np.uint8)
    >>> CenterCrop((224, 224), resize=256)({"image": photograph, "label": 3})["image"].shape
    (224, 224, 3)
    """

    crop: tuple[int, int]
    resize: int | tuple[int, int] | None

    def __post_init__(self) -> None:
        resized = self.crop if self.resize is None else _pair(self.resize)
        if min(*self.crop, *resized) < 1:
            raise ValueError(f"crop and resize must be at least 1, got {self.crop} and {self.resize}")
        if self.crop[0] > resized[0] or self.crop[1] > resized[1]:
            raise ValueError(f"crop must fit into the resized image, got {self.crop} and {self.resize}")

    def __call__(self, example: Example, rng: np.random.Generator | None = None) -> Example:
        """The example with its image, encoded or uint8 [H, W, C], as uint8 [*crop, C]; other entries stay."""
        image = _pixels(example)
        if isinstance(self.resize, tuple):
            image = resize(image, self.resize)
        elif self.resize is not None:
            image = resize_shorter(image, self.resize)
        return {**example, "image": center_crop(image, self.crop)}


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A transform for `Stream`: decode, cut out a random box, resize it, mirror one image in two.

    Attributes:
        size: height and width of the result.
        scale: smallest and largest share of the image's area that the box takes.
        ratio: smallest and largest width over height of the box.
        mirror: mirror every second image, by chance.

    Source: Szegedy et al. 2015, sec. 6; torchvision's RandomResizedCrop.

    >>> photograph = np.zeros((400, 300, 3), np.uint8)
    >>> RandomCrop((224, 224))({"image": photograph, "label": 3}, np.random.default_rng(0))["image"].shape
    (224, 224, 3)
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: bool = True

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be rising in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be rising and positive, got {self.ratio}")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """The example with its image, encoded or uint8 [H, W, C], as uint8 [*size, C]; other entries stay."""
        image = _pixels(example)
        top, left, height, width = random_box(rng, image.shape[:2], self.scale, self.ratio)
        image = resize(image[top : top + height, left : left + width], self.size)
        return {**example, "image": flip(image) if self.mirror and rng.random() < 0.5 else image}


def decode(encoded: bytes, name: str) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of a JPEG, PNG or other file that Pillow reads, upright by its EXIF orientation.

    Gray, palette, CMYK, YCbCr and LAB become RGB. 16-bit gray and floats in [0, 1] are scaled to 8 bits (value * 255 /
    65535, or * 255, rounded); of 16-bit color Pillow gives the upper 8 bits, less than a level below. Transparency is
    dropped, the color stored below it stays, as in torchvision. Of an animation or several pages the first picture is
    taken, which a warning says once.

    Args:
        encoded: the file's content.
        name: what the error calls it.

    Raises:
        ValueError: the content is no whole image, or of a kind without right 8-bit values; see
            `advjax.data.pictures.read_picture`.

    >>> decode(b"nothing", "a.jpg")
    Traceback (most recent call last):
    ...
    ValueError: a.jpg is no readable image: cannot identify it as one
    """
    picture = read_picture(encoded, name)
    if picture.several:
        # The same words for every file: Python then shows them once.
        warnings.warn("there are files of several pictures (animations, pages): the first is taken", stacklevel=2)
    return picture.rgb8()


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image uint8 [H, W, C], C of 1 or 3, at `size` (height, width): bilinear, antialiased where it shrinks.

    >>> resize(np.full((4, 6, 3), 7, np.uint8), (2, 3)).tolist()[0][0]
    [7, 7, 7]
    """
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    height, width = size
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def resize_shorter(image: np.ndarray, length: int) -> np.ndarray:
    """The image uint8 [H, W, C] with a shorter side of `length`, the other one in proportion and rounded down.

    >>> resize_shorter(np.zeros((100, 151, 3), np.uint8), 50).shape
    (50, 75, 3)
    """
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    other = length * long // short
    return resize(image, (length, other) if height <= width else (other, length))


def center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of the image uint8 [H, W, C], half a pixel of doubt going to the even row or column (torchvision).

    Raises:
        ValueError: the image is smaller than `size`.

    >>> center_crop(np.arange(5, dtype=np.uint8)[None, :, None], (1, 3)).ravel().tolist()
    [1, 2, 3]
    """
    (height, width), (rows, columns) = image.shape[:2], size
    if rows > height or columns > width:
        raise ValueError(f"image must be at least {rows}x{columns} to be cropped to it, got {height}x{width}")
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return image[top : top + rows, left : left + columns]


def random_box(
    rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A box (top, left, height, width) inside an image of `size`, its area and shape drawn at random.

    The area's share is uniform in `scale`, the logarithm of width over height uniform in that of `ratio`, the place
    uniform. After ten boxes that do not fit it is the middle one of the nearest shape that does.

    >>> random_box(np.random.default_rng(0), (10, 20), (1.0, 1.0), (2.0, 2.0))
    (0, 0, 10, 20)
    """
    height, width = size
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns
    shape = min(max(width / height, ratio[0]), ratio[1])
    rows, columns = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def flip(image: np.ndarray) -> np.ndarray:
    """The image [H, W, C] mirrored, left for right.

    >>> flip(np.arange(3)[None, :, None]).ravel().tolist()
    [2, 1, 0]
    """
    return image[:, ::-1]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _pixels(example: Example) -> np.ndarray:
    image = example["image"]
    if isinstance(image, bytes):
        return decode(image, str(example.get("name", "the image")))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
        raise ValueError(
            f"image must be encoded bytes, or uint8 [H, W, 1 or 3], got {pixels.dtype} of shape {pixels.shape}"
        )
    return pixels
