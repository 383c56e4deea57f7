"""CIFAR-10 as torch7's recipes feed it: YUV, the brightness contrast-normalized within each image."""

import numpy as np

__all__ = ["contrast_normalize", "rgb_to_yuv"]

# torch7's image.rgb2yuv.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
_THRESHOLD = 1e-4


def rgb_to_yuv(images: np.ndarray) -> np.ndarray:
    """float32 [N, H, W, 3] in YUV, of uint8 [N, H, W, 3] in RGB, both on the scale 0..255.

    Source: torch7, image.rgb2yuv.

    >>> rgb_to_yuv(np.full((1, 1, 1, 3), 200, np.uint8)).round(3)[0, 0, 0, 0].item()
    200.0
    """
    return images.astype(np.float32) @ _YUV.T.astype(np.float32)


def contrast_normalize(planes: np.ndarray) -> np.ndarray:
    """torch7's SpatialContrastiveNormalization with a Gaussian of 7 taps, of each plane [N, H, W] by itself:

        v = x - G x / G 1,    s = sqrt(G v^2) / G 1,    v / s  (s = 1e-4 where it is not above that),

    where G sums over the window inside the image (zeros outside), so that G 1 < 1 along the border.

    >>> float(np.abs(contrast_normalize(np.full((1, 8, 8), 3.0))).max()) < 1e-6
    True
    """
    from scipy import ndimage

    taps = np.exp(-0.5 * ((np.arange(7) - 3) / (0.25 * 7)) ** 2)
    taps /= taps.sum()

    def smooth(values: np.ndarray) -> np.ndarray:
        rows = ndimage.correlate1d(values, taps, axis=1, mode="constant")
        return ndimage.correlate1d(rows, taps, axis=2, mode="constant")

    planes = planes.astype(np.float64)
    inside = smooth(np.ones_like(planes[:1]))
    centered = planes - smooth(planes) / inside
    spread = np.sqrt(smooth(centered**2)) / inside
    return centered / np.where(spread > _THRESHOLD, spread, _THRESHOLD)
