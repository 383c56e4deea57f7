"""What the stages of a finished run say, by cell and by game, and numbers made of it."""

from typing import NamedTuple

import numpy as np
import scipy.stats

from advjax.evaluate import Share, better_or_worse
from experiments.butterfly.config import Config, Game, Target
from experiments.butterfly.rows import Cell
from experiments.store import Arrays
from experiments.study import Read

__all__ = ["Answer", "answer_of", "course", "gain_interval", "settled", "told", "verdict"]

_LEVEL = 0.95
# A course has settled if its last fifth and the fifth before differ by less than this share of its whole range.
_SETTLED = 0.1


class Answer(NamedTuple):
    """What a network said of T in a cell: right bool [N], probability [N]; `size`: mean square of what was added."""

    right: np.ndarray
    probability: np.ndarray


def answer_of(config: Config, read: Read, cell: Cell, *, rounded: bool = False) -> Answer:
    """Of a cell of the run; `rounded`: of generators' images, clipped and on 256 levels."""
    stage = f"vanilla/{config.target(cell).name}"
    if cell.method in ("UAP", "EHA"):
        stage = f"baseline/{cell.name}"
    elif (game := config.game(cell)) is not None:
        stage = f"judged/{game.name}"
    suffix = "_rounded" if rounded and stage.startswith("judged") else ""
    found = read(stage, f"right{suffix}", f"probability{suffix}")
    return Answer(*found.values())


def told(right: np.ndarray, probability: np.ndarray) -> str:
    """Accuracy in percent and mean probability of the true class, as the tables print them.

    >>> told(np.array([True, False]), np.array([0.75, 0.25]))
    '50.0/0.500'
    """
    return f"{100 * right.mean(dtype=np.float64):.1f}/{probability.mean(dtype=np.float64):.3f}"


def verdict(before: np.ndarray, after: np.ndarray) -> str:
    """ "better", "worse" or "no clear difference" of two accuracies on the same images."""
    return better_or_worse(Share.of(before), Share.of(after), error=False)


def gain_interval(before: list[np.ndarray], after: list[np.ndarray]) -> tuple[float, float, float]:
    """The mean gain in points over seeds and the ends of its 95 % interval by Student's t.

    >>> right, wrong = np.ones(4, bool), np.zeros(4, bool)
    >>> gain_interval([wrong, wrong, wrong], [right, right, right])
    (100.0, 100.0, 100.0)
    """
    gains = 100 * np.array([b.mean() - a.mean() for a, b in zip(before, after, strict=True)])
    half = 0.0
    if len(gains) > 1:
        half = scipy.stats.t.ppf((1 + _LEVEL) / 2, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    mean = float(gains.mean())
    return mean, float(mean - half), float(mean + half)


def seeds_of(
    config: Config, read: Read, target: Target, *, per_label: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of the main row what each seed's classifier has right, alone and with its generator."""
    games = config.repeated(target, per_label=per_label)
    before = [read(f"vanilla/{game.target.name}", "right")["right"] for game in games]
    return before, [read(f"judged/{game.name}", "right")["right"] for game in games]


def course(read: Read, game: Game) -> Arrays:
    """The means of a game by epoch; counts are of the images of an epoch."""
    names = ("accuracy", "generator_loss", "discriminator_loss", "l2", "positive", "negative", "wanted", "saturated")
    return read(f"game/{game.name}", *names, "validation_accuracy")


def settled(values: np.ndarray) -> bool:
    """Whether a course stands still in the end: its last fifth is the fifth before, but for 10 % of its range.

    >>> settled(np.array([9.0, 5, 3, 2, 1, 1, 1, 1, 1, 1])), settled(np.arange(10.0))
    (True, False)
    """
    fifth = max(len(values) // 5, 1)
    last, before = values[-fifth:].mean(), values[-2 * fifth : -fifth].mean()
    return bool(abs(last - before) <= _SETTLED * np.ptp(values))


def epochs_to_settle(values: np.ndarray) -> int:
    """After how many epochs a course stays within 10 % of its range of where it ends.

    >>> epochs_to_settle(np.array([9.0, 1, 1, 1]))
    1
    """
    away = np.abs(values - values[-1]) > _SETTLED * np.ptp(values)
    return int(np.flatnonzero(away)[-1]) + 1 if away.any() else 0


def stood_still(read: Read, game: Game) -> int:
    """In how many epochs the discriminator was saturated for all bad images, so that the generator learned nothing."""
    found = course(read, game)
    return int(np.sum((found["wanted"] < 1) & (found["saturated"] >= 1 - found["wanted"])))
