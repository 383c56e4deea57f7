"""The paper's claims, each with the figures of the run that decide it."""

import itertools

import numpy as np

from experiments.butterfly.answers import (
    answer_of,
    course,
    epochs_to_settle,
    gain_interval,
    seeds_of,
    settled,
    told,
    verdict,
)
from experiments.butterfly.config import Config, Game, Target
from experiments.butterfly.rows import STAND_INS, Cell
from experiments.study import Read
from experiments.verdicts import HOLDS, IN_PART, NO_VERDICT, NOT_RUN, line, listed

__all__ = ["claims"]

# "About 1.1" (Fig. 9): where an unbounded perturbation settled.
_FREE = 1.1


def claims(config: Config, read: Read) -> list[str]:
    """Each claim in a line; see `experiments.verdicts`."""
    return [
        *_enhanced(config, read),
        *_interval(config, read),
        *_enhancing_courses(config, read),
        *_losses(config, read),
        *_adversarial_courses(config, read),
        *_forms(config, read),
        *_attacks(config, read),
    ]


def _cells(config: Config, table: int, **wanted: str) -> list[Cell]:
    return [
        cell
        for cell in config.cells.values()
        if cell.table == table and all(getattr(cell, name) == value for name, value in wanted.items())
    ]


def _vanilla(config: Config, read: Read, cell: Cell) -> np.ndarray:
    return read(f"vanilla/{config.target(cell).name}", "right")["right"]


def _enhanced(config: Config, read: Read) -> list[str]:
    lines = []
    for start, claim in (
        ("A", "classifiers trained from scratch"),
        ("B", "classifiers that begin as external networks"),
    ):
        cells = [cell for cell in _cells(config, 1, start=start) if cell.method != "vanilla"]
        found = {cell: verdict(_vanilla(config, read, cell), answer_of(config, read, cell).right) for cell in cells}
        better = sum(word == "better" for word in found.values())
        status: bool | str = HOLDS if better == len(found) else IN_PART if better else NO_VERDICT
        if any(word == "worse" for word in found.values()):
            status = False
        figures = listed({f"{cell.data}/{cell.place}": word for cell, word in found.items()})
        lines.append(line(status if found else NOT_RUN, f"the perturbation enhances {claim}", figures or "no cell"))
    return lines


def _interval(config: Config, read: Read) -> list[str]:
    lines = []
    for target in config.mains:
        mean, low, high = gain_interval(*seeds_of(config, read, target))
        figures = f"{mean:+.1f} points, 95 % interval over {config.seeds} seeds {low:+.1f} to {high:+.1f}"
        status = HOLDS if low > 0 else NO_VERDICT if high > 0 else False
        claim = f"{target.data}/{target.classifier} [A] has a higher accuracy with Prop-50 than alone"
        lines.append(line(status if config.seeds > 1 else NO_VERDICT, claim, figures))
    return lines or [line(NOT_RUN, "the accuracy of the main classifier rises in every seed", "no main classifier")]


def _by_gamma(read: Read, games: list[Game], column: str) -> dict[float, np.ndarray]:
    return {game.gamma: course(read, game)[column] for game in sorted(games, key=lambda game: game.gamma)}


def _enhancing_courses(config: Config, read: Read) -> list[str]:
    lines = []
    for target, games in config.swept("enhancing").items():
        where, weighed = f"{target.name}, enhancing", [game for game in games if game.gamma]
        for column, name in (("generator_loss", "L_G"), ("discriminator_loss", "L_D")):
            found = {gamma: settled(values) for gamma, values in _by_gamma(read, weighed, column).items()}
            status: bool | str = HOLDS if all(found.values()) else IN_PART if any(found.values()) else False
            told = listed({f"gamma {gamma:g}": "settled" if each else "still moving" for gamma, each in found.items()})
            lines.append(line(status, f"{where}: {name} converges for every gamma (Fig. 4)", told))
        peaks = {gamma: float(values.max()) for gamma, values in _by_gamma(read, weighed, "l2").items()}
        ends = {gamma: float(values[-1]) for gamma, values in _by_gamma(read, weighed, "l2").items()}
        claim = f"{where}: the smaller gamma, the larger the peak of L2 (Fig. 4)"
        lines.append(line(_falls(peaks), claim, _numbers(peaks)))
        lines.append(line(_falls(ends), f"{where}: L2 in the end falls as gamma grows", _numbers(ends)))
        free = [values for gamma, values in _by_gamma(read, games, "l2").items() if not gamma]
        for values in free:
            end, stays = float(values[-1]), settled(values)
            status = HOLDS if stays and abs(end - _FREE) < 0.2 else IN_PART if stays else False
            claim = f"{where}: without gamma L2 settles by itself, at about {_FREE:g} (Fig. 9)"
            told = f"{end:.3g} at the end, {'settled' if stays else 'still moving'}"
            lines.append(line(status, claim, told))
    return lines or [line(NOT_RUN, "enhancing: losses converge, L2 falls with gamma (Fig. 4)", "no sweep")]


