"""Sentences on whether a paper's claim holds, with the figures that decide it."""

from collections.abc import Mapping

__all__ = ["HOLDS", "IN_PART", "NOT_RUN", "NO_VERDICT", "SAMPLING", "line", "listed"]

HOLDS = "Holds"
IN_PART = "Holds in part"
NO_VERDICT = "No verdict"
NOT_RUN = "Not run"
_FAILED = "Does not hold"

# What every verdict counts, and what it does not.
SAMPLING = (
    "A difference between two networks that answered the same images counts if the exact two-sided sign test of the "
    "images that they answer differently gives less than 5 %; between others, from two standard errors on. That is the "
    "chance in drawing these images alone: another seed would train other networks, which differ too, and that no "
    "verdict here counts."
)


def line(status: bool | str, claim: str, figures: str) -> str:
    """One claim in one line.

    >>> line(True, "A is below B", "1 against 2")
    'Holds: A is below B (1 against 2).'
    """
    word = status if isinstance(status, str) else HOLDS if status else _FAILED
    return f"{word}: {claim} ({figures})."


def listed(figures: Mapping[str, object]) -> str:
    """ "name figure, ..."

    >>> listed({"linf": "98.8 %", "l2": "98.6 %"})
    'linf 98.8 %, l2 98.6 %'
    """
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())
