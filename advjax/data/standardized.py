"""Images in [0, 1] with the statistics by which a network standardizes them: attacks see pixels, radii the units."""

import dataclasses

import numpy as np

from advjax.data.dataset import Dataset
from advjax.data.yuv import contrast_normalize, rgb_to_yuv

__all__ = ["Standardized", "padded_grey", "yuv_contrast"]


@dataclasses.dataclass(frozen=True, eq=False)
class Standardized:
    """Images in [0, 1] and what turns them into the standardized values z = (x - mean) / std that a network sees.

    A radius r in standardized units is `r * std` on these images, in every norm, as one `std` serves all channels.

    Attributes:
        images: [N, H, W, C], uint8 (k stands for k/255) or float32 in [0, 1].
        labels: int32 [N].
        mean: float32 [C].
        std: float32 [].
    """

    images: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def first(self, count: int) -> "Standardized":
        """The first `count` images with the statistics of all; 0: all."""
        rows = slice(count or None)
        return dataclasses.replace(self, images=self.images[rows], labels=self.labels[rows])


def padded_grey(
    train: Dataset, test: Dataset, *, padding: int, own_test_statistics: bool
) -> tuple[Standardized, Standardized]:
    """Both sets with a black frame of `padding` pixels, standardized by the mean and deviation of all their pixels.

    Args:
        train, test: uint8 [N, H, W, 1].
        padding: pixels on each side.
        own_test_statistics: the test set has statistics of its own; else those of the training set.

    >>> pixels = np.zeros((1, 2, 2, 1), np.uint8) + 255
    >>> data = Dataset("white", "train", pixels, np.zeros(1, np.int32), 2)
    >>> train, _ = padded_grey(data, data, padding=1, own_test_statistics=True)
    >>> train.images.shape, train.mean.tolist()
    ((1, 4, 4, 1), [0.25])
    """
    frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = [np.pad(data.images, frame) for data in (train, test)]
    statistics = [(pixels.mean(dtype=np.float64) / 255, pixels.std(dtype=np.float64) / 255) for pixels in padded]
    if not own_test_statistics:
        statistics[1] = statistics[0]
    first, second = (
        Standardized(pixels, data.labels, np.full(1, mean, np.float32), np.asarray(std, np.float32))
        for pixels, data, (mean, std) in zip(padded, (train, test), statistics, strict=True)
    )
    return first, second


def yuv_contrast(train: Dataset, test: Dataset) -> tuple[Standardized, Standardized]:
    """cifar.torch's images: Y contrast-normalized within each image, U and V standardized over the training set.

    The values are then mapped into [0, 1] by one scale for all channels and both sets, which `mean` and `std` undo.

    Source: szagoruyko/cifar.torch, provider.lua.
    """
    both = [rgb_to_yuv(data.images) for data in (train, test)]
    mean, std = both[0][..., 1:].mean((0, 1, 2), dtype=np.float64), both[0][..., 1:].std((0, 1, 2), dtype=np.float64)
    for values in both:
        values[..., 0] = contrast_normalize(values[..., 0])
        values[..., 1:] = (values[..., 1:] - mean) / std
    low = np.min([values.min((0, 1, 2)) for values in both], axis=0)
    scale = float(np.max([(values - low).max() for values in both]))
    zero, unit = np.asarray(-low / scale, np.float32), np.asarray(1 / scale, np.float32)
    pixels = [np.clip((values - low) / scale, 0, 1).astype(np.float32) for values in both]
    return Standardized(pixels[0], train.labels, zero, unit), Standardized(pixels[1], test.labels, zero, unit)
