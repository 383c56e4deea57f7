"""What the paper claims of its networks in section 5, and whether it holds here."""

import numpy as np

from experiments.robust_optimization.config import Part
from experiments.robust_optimization.table import network_name
from experiments.store import Arrays
from experiments.verdicts import NO_VERDICT, clearly_apart, line

__all__ = ["claims", "epochs_to_converge"]

# Points of test accuracy below the last epochs' within which a network counts as converged; ours, as the paper
# draws its curves and says "about the same number of epochs".
_NEAR = 0.005
# The share of all epochs that "about the same" may be apart, and that "the last epochs" are.
_TENTH = 0.1


def claims(part: Part, results: dict[str, Arrays], count: int) -> list[str]:
    """The claims of the summary of section 5.1 and of Figs. 5 and 6, one line each; `count` test images were asked."""
    robust = part.networks[1:]
    return [
        _better_on_the_test_set(robust, results, count),
        _robust_to_the_set(robust, results),
        _above_the_baseline(part, robust, results),
        _linf_is_best(part, robust, results, count),
        _same_epochs(part, results),
    ]


def epochs_to_converge(accuracy: np.ndarray) -> int:
    """The first epoch, from 1, whose test accuracy is within half a point of the mean over the last tenth.

    >>> epochs_to_converge(np.array([0.5, 0.9, 0.96, 0.963, 0.964]))
    3
    """
    last = accuracy[-max(1, round(_TENTH * len(accuracy))) :].mean()
    return 1 + int(np.argmax(accuracy >= last - _NEAR))


def _better_on_the_test_set(robust: tuple[str, ...], results: dict[str, Arrays], count: int) -> str:
    base = float(results["baseline"]["test"])
    ours = {name: float(results[name]["test"]) for name in robust}
    apart = {name: clearly_apart(value, base, count) for name, value in ours.items()}
    status: bool | str = all(ours[name] > base and apart[name] for name in robust)
    if not status and not any(ours[name] < base and apart[name] for name in robust):
        status = NO_VERDICT
    figures = ", ".join(f"{network_name(name)} {100 * value:.2f}" for name, value in ours.items())
    return line(status, "every robust network is better on the test set", f"baseline {100 * base:.2f} %, {figures}")


def _robust_to_the_set(robust: tuple[str, ...], results: dict[str, Arrays]) -> str:
    asked = results["baseline"]["adversarial_count"].sum()
    if not asked:
        return line(NO_VERDICT, "every robust network withstands images of the set A", "the set is empty")
    shares = {name: 100 * results[name]["adversarial_right"].sum() / asked for name in robust}
    figures = ", ".join(f"{network_name(name)} {share:.1f} %" for name, share in shares.items())
    claim = "every robust network withstands images of the set A, of which the baseline gets none right"
    return line(all(share > 0 for share in shares.values()), claim, figures)


def _above_the_baseline(part: Part, robust: tuple[str, ...], results: dict[str, Arrays]) -> str:
    positive = np.asarray(part.epsilons) > 0
    base = np.asarray(results["baseline"]["sweep"])[positive]
    least = {name: 100 * float(np.min(results[name]["sweep"][positive] - base, initial=1.0)) for name in robust}
    figures = ", ".join(f"{network_name(name)} {gap:+.1f} points at the least" for name, gap in least.items())
    claim = "under its own fast gradient sign every robust network is above the baseline at every epsilon > 0"
    return line(bool(positive.any()) and all(gap > 0 for gap in least.values()), claim, figures)


def _linf_is_best(part: Part, robust: tuple[str, ...], results: dict[str, Arrays], count: int) -> str:
    claim = "among the robust networks none is above linf at any epsilon > 0 (Figs. 3 and 6)"
    positive = np.asarray(part.epsilons) > 0
    if not positive.any():
        return line(NO_VERDICT, claim, "no epsilon > 0 was asked")
    curves = {name: np.asarray(results[name]["sweep"])[positive] for name in robust}
    above = [
        f"{network_name(name)} at {epsilon:g}"
        for name, curve in curves.items()
        for epsilon, own, linf in zip(np.asarray(part.epsilons)[positive], curve, curves["linf"], strict=True)
        if own > linf and clearly_apart(float(own), float(linf), count)
    ]
    figures = ", ".join(f"{network_name(name)} {100 * curve.mean():.1f} %" for name, curve in curves.items())
    return line(not above, claim, f"means over epsilon: {figures}; above: {', '.join(above) or 'none'}")


def _same_epochs(part: Part, results: dict[str, Arrays]) -> str:
    found = {name: epochs_to_converge(np.asarray(results[name]["epoch_test"])) for name in part.networks}
    apart = max(abs(epochs - found["baseline"]) for epochs in found.values())
    figures = ", ".join(f"{network_name(name)} {epochs}" for name, epochs in found.items())
    claim = "robust networks take about the same number of epochs to converge as the baseline (Fig. 5)"
    how = "first epoch within half a point of the last tenth; about the same: a tenth of all epochs, or one"
    return line(apart <= max(1, round(_TENTH * part.epochs)), claim, f"{figures}; {how}")
