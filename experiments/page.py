"""The page of a report in Markdown: measured table, the two schedules, what holds, the paper's claims, and more."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.verdicts import SAMPLING

__all__ = ["Page", "data_name", "markdown", "mean_std", "page_text", "percent", "stand_in"]

_NAMES = {"mnist": "MNIST", "digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}


class Page(NamedTuple):
    """What a report says.

    Attributes:
        table: the measured numbers beside the paper's, and what stands around them.
        paper: the paper's schedule, by the name of a setting.
        run: this run's, by the same names.
        claims: the paper's, from `experiments.verdicts`.
        summary: lines for the terminal.
        sections: more of them, by heading.
        findings: sentences on what was found, one a line.
        note: what must be known before reading: data or weights that stand in for the paper's.
        counted: when a difference counts, in findings and claims.
    """

    table: str
    paper: Mapping[str, str]
    run: Mapping[str, str]
    claims: Sequence[str]
    summary: Sequence[str]
    sections: Mapping[str, str]
    findings: Sequence[str] = ()
    note: str = ""
    counted: str = SAMPLING


def page_text(title: str, config: Any, page: Page, read: str) -> str:
    """The page; `read` says which images were."""
    if page.paper.keys() != page.run.keys():
        raise ValueError(f"the two schedules must name the same: {sorted(page.paper.keys() ^ page.run.keys())}")
    schedules = markdown(("", "paper", "this run"), [(name, page.paper[name], page.run[name]) for name in page.paper])
    parts = [
        f"# {title}: preset `{config.preset}`, seed {config.seed}",
        *([page.note] if page.note else []),
        page.table,
        "## The two schedules",
        schedules,
        f"Images read: {read}.",
    ]
    for heading, lines in (("What was found", page.findings), ("The paper's claims", page.claims)):
        if lines:
            parts += [f"## {heading}", "\n".join(f"- {line}" for line in lines)]
    if page.findings or page.claims:
        parts.append(page.counted)
    for heading, text in page.sections.items():
        parts += [f"## {heading}", text]
    return "\n\n".join(parts) + "\n"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    rule = "|" + "---|" * len(header)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def mean_std(values: np.ndarray, digits: int) -> str:
    """Mean and, of two or more, sample standard deviation.

    >>> mean_std(np.array([1.0, 3.0]), 1), mean_std(np.array([2.0]), 1)
    ('2.0 ± 1.4', '2.0')
    """
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def data_name(data: str) -> str:
    """What a data set is called in tables and figures; only MNIST is called MNIST."""
    return _NAMES[data]


def stand_in(data: str) -> str:
    """The note of a run whose data are not the paper's."""
    if data != "digits":
        return ""
    return (
        "**The data are scikit-learn's handwritten digits, not MNIST**: the paper's figures are shown for the order of "
        "the rows, not to be compared with."
    )


def percent(right: np.ndarray, digits: int = 2) -> str:
    """A share of True in percent; "none" of no images.

    >>> percent(np.array([True, False])), percent(np.zeros(0, bool))
    ('50.00', 'none')
    """
    return f"{100 * right.mean(dtype=np.float64):.{digits}f}" if right.size else "none"
