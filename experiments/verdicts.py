"""Sentences on whether a paper's claim holds here, with the figures that decide it."""

import numpy as np

__all__ = ["HOLDS", "IN_PART", "NOT_RUN", "NO_VERDICT", "SAMPLING", "clearly_apart", "line"]

HOLDS = "Holds"
IN_PART = "Holds in part"
NO_VERDICT = "No verdict"
NOT_RUN = "Not run"
_FAILED = "Does not hold"

# What the two standard errors of every verdict are, and are not.
SAMPLING = (
    "A difference counts from two standard errors of the test images on. That is the chance in drawing these images "
    "alone: another seed would train other networks, which differ too, and that no verdict here counts."
)


def line(status: bool | str, claim: str, figures: str) -> str:
    """One claim in one line.

    >>> line(True, "A is below B", "1 against 2")
    'Holds: A is below B (1 against 2).'
    """
    word = status if isinstance(status, str) else HOLDS if status else _FAILED
    return f"{word}: {claim} ({figures})."


def clearly_apart(first: float, second: float, count: int) -> bool:
    """Whether two shares, each of `count` test images, differ by more than two standard errors.

    >>> clearly_apart(0.0092, 0.0073, 10_000), clearly_apart(0.0092, 0.0057, 10_000)
    (False, True)
    """
    error = np.sqrt((first * (1 - first) + second * (1 - second)) / count)
    return bool(abs(first - second) > 2 * error)
