"""scikit-learn's handwritten digits, resized to MNIST's frame: real images that need no download."""

import numpy as np

__all__ = ["load_digits"]

_TEST_SIZE = 500
_BOX, _MARGIN = 20, 4  # MNIST's: the digit in a 20x20 box, 4 empty pixels around it


def load_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits of scikit-learn (8x8, 17 gray levels) as 28x28 images.

    Each 8x8 image is enlarged to 20x20 by bilinear interpolation (half-pixel centers, edge values repeated),
    its levels 0..16 mapped to 0..255, and set in the middle of an empty 28x28 frame, as MNIST's digits are.
    The arithmetic is on integers, so the pixels are the same on every machine.

    The split is fixed: 1,297 training and 500 test images, stratified by class
    (`sklearn.model_selection.train_test_split` with `random_state=0`), each in the original order.

    Args:
        split: "train" or "test".

    Returns:
        images uint8 [N, 28, 28, 1] and labels int32 [N].

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if there is no such split.

    >>> images, labels = load_digits("test")
    >>> images.shape, images.dtype, labels[:5].tolist()
    ((500, 28, 28, 1), dtype('uint8'), [0, 1, 4, 5, 8])
    """
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError('"digits" needs scikit-learn: pip install "advjax[data]"') from error
    levels, labels = datasets.load_digits(return_X_y=True)
    parts = model_selection.train_test_split(
        np.arange(len(labels)), test_size=_TEST_SIZE, random_state=0, stratify=labels
    )
    rows = dict(zip(("train", "test"), map(np.sort, parts), strict=True))
    if split not in rows:
        raise ValueError(f"split must be one of {sorted(rows)} for digits, got {split!r}")
    chosen = rows[split]
    return _enlarge(levels[chosen].reshape(-1, 8, 8)), labels[chosen].astype(np.int32)


def _enlarge(levels: np.ndarray) -> np.ndarray:
    """Levels 0..16 [N, 8, 8] -> uint8 [N, 28, 28, 1] (see `load_digits`)."""
    tenths = _bilinear_tenths(levels.shape[-1], _BOX)
    enlarged = tenths @ levels.astype(np.int64) @ tenths.T  # 0..16 times 100
    pixels = (enlarged * 255 + 800) // 1600  # rounded, half up
    frame = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    return np.pad(pixels, frame).astype(np.uint8)[..., None]


def _bilinear_tenths(size: int, new_size: int) -> np.ndarray:
    """Interpolation matrix [new_size, size] in tenths: exact integers, because 8/20 = 4/10."""
    centers = (2 * np.arange(new_size) + 1) * 10 * size // (2 * new_size) - 5  # sample positions times 10
    centers = np.clip(centers, 0, 10 * (size - 1))
    return np.maximum(10 - np.abs(centers[:, None] - 10 * np.arange(size)), 0)
