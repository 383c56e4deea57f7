"""Shares of images, such as accuracies, and whether two of them differ by more than chance."""

from typing import NamedTuple

import numpy as np

from advjax.evaluate.intervals import sign_test

__all__ = ["Share", "better_or_worse", "clearly_apart"]

_LEVEL = 0.05


class Share(NamedTuple):
    """A share of images, such as an accuracy.

    Attributes:
        value: the share.
        asked: how many images were asked.
        images: float or bool [asked], by image, of which `value` is the mean; None if it is not known.
    """

    value: float
    asked: int
    images: np.ndarray | None = None

    @classmethod
    def of(cls, images: np.ndarray) -> "Share":
        """The share of True in bool [N], or over several networks the mean of bool [S, N]."""
        by_image = images.mean(axis=0) if images.ndim == 2 else images
        return cls(float(images.mean(dtype=np.float64)) if images.size else 0.0, len(by_image), by_image)


def clearly_apart(first: Share, second: Share) -> bool:
    """Whether two shares differ by more than chance in drawing the images.

    Of two networks that answered the same images, by the exact two-sided sign test at 5 % of those that they answer
    differently (McNemar); of others by two standard errors.

    >>> clearly_apart(Share(0.0092, 10_000), Share(0.0073, 10_000)), clearly_apart(Share(0.0, 9), Share(1.0, 9))
    (False, True)
    >>> wrong = np.arange(100) < 6
    >>> clearly_apart(Share.of(wrong), Share.of(np.zeros(100, bool)))  # 6 heads of 6 tosses
    True
    """
    if first.images is not None and second.images is not None and first.asked == second.asked:
        more, fewer = int(np.sum(first.images > second.images)), int(np.sum(first.images < second.images))
        return 2 * sign_test(max(more, fewer), min(more, fewer)) < _LEVEL
    variances = [share.value * (1 - share.value) / max(share.asked, 1) for share in (first, second)]
    return bool(abs(first.value - second.value) > 2 * np.sqrt(sum(variances)))


def better_or_worse(before: Share, after: Share, *, error: bool) -> str:
    """ "better", "worse" or "no clear difference", of an accuracy or of an error.

    >>> better_or_worse(Share(0.5, 1000), Share(0.4, 1000), error=True)
    'better'
    """
    if not clearly_apart(before, after):
        return "no clear difference"
    return "better" if (after.value < before.value) == error else "worse"
