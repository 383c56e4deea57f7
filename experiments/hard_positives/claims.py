"""What the paper claims in sections 2 and 5, and whether it holds here."""

import numpy as np

from experiments.hard_positives.metrics import Metric
from experiments.hard_positives.paper import BASIC, INFIMNIST, ROWS
from experiments.hard_positives.scoring import PASS
from experiments.hard_positives.table import Errors
from experiments.verdicts import HOLDS, IN_PART, NO_VERDICT, NOT_RUN, clearly_apart, line

__all__ = ["claims"]

_BEST = "HC-D-9-1.05"
_FIGURE_TYPES = ("FGV", *(f"HC-{k}" for k in range(1, 10)))


def claims(rows: dict[str, Errors], bands: dict[str, Errors], metrics: list[Metric]) -> list[str]:
    """The claims of the abstract, Table 1 and Figs. 5 and 6, one line each.

    Args:
        rows: of Table 1, by name.
        bands: of Fig. 6, by name, the lowest first.
        metrics: of the attacks, from `collect`.
    """
    return [
        _fewer_clean_errors(rows, BASIC),
        _fewer_clean_errors(rows, "FGS"),
        *(_as_good_as_infimnist(rows, row) for row in (_BEST, "HC-D-9", "FGV")),
        _infimnist_is_open(rows),
        _lowest_adversarial(rows),
        _fig5(metrics),
        *_fig6(bands),
    ]


def _fewer_clean_errors(rows: dict[str, Errors], other: str) -> str:
    paper = 100 * (1 - ROWS[_BEST].clean / ROWS[other].clean)
    claim = f"{_BEST} has {paper:.2f} % less clean error than {other}"
    if _BEST not in rows or other not in rows:
        return _not_run(claim, _BEST, other)
    before, after, count = _clean(rows[other]), _clean(rows[_BEST]), rows[_BEST].clean_count
    saved = 100 * (1 - after / before) if before else 0.0
    status: bool | str = NO_VERDICT
    if clearly_apart(before, after, count):
        status = HOLDS if round(saved, 2) >= round(paper, 2) else IN_PART if saved > 0 else False
    more = f"{saved:.2f} % less" if saved >= 0 else f"{-saved:.2f} % more"
    return line(status, claim, f"here {more}: {100 * before:.3f} % -> {100 * after:.3f} %")


def _as_good_as_infimnist(rows: dict[str, Errors], row: str) -> str:
    claim = f"{row} has no larger clean error than {INFIMNIST}"
    if row not in rows or INFIMNIST not in rows:
        return _not_run(claim, row, INFIMNIST)
    ours, other = _clean(rows[row]), _clean(rows[INFIMNIST])
    apart = clearly_apart(ours, other, rows[row].clean_count)
    status = True if ours <= other else False if apart else NO_VERDICT
    return line(status, claim, f"{100 * ours:.3f} % against {100 * other:.3f} %")


def _infimnist_is_open(rows: dict[str, Errors]) -> str:
    claim = f"{INFIMNIST} has a larger adversarial error than every row trained on adversarial images"
    trained = {name: errors for name, errors in rows.items() if name not in (BASIC, INFIMNIST)}
    if INFIMNIST not in rows or not trained:
        return _not_run(claim, INFIMNIST)
    ours = rows[INFIMNIST].adversarial.mean()
    worst = max(trained, key=lambda name: trained[name].adversarial.mean())
    other = trained[worst].adversarial.mean()
    return line(bool(ours > other), claim, f"{100 * ours:.2f} % against at most {100 * other:.2f} % ({worst})")


def _lowest_adversarial(rows: dict[str, Errors]) -> str:
    claim = f"{_BEST} has the lowest adversarial error"
    if _BEST not in rows or len(rows) < 3:
        return _not_run(claim, _BEST)
    ours = float(rows[_BEST].adversarial.mean())
    others = {name: float(errors.adversarial.mean()) for name, errors in rows.items() if name != _BEST}
    best = min(others, key=lambda name: others[name])
    apart = clearly_apart(ours, others[best], rows[_BEST].adversarial_count)
    status = NO_VERDICT if not apart else ours < others[best]
    return line(status, claim, f"{100 * ours:.2f} % against {100 * others[best]:.2f} % ({best})")


def _fig5(metrics: list[Metric]) -> str:
    def mean(kind: str, name: str) -> float:
        return float(np.mean([m.value for m in metrics if m.item == f"train/{kind}" and m.metric == name]))

    linf = {kind: mean(kind, "linf") for kind in ("FGS", *_FIGURE_TYPES)}
    score = {kind: mean(kind, "pass_valid") for kind in ("FGS", *_FIGURE_TYPES)}
    holds = all(linf["FGS"] < linf[kind] and score["FGS"] < score[kind] for kind in _FIGURE_TYPES)
    least, lowest = min(linf[kind] for kind in _FIGURE_TYPES), min(score[kind] for kind in _FIGURE_TYPES)
    figures = (
        f"L∞ {linf['FGS']:.1f} against at least {least:.1f}, {PASS} {score['FGS']:.3f} against at least {lowest:.3f}"
    )
    return line(holds, "FGS has a lower L∞, but a lower PASS too, than FGV and HC-1 to HC-9 (Fig. 5)", figures)


def _fig6(bands: dict[str, Errors]) -> list[str]:
    """Each kind of error: the highest band has the largest; a band between has less than the lowest."""
    found = []
    for kind in ("clean", "adversarial"):
        values = {name: float(getattr(errors, kind).mean()) for name, errors in bands.items()}
        count = min((getattr(errors, f"{kind}_count") for errors in bands.values()), default=0)
        figures = ", ".join(f"{name.removeprefix(f'{PASS} ')}: {100 * value:.2f} %" for name, value in values.items())
        first = f"trained on the band of highest PASS the {kind} error is the largest (Fig. 6)"
        second = f"trained on some band between, the {kind} error is below that of the lowest and the highest (Fig. 6)"
        if len(values) < 3:
            found += [f"{NOT_RUN}: {claim} (fewer than three bands)." for claim in (first, second)]
            continue
        lowest, *between, highest = values.values()
        found.append(line(_above(highest, max(lowest, *between), count), first, figures))
        found.append(line(_above(min(lowest, highest), min(between), count), second, figures))
    return found


def _above(large: float, small: float, count: int) -> bool | str:
    return large > small if clearly_apart(large, small, count) else NO_VERDICT


def _clean(errors: Errors) -> float:
    return float(errors.clean.mean())


def _not_run(claim: str, *needed: str) -> str:
    return f"{NOT_RUN}: {claim} (it needs {' and '.join(needed)})."
