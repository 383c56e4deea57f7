"""Which images a data set holds: a digest that no order changes, and whether they are the original ones."""

import hashlib

import numpy as np

from advjax.data.dataset import Dataset

__all__ = ["data_read", "digest"]

# By data set and split the digest of the original images: MNIST's four files have the SHA-256 sums on record at TFDS;
# CIFAR-10's are the lossless PNG files of github.com/cyizhuo/CIFAR-10-dataset.
_ORIGINALS = {
    "mnist": (
        "b74236c7f4738026eecf04c60652e8424b3e9839cc1ef9de881b17895323a2ce",
        "e15371d9abdc3efb9fc34f99c5e6ee8fe5f0218b2b747821631ac60e93d0023a",
    ),
    "cifar10": (
        "530cf98e0732d8902814b643dc8332c1b0cba8f33d53ca80a1f6955854756d4e",
        "e408786c90b3992f58419513e1ffbbd1b908334bf0c3ff33cf8f7aa8e01d5123",
    ),
}


def data_read(train: Dataset, test: Dataset) -> str:
    """The images of a run: how many, whether they are the original ones, and their digests.

    >>> tiny = Dataset("digits", "train", np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32), 10)
    >>> data_read(tiny, tiny)
    'digits, 2 and 2 images (SHA-256 ba4cca356bfac148..., ba4cca356bfac148..., whatever their order)'
    """
    digests = digest(train), digest(test)
    verdict = ""
    if train.name in _ORIGINALS:
        same = digests == _ORIGINALS[train.name]
        verdict = ": the original pixels" if same else ": not the original pixels, or not all of them"
    sums = ", ".join(f"{each[:16]}..." for each in digests)
    sizes = f"{len(train.labels):,} and {len(test.labels):,} images"
    return f"{train.name}, {sizes}{verdict} (SHA-256 {sums}, whatever their order)"


def digest(data: Dataset) -> str:
    """SHA-256 of the sorted SHA-256 sums of all images with their labels: the same for every order.

    >>> pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    >>> one, other = (Dataset("d", "train", pixels[::step], np.arange(2)[::step], 2) for step in (1, -1))
    >>> digest(one) == digest(other)
    True
    """
    images, labels = np.ascontiguousarray(data.images), np.asarray(data.labels, "<i4")
    pairs = zip(images, labels, strict=True)
    sums = [hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs]
    return hashlib.sha256(b"".join(sorted(sums))).hexdigest()