def _falls(numbers: dict[float, float]) -> bool | str:
    values = list(numbers.values())
    if len(values) < 2:
        return NO_VERDICT
    pairs = [later < earlier for earlier, later in itertools.pairwise(values)]
    return HOLDS if all(pairs) else IN_PART if values[-1] < values[0] else False


def _numbers(numbers: dict[float, float]) -> str:
    return listed({f"gamma {gamma:g}": f"{number:.3g}" for gamma, number in numbers.items()})


def _losses(config: Config, read: Read) -> list[str]:
    """ls against lr, of Table 3."""
    lines = []
    for cell in _cells(config, 3, loss="ls"):
        others = [each for each in _cells(config, 3, loss="lr") if each.data == cell.data]
        other = next((each for each in others if each._replace(loss="ls").place == cell.place), None)
        if other is None:
            continue
        pair = (cell, other)
        games = [config.game(each) for each in pair]
        sizes = [float(course(read, game)["l2"][-1]) for game in games if game is not None]
        answers = [answer_of(config, read, each) for each in pair]
        which = verdict(answers[0].right, answers[1].right)
        figures = (
            f"ls {told(*answers[0])} at L2 {sizes[0]:.3g}, lr {told(*answers[1])} at {sizes[1]:.3g}; the accuracy with "
            f"lr against ls: {which}"
        )
        where = f"{cell.data}/{cell.classifier}"
        if cell.problem == "enhancing":
            status: bool | str = sizes[1] < sizes[0] and (HOLDS if which == "no clear difference" else IN_PART)
            lines.append(line(status, f"{where}: lr enhances like ls, with a lower L2 (Fig. 9)", figures))
        else:
            stronger, smaller = which == "better", sizes[0] < sizes[1]
            status = HOLDS if stronger and smaller else IN_PART if stronger or smaller else False
            lines.append(
                line(status, f"{where}: Prop-B with ls is stronger than lr, at a smaller L2 (Fig. 10)", figures)
            )
    return lines or [line(NOT_RUN, "lr has the lower L2 when enhancing, ls when attacking (Figs. 9, 10)", "no pair")]


def _adversarial_courses(config: Config, read: Read) -> list[str]:
    lines = []
    for target, games in config.swept("adversarial").items():
        ends = {gamma: float(values[-1]) for gamma, values in _by_gamma(read, games, "l2").items()}
        still = {gamma: settled(values) for gamma, values in _by_gamma(read, games, "l2").items()}
        status: bool | str = HOLDS if all(still.values()) else IN_PART if any(still.values()) else False
        claim = f"{target.name}, adversarial: L2 settles at a value of its own for each gamma (Fig. 8)"
        figures = listed(
            {f"gamma {gamma:g}": f"{end:.3g}{'' if still[gamma] else ' (still moving)'}" for gamma, end in ends.items()}
        )
        lines.append(line(status, claim, figures))
        lines += _faster(config, read, target, games)
    return lines or [line(NOT_RUN, "adversarial: L2 settles by gamma, L_D converges faster (Fig. 8)", "no sweep")]


