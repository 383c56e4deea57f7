"""How far a measured share can be from the true one: the Wilson interval, and a sign test for paired counts."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

__all__ = ["Accuracy", "accuracy_of", "sign_test", "wilson"]


class Accuracy(NamedTuple):
    """A share of images in [0, 1] with its 95 % Wilson interval [low, high]."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a binomial share p = k / n, with z the normal quantile of (1 + confidence) / 2:

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Unlike p -+ z sqrt(p (1 - p) / n) it stays within [0, 1] and does not collapse at k = 0 and k = n, where robust
    accuracies often are.

    Args:
      successes: k, from 0 to n.
      trials: n, 1 or more.
      confidence: coverage, in (0, 1).

    Raises:
      ValueError: an argument is out of range.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    >>> [round(bound, 4) for bound in wilson(0, 100)]
    [0.0, 0.037]
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes must be from 0 to trials, and trials 1 or more, got {successes} of {trials}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, scale = successes / trials, 1 + z * z / trials
    center = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the ends one bound is the share itself, which rounding would miss.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == trials else center + half
    return low, high


def accuracy_of(correct: np.ndarray) -> Accuracy:
    """The share of True in `correct`, bool [N], with its interval.

    >>> accuracy_of(np.array([True, False, True, True])).value
    0.75
    """
    hits, total = int(np.sum(correct)), int(np.size(correct))
    return Accuracy(hits / total, *wilson(hits, total))


def sign_test(more: int, fewer: int) -> float:
    """Probability of at least `more` heads in `more + fewer` tosses of a fair coin: one-sided, exact.

    For two attacks on the same images: `more` images that only the first fools, `fewer` that only the second fools
    (McNemar's test in its exact form).

    >>> sign_test(3, 0)
    0.125
    """
    tosses = more + fewer
    # From all heads downwards each number of ways is made of the one before: thousands of tosses take milliseconds.
    ways = total = 1
    for heads in range(tosses, more, -1):
        ways = ways * heads // (tosses - heads + 1)
        total += ways
    return total / 2**tosses
