"""PASS by OpenCV's findTransformECC and warpPerspective and scikit-image's SSIM, one gray pair at a time."""

import cv2
import numpy as np
from skimage.metrics import structural_similarity

MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}


def find_warp(image, template, motion="homography", iterations=100, tolerance=1e-6, mask=None):
    """(warp [3, 3], correlation) for float32 [H, W] images, or (None, None) where OpenCV raises.

    `mask`: bool, of the image to be warped.
    """
    mask = None if mask is None else mask.astype(np.uint8)
    start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, tolerance)
    try:
        correlation, warp = cv2.findTransformECC(template, image, start, MOTIONS[motion], criteria, mask, 5)
    except cv2.error:
        return None, None
    return np.vstack([warp, [[0, 0, 1]]])[:3].astype(np.float64), correlation


def warp(image, matrix):
    """The image seen through the warp, bilinear, 0 outside."""
    size = image.shape[1::-1]
    return cv2.warpPerspective(image, np.float32(matrix), size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def ssim(image, template, padding="valid"):
    """scikit-image's SSIM in float64: its crop for "valid", the mean of the whole map for "same"."""
    full = ssim_map(image, template)
    return full[5:-5, 5:-5].mean() if padding == "valid" else full.mean()


def ssim_map(image, template):
    """scikit-image's SSIM of the window around each pixel, mirrored beyond the border."""
    return structural_similarity(
        image.astype(np.float64),
        template.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
        channel_axis=-1 if image.ndim == 3 else None,
    )[1]


def correlation(image, template, matrix, border=cv2.BORDER_REPLICATE, margin=0):
    """One referee for everybody's warps: ECC with OpenCV's blur and nearest mask, whoever found the warp.

    OpenCV itself interpolates towards 0 at the border (cv2.BORDER_CONSTANT), inside its mask too: a bright
    photograph gets a dark rim there, for which it scores the true warp below others. Its blur mirrors both images
    at their borders; with `margin` 2 the rows and columns that hold mirrored pixels are left out.
    """
    whole = np.zeros(image.shape, np.float32)
    whole[margin : image.shape[0] - margin, margin : image.shape[1] - margin] = 1
    image, template = (cv2.GaussianBlur(a, (5, 5), 0) for a in (image, template))
    options = {"M": np.float32(matrix), "dsize": image.shape[1::-1]}
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    valid = (cv2.warpPerspective(whole, flags=flags, **options) > 0) & (whole > 0)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(image, flags=flags, borderMode=border, **options)
    a, b = warped[valid].astype(np.float64), template[valid].astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return a @ b / norm if norm > 0 else 0.0


def score(image, template, padding="valid", **options):
    """(PASS, warp, correlation), all None where OpenCV raises."""
    matrix, value = find_warp(image, template, **options)
    if matrix is None:
        return None, None, None
    return ssim(warp(image, matrix), template, padding), matrix, value


def corners(matrix, height, width):
    """Where the warp takes the four corner pixels: [4, 2]."""
    points = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    return cv2.perspectiveTransform(points[None], np.float64(matrix))[0]


def random_homography(rng, height, width, displacement):
    """A homography that moves each corner by up to `displacement` of the longer side, any way."""
    radius = displacement * max(height, width) * np.sqrt(rng.uniform(size=(4, 1)))
    angle = rng.uniform(0, 2 * np.pi, (4, 1))
    before = corners(np.eye(3), height, width)
    after = before + radius * np.hstack([np.cos(angle), np.sin(angle)])
    return cv2.getPerspectiveTransform(np.float32(before), np.float32(after))


def moved(image, matrix):
    """The image whose alignment onto `image` is `matrix`: cubic splines (bilinear ones would blur), on the grid."""
    from scipy.ndimage import map_coordinates

    height, width = image.shape
    y, x = np.mgrid[:height, :width]
    points = np.linalg.inv(matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    values = map_coordinates(image, points[[1, 0]] / points[2], order=3, mode="mirror")
    return on_grid(values.reshape(height, width))


def on_grid(image):
    """float32 multiples of 1 / 255 in [0, 1]."""
    return (np.clip(np.round(image * 255), 0, 255) / 255).astype(np.float32)


def rotated(image, degrees):
    """About the center, bilinear, 0 outside, on the grid."""
    height, width = image.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return on_grid(cv2.warpAffine(image, turn, (width, height)))


def shifted(image, x, y):
    """By (x, y) pixels, bilinear, 0 outside, on the grid."""
    height, width = image.shape
    return on_grid(cv2.warpAffine(image, np.float64([[1, 0, x], [0, 1, y]]), (width, height)))


def score_block(block):
    """[(PASS, warp, correlation)] of a block (images, templates) of [B, H, W]: what a worker process runs."""
    cv2.setNumThreads(1)
    return [score(image, template) for image, template in zip(*block, strict=True)]
