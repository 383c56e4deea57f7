"""Images as the networks of the paper get them: padded digits, and colour images in normalised YUV."""

import dataclasses
import os

import numpy as np
from scipy import ndimage

from advjax.data import Dataset, load
from experiments.provenance import data_read
from experiments.robust_optimization.config import Part

__all__ = ["Images", "contrast_normalise", "prepare", "rgb_to_yuv"]

# torch7's image.rgb2yuv.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
_THRESHOLD = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images in [0, 1] and what turns them into the standardised values z = (x - mean) / std of the paper.

    A radius r in standardised units is `r * std` on these images, in every norm, as one `std` serves all channels.

    Attributes:
        images: [N, 32, 32, C], uint8 (k stands for k/255) or float32 in [0, 1].
        labels: int32 [N].
        mean: float32 [C].
        std: float32 [].
        read: what was read, in words.
    """

    images: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    read: str = ""


def prepare(part: Part, data_dir: str | os.PathLike[str] | None = None) -> tuple[Images, Images]:
    """The training set and the first `part.test_images` of the test set.

    Raises:
        FileNotFoundError: the data set is not there.
        ValueError: the test set has fewer images than asked for, or the training set less than a batch.
    """
    train, test = (load(part.data, split, data_dir=data_dir) for split in ("train", "test"))
    if part.test_images > len(test.labels):
        raise ValueError(f"test_images={part.test_images} exceeds the {len(test.labels)} of {part.data}")
    if part.batch_size > len(train.labels):
        raise ValueError(f"batch_size={part.batch_size} exceeds the {len(train.labels)} images of {part.data}")
    first = slice(part.test_images or None)
    prepared = _colour(train, test) if part.data == "cifar10" else _grey(train, test, part.own_test_statistics)
    read, kept = data_read(train, test), prepared[1]
    return (
        dataclasses.replace(prepared[0], read=read),
        dataclasses.replace(kept, images=kept.images[first], labels=kept.labels[first], read=read),
    )


def _grey(train: Dataset, test: Dataset, own_test_statistics: bool) -> tuple[Images, Images]:
    """Zero-padded to 32x32; standardised by the mean and deviation of all pixels."""
    frame = ((0, 0), (2, 2), (2, 2), (0, 0))
    padded = [np.pad(data.images, frame) for data in (train, test)]
    statistics = [(pixels.mean(dtype=np.float64) / 255, pixels.std(dtype=np.float64) / 255) for pixels in padded]
    if not own_test_statistics:
        statistics[1] = statistics[0]
    both = [
        Images(pixels, data.labels, np.full(1, mean, np.float32), np.asarray(std, np.float32))
        for pixels, data, (mean, std) in zip(padded, (train, test), statistics, strict=True)
    ]
    return both[0], both[1]


def _colour(train: Dataset, test: Dataset) -> tuple[Images, Images]:
    """Y contrast-normalised within each image, U and V standardised over the training set; then mapped into [0, 1].

    The map is affine with one scale for all channels and both sets, and the network undoes it.
    """
    both = [rgb_to_yuv(data.images) for data in (train, test)]
    mean, std = both[0][..., 1:].mean((0, 1, 2), dtype=np.float64), both[0][..., 1:].std((0, 1, 2), dtype=np.float64)
    for values in both:
        values[..., 0] = contrast_normalise(values[..., 0])
        values[..., 1:] = (values[..., 1:] - mean) / std
    low = np.min([values.min((0, 1, 2)) for values in both], axis=0)
    scale = float(np.max([(values - low).max() for values in both]))
    zero, unit = np.asarray(-low / scale, np.float32), np.asarray(1 / scale, np.float32)
    images = [np.clip((values - low) / scale, 0, 1).astype(np.float32) for values in both]
    return (
        Images(images[0], train.labels, zero, unit),
        Images(images[1], test.labels, zero, unit),
    )


def rgb_to_yuv(images: np.ndarray) -> np.ndarray:
    """float32 [N, H, W, 3] in YUV, of uint8 [N, H, W, 3] in RGB, both on the scale 0..255.

    >>> rgb_to_yuv(np.full((1, 1, 1, 3), 200, np.uint8)).round(3)[0, 0, 0, 0].item()
    200.0
    """
    return images.astype(np.float32) @ _YUV.T.astype(np.float32)


def contrast_normalise(planes: np.ndarray) -> np.ndarray:
    """torch7's SpatialContrastiveNormalization with a Gaussian of 7 taps, of each plane [N, H, W] by itself:

        v = x - G x / G 1,    s = sqrt(G v^2) / G 1,    v / s  (s = 1e-4 where it is not above that),

    where G sums over the window inside the image (zeros outside), so that G 1 < 1 along the border.

    >>> float(np.abs(contrast_normalise(np.full((1, 8, 8), 3.0))).max()) < 1e-6
    True
    """
    taps = np.exp(-0.5 * ((np.arange(7) - 3) / (0.25 * 7)) ** 2)
    taps /= taps.sum()

    def smooth(values: np.ndarray) -> np.ndarray:
        rows = ndimage.correlate1d(values, taps, axis=1, mode="constant")
        return ndimage.correlate1d(rows, taps, axis=2, mode="constant")

    planes = planes.astype(np.float64)
    inside = smooth(np.ones_like(planes[:1]))
    centred = planes - smooth(planes) / inside
    spread = np.sqrt(smooth(centred**2)) / inside
    return centred / np.where(spread > _THRESHOLD, spread, _THRESHOLD)