def _faster(config: Config, read: Read, target: Target, games: list[Game]) -> list[str]:
    others = config.swept("enhancing").get(target._replace(start="A"))
    if not others:
        return []

    def epochs(some: list[Game]) -> dict[float, int]:
        return {game.gamma: epochs_to_settle(course(read, game)["discriminator_loss"]) for game in some if game.gamma}

    attack, help_ = epochs(games), epochs(others)
    status: bool | str = np.mean([*attack.values()]) < np.mean([*help_.values()]) and (
        HOLDS if max(attack.values()) < min(help_.values()) else IN_PART
    )
    figures = (
        "epochs until it stays within 10 % of its range of its end: adversarial "
        f"{listed({f'gamma {g:g}': n for g, n in attack.items()})}; enhancing "
        f"{listed({f'gamma {g:g}': n for g, n in help_.items()})}"
    )
    return [
        line(status, f"{target.data}/{target.classifier}: L_D converges faster in the adversarial problem", figures)
    ]


def _forms(config: Config, read: Read) -> list[str]:
    """VGG gains most; Prop-50 is like Prop-101."""
    lines = []
    for data in config.data:
        gains, pairs = {}, {}
        for cell in _cells(config, 1, data=data, start="A", method="Prop-50"):
            own = answer_of(config, read, cell).right
            gains[cell.classifier] = 100 * (own.mean() - _vanilla(config, read, cell).mean())
            for other in _cells(config, 1, data=data, start="A", method="Prop-101", classifier=cell.classifier):
                pairs[cell.classifier] = verdict(own, answer_of(config, read, other).right)
        figures = listed({form: f"{gain:+.1f} points" for form, gain in gains.items()})
        status: bool | str = NOT_RUN
        if "VGG16" in gains and len(gains) > 1:
            status = max(gains, key=lambda form: gains[form]) == "VGG16"
        name = "stand-ins of the four forms" if data in STAND_INS else "four forms"
        lines.append(line(status, f"{data}: of the {name} VGG16 gains most from Prop-50 [A]", figures or "no cell"))
        same = [word == "no clear difference" for word in pairs.values()]
        status = NOT_RUN if not same else HOLDS if all(same) else IN_PART if any(same) else False
        claim = f"{data}: Prop-101 enhances as Prop-50 does"
        lines.append(line(status, claim, listed(pairs) or "no pair"))
    return lines


def _attacks(config: Config, read: Read) -> list[str]:
    """Generators against UAP and EHA, as in the paper and at equal L2; and Prop-B against a known form."""
    lines = []
    for cell in _cells(config, 2):
        if cell.method not in ("UAP", "EHA"):
            continue
        game = config.reference(cell)
        if game is None:
            continue
        ours = read(f"judged/{game.name}", "right_rounded", "probability_rounded")
        suffix = "_matched" if cell.method == "UAP" else ""
        other = read(f"baseline/{cell.name}", f"right{suffix}", f"probability{suffix}", "wanted")
        which = verdict(ours["right_rounded"], other[f"right{suffix}"])
        status: bool | str = False if which == "worse" else HOLDS if which == "better" else NO_VERDICT
        claim = (
            f"{cell.data}/{cell.classifier}: {game.method} leaves a lower accuracy than {cell.method} at equal mean L2 "
            f"(RMS {other['wanted']:.3g} in pixels)"
        )
        figures = (
            f"{told(ours['right_rounded'], ours['probability_rounded'])} against "
            f"{told(other[f'right{suffix}'], other[f'probability{suffix}'])}"
        )
        lines.append(line(status, claim, figures))
    for cell in _cells(config, 2, method="Prop-B"):
        known = next(iter(_cells(config, 2, method="Prop-50", data=cell.data, classifier=cell.classifier)), None)
        if known is None:
            continue
        unknown, own = answer_of(config, read, cell), answer_of(config, read, known)
        right = np.array([own.right.mean(), unknown.right.mean()])
        loss = 100 * (_vanilla(config, read, cell).mean() - right)
        status = NO_VERDICT if loss[0] <= 0 else HOLDS if loss[1] > 0.8 * loss[0] else IN_PART if loss[1] > 0 else False
        claim = f"{cell.data}/{cell.classifier}: Prop-B, which does not know the form, takes nearly as much as Prop-50"
        lines.append(line(status, claim, f"{loss[1]:.1f} against {loss[0]:.1f} points"))
    return lines or [line(NOT_RUN, "generators are stronger than UAP and EHA (Table 2)", "no cell")]
