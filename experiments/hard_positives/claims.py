"""Were the networks made better? Verdicts on each row, and the claims of the abstract, Table 1 and Figs. 5 and 6."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from advjax.evaluate import Share, better_or_worse, clearly_apart
from experiments.hard_positives.config import BASIC, INFIMNIST, ROWS, Config
from experiments.hard_positives.run import PASS
from experiments.page import mean_std
from experiments.store import Arrays
from experiments.study import Row
from experiments.verdicts import HOLDS, IN_PART, NO_VERDICT, NOT_RUN, line, listed

__all__ = ["FARTHER_TYPES", "Errors", "by_base", "claims", "verdicts"]

FARTHER_TYPES = ("FGV", *(f"HC-{k}" for k in range(1, 10)))
_BEST = "HC-D-9-1.05"


class Errors(NamedTuple):
    """The errors of a row's S networks.

    Attributes:
        clean, adversarial: the shares of images that they get wrong, the means over the networks.
        each: float [2, S], both of each network.
        trained_on: adversarial images in the training set, the mean over base networks.
        others: clean or InfiMNIST-like images in it.
    """

    clean: Share
    adversarial: Share
    each: np.ndarray
    trained_on: int = 0
    others: int = 0

    @classmethod
    def of(cls, stored: Arrays) -> "Errors":
        """From the arrays of a stage "row/..."."""
        both = stored["clean_wrong"], stored["adversarial_wrong"]
        trained_on = round(float(stored.get("adversarial_images", np.zeros(1)).mean()))
        each = np.stack([wrong.mean(axis=1) for wrong in both])
        return cls(Share.of(both[0]), Share.of(both[1]), each, trained_on, int(stored.get("clean_images", 0)))

    @property
    def cells(self) -> tuple[str, str]:
        """Both in percent."""
        return mean_std(100 * self.each[0], 3), mean_std(100 * self.each[1], 2)


def by_base(found: list[Row], metric: str, kind: str = "") -> np.ndarray:
    """A metric of all base networks, of an attack on training images or of clean images."""
    own = [row for row in found if (row.metric, row.attack) == (metric, kind)]
    return np.array([row.value for row in own if not kind or row.data.endswith("/train")])


def verdicts(config: Config, results: dict[str, Errors]) -> list[str]:
    """Whether fine-tuning made the network better: one sentence for each row, against the base networks."""

    def compared(before: Share, after: Share) -> str:
        word = better_or_worse(before, after, error=True)
        return f"{100 * before.value:.2f} % -> {100 * after.value:.2f} % ({word})"

    basic = results[BASIC]
    lines = [
        f"{name}: adversarial error {compared(basic.adversarial, own.adversarial)}; clean error "
        f"{compared(basic.clean, own.clean)}."
        for name, own in results.items()
        if name != BASIC
    ]
    if config.bases == 1:
        lines.append(
            "One base network: the held-out images are its own adversarial images, so that it gets all of them wrong "
            "by construction (the paper's 64 % is a mix over three networks)."
        )
    return lines


def claims(results: dict[str, Errors], bands: dict[str, Errors], found: list[Row]) -> list[str]:
    """The claims of the abstract, Table 1 and Figs. 5 and 6, one line each.

    Args:
        results: of Table 1, by name.
        bands: of Fig. 6, by name, the lowest first.
        found: the rows of the attacks.
    """
    of_table = [
        *(_fewer_clean_errors(results, other) for other in (BASIC, "FGS")),
        *(_as_good_as_infimnist(results, name) for name in (_BEST, "HC-D-9", "FGV")),
        _infimnist_is_open(results),
        _lowest_adversarial(results),
    ]
    return [*of_table, _fig5_claim(found), *_fig6_claims(bands)]


def _fewer_clean_errors(results: dict[str, Errors], other: str) -> str:
    paper = 100 * (1 - ROWS[_BEST].clean / ROWS[other].clean)
    claim = f"{_BEST} has {paper:.2f} % less clean error than {other}"
    if not {_BEST, other} <= results.keys():
        return _not_run(claim, _BEST, other)
    before, after = results[other].clean, results[_BEST].clean
    saved = 100 * (1 - after.value / before.value) if before.value else 0.0
    as_told = HOLDS if round(saved, 2) >= round(paper, 2) else IN_PART if saved > 0 else False
    more = f"{saved:.2f} % less" if saved >= 0 else f"{-saved:.2f} % more"
    figures = f"here {more}: {100 * before.value:.3f} % -> {100 * after.value:.3f} %"
    return line(as_told if clearly_apart(before, after) else NO_VERDICT, claim, figures)


def _as_good_as_infimnist(results: dict[str, Errors], name: str) -> str:
    claim = f"{name} has no larger clean error than {INFIMNIST}"
    if not {name, INFIMNIST} <= results.keys():
        return _not_run(claim, name, INFIMNIST)
    ours, other = results[name].clean, results[INFIMNIST].clean
    status = True if ours.value <= other.value else False if clearly_apart(ours, other) else NO_VERDICT
    return line(status, claim, f"{100 * ours.value:.3f} % against {100 * other.value:.3f} %")


def _infimnist_is_open(results: dict[str, Errors]) -> str:
    claim = f"{INFIMNIST} has a larger adversarial error than every row trained on adversarial images"
    trained = {name: own.adversarial.value for name, own in results.items() if name not in (BASIC, INFIMNIST)}
    if INFIMNIST not in results or not trained:
        return _not_run(claim, INFIMNIST)
    ours, worst = results[INFIMNIST].adversarial.value, max(trained, key=lambda name: trained[name])
    figures = f"{100 * ours:.2f} % against at most {100 * trained[worst]:.2f} % ({worst})"
    return line(ours > trained[worst], claim, figures)


def _lowest_adversarial(results: dict[str, Errors]) -> str:
    claim = f"{_BEST} has the lowest adversarial error"
    if _BEST not in results or len(results) < 3:
        return _not_run(claim, _BEST)
    others = {name: own.adversarial for name, own in results.items() if name != _BEST}
    ours, best = results[_BEST].adversarial, min(others, key=lambda name: others[name].value)
    status = ours.value < others[best].value if clearly_apart(ours, others[best]) else NO_VERDICT
    return line(status, claim, f"{100 * ours.value:.2f} % against {100 * others[best].value:.2f} % ({best})")


def _fig5_claim(found: list[Row]) -> str:
    linf, score = (
        {kind: float(by_base(found, metric, kind).mean()) for kind in ("FGS", *FARTHER_TYPES)}
        for metric in ("linf", "pass_valid")
    )
    least, lowest = min(linf[kind] for kind in FARTHER_TYPES), min(score[kind] for kind in FARTHER_TYPES)
    return line(
        linf["FGS"] < least and score["FGS"] < lowest,
        "FGS has a lower L∞, but a lower PASS too, than FGV and HC-1 to HC-9 (Fig. 5)",
        f"L∞ {linf['FGS']:.1f} against at least {least:.1f}, {PASS} {score['FGS']:.3f} against at least {lowest:.3f}",
    )


def _fig6_claims(bands: dict[str, Errors]) -> Iterator[str]:
    """Each kind of error: the highest band has the largest; a band between has less than the lowest."""

    def above(large: Share, small: Share) -> bool | str:
        return large.value > small.value if clearly_apart(large, small) else NO_VERDICT

    def size(share: Share) -> float:
        return share.value

    for kind in ("clean", "adversarial"):
        shares: dict[str, Share] = {name.removeprefix(f"{PASS} "): getattr(own, kind) for name, own in bands.items()}
        figures = listed({f"{name}:": f"{100 * share.value:.2f} %" for name, share in shares.items()})
        first = f"trained on the band of highest PASS the {kind} error is the largest (Fig. 6)"
        second = f"trained on some band between, the {kind} error is below that of the lowest and the highest (Fig. 6)"
        if len(shares) < 3:
            yield from (f"{NOT_RUN}: {claim} (fewer than three bands)." for claim in (first, second))
            continue
        lowest, *between, highest = shares.values()
        yield line(above(highest, max(lowest, *between, key=size)), first, figures)
        yield line(above(min(lowest, highest, key=size), min(between, key=size)), second, figures)


def _not_run(claim: str, *needed: str) -> str:
    return f"{NOT_RUN}: {claim} (it needs {' and '.join(needed)})."
