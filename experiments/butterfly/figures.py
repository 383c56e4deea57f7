"""Figs. 3 to 10: courses of losses, L2, counts and accuracy by epoch, images with their perturbations; two of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.plots import image_figure, panel_figure
from experiments.butterfly.answers import course
from experiments.butterfly.config import Config, Game
from experiments.butterfly.images import Data
from experiments.butterfly.rows import STAND_INS
from experiments.study import Read

__all__ = ["figures"]


def figures(config: Config, data: Data, read: Read) -> dict[str, Any]:
    """Figures of the main classifiers, as far as their games were played; file names say which of the paper's."""
    drawn: dict[str, Any] = {}
    for problem, numbers in (("enhancing", ("3", "4", "6", "9")), ("adversarial", ("5", "8", "7", "10"))):
        examples, courses, images, losses = numbers
        for target, games in config.swept(problem).items():
            where = _where(target.data, target.classifier, target.start, problem)
            of = f"-{target.data}.png".lower()
            weighed = [game for game in games if game.gamma]
            by_gamma = {f"gamma {game.gamma:g}": game for game in weighed}
            drawn[f"fig{courses}{of}"] = _courses(read, by_gamma, f"Fig. {courses}: {where}")
            drawn[f"fig{images}{of}"] = _images(read, by_gamma, f"Fig. {images}: {where}")
            main = _main(config, games, problem)
            drawn[f"fig{examples}{of}"] = _examples(read, main, f"Fig. {examples}: {where}")
        for name, pair in _pairs(config, problem).items():
            where = _where(name, pair["ls"].target.classifier, pair["ls"].target.start, problem)
            drawn[f"fig{losses}-{name}.png".lower()] = _courses(read, pair, f"Fig. {losses}: {where}")
    for target in config.mains:
        where, of = _where(target.data, target.classifier, target.start, "enhancing"), f"-{target.data}.png".lower()
        both = {
            "the paper's D": config.repeated(target)[0],
            "D told the label": config.repeated(target, per_label=True)[0],
        }
        drawn[f"told-courses{of}"] = _courses(read, both, where)
        drawn[f"told-images{of}"] = _images(read, both, where)
    return drawn


def _where(data: str, classifier: str, start: str, problem: str) -> str:
    stand_in = " (stand-in)" if data in STAND_INS else ""
    return f"{data}{stand_in}, {classifier} [{start}], {problem}"


def _main(config: Config, games: Sequence[Game], problem: str) -> Game:
    """The game of the table's gamma, or the first."""
    gamma = config.enhancing_gamma if problem == "enhancing" else config.adversarial_gamma
    return next((game for game in games if game.gamma == gamma), games[0])


def _pairs(config: Config, problem: str) -> dict[str, dict[str, Game]]:
    """By data set the games with ls and lr of the main classifier's Table 3, and the one without gamma."""
    found: dict[str, dict[str, Game]] = {}
    for cell in config.cells.values():
        game = config.game(cell)
        if cell.table == 3 and cell.problem == problem and game is not None and config.is_main(game.target):
            found.setdefault(cell.data, {})[cell.loss] = game
    found = {data: pair for data, pair in found.items() if "ls" in pair}
    for target, games in config.swept(problem).items():
        free = [game for game in games if not game.gamma]
        if free and target.data in found:
            found[target.data]["ls, gamma 0"] = free[0]
    return found


def _courses(read: Read, games: Mapping[str, Game], title: str) -> Any:
    found = {name: course(read, game) for name, game in games.items()}
    epochs = range(1, 1 + len(next(iter(found.values()))["l2"]))
    both = {f"{name}, {more}": each[f"{column}_loss"] for name, each in found.items()
            for more, column in (("L_G", "generator"), ("L_D", "discriminator"))}  # fmt: skip
    counts = {f"{name}, {column}": 100 * each[column] for name, each in found.items()
              for column in ("positive", "negative")}  # fmt: skip
    panels = {
        "L_G and L_D": both,
        "L2: mean of v^2": {name: each["l2"] for name, each in found.items()},
        "images learned from, %": counts,
        "accuracy on V, %": {name: 100 * each["validation_accuracy"] for name, each in found.items()},
    }
    return panel_figure(epochs, panels, xlabel="epoch", title=title)


def _parts(read: Read, game: Game) -> dict[str, np.ndarray]:
    return read(f"judged/{game.name}", "example_images", "example_v", "example_answers")


def _flat(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.shape[-1] == 1 else image


def _stretched(v: np.ndarray) -> np.ndarray:
    return (v - v.min()) / max(float(np.ptp(v)), 1e-6)


def _examples(read: Read, game: Game, title: str) -> Any:
    """Images, x~ and v, as it is (gray is no change) and stretched to its own range."""
    found = _parts(read, game)
    clean, v, (before, after) = found["example_images"], found["example_v"], found["example_answers"]
    rows = {
        "image": [_flat(image) for image in clean],
        "perturbed": [_flat(image) for image in clean + _pixels(read, game, v)],
        "perturbation": [_flat(0.5 + each / 2) for each in _pixels(read, game, v)],
        "normalized": [_flat(_stretched(each)) for each in v],
    }
    nothing = [""] * len(clean)
    captions = [[f"{answer}" for answer in before], [f"{answer}" for answer in after], nothing, nothing]
    return image_figure(rows, captions, title=f"{title}; answers over the images")


def _images(read: Read, games: Mapping[str, Game], title: str) -> Any:
    """The same images by gamma."""
    rows: dict[str, Any] = {}
    captions = []
    for name, game in games.items():
        found = _parts(read, game)
        if not rows:
            rows["image"] = [_flat(image) for image in found["example_images"]]
            captions.append([f"{answer}" for answer in found["example_answers"][0]])
        changed = found["example_images"] + _pixels(read, game, found["example_v"])
        rows[name] = [_flat(image) for image in changed]
        captions.append([f"{answer}" for answer in found["example_answers"][1]])
    return image_figure(rows, captions, title=title)


def _pixels(read: Read, game: Game, v: np.ndarray) -> np.ndarray:
    units: np.ndarray = read(f"judged/{game.name}", "units")["units"]
    return units * v
