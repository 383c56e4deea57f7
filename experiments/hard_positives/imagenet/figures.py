"""Fig. 3 of the paper for one network, and what each type of attack yields."""

from typing import Any

import numpy as np

from advjax.data import ImageSet
from experiments.drawing import curves, image_rows
from experiments.hard_positives.imagenet.attack import types
from experiments.hard_positives.imagenet.config import Config
from experiments.hard_positives.imagenet.network import crop_of
from experiments.hard_positives.scoring import PASS
from experiments.store import Arrays, Store

__all__ = ["captions", "draw", "figure_types", "name_of"]

_FIGURE_RANK = 13
# The stage of photograph 0, which the figure shows.
_FIRST = "attack/00000"
# "perturbations are scaled by a factor of 10 with gray=no-change"
_MAGNIFIED = 10


def figure_types(config: Config) -> tuple[str, ...]:
    """The types of Fig. 3: HC-13, or the highest rank there is."""
    return "FGS", "FGV", "HC-1", f"HC-{min(_FIGURE_RANK, config.ranks)}"


def name_of(config: Config, images: ImageSet, label: int) -> str:
    """A class in words, as far as there are any: the number a network that learnt nothing gives means nothing."""
    name = images.classes[label] if label < len(images.classes) else ""
    return f"class {label}" if config.own_labels or not name else name


def captions(config: Config, store: Store, images: ImageSet) -> dict[str, tuple[str, float, float, float, bool]]:
    """For each type of Fig. 3: the class, PASS, L2 per pixel, L∞, and whether it is adversarial with PASS enough."""
    stored, found = store.read(_FIRST), {}
    for name in figure_types(config):
        place = stored["shown_record"][_shown(config, stored, name)]
        numbers = [float(stored[key][place]) for key in ("score", "l2", "linf")]
        works = bool(stored["success"][place]) and numbers[0] > config.threshold
        found[name] = (name_of(config, images, int(stored["prediction"][place])), *numbers, works)
    return found  # type: ignore[return-value]


def draw(config: Config, store: Store, images: ImageSet, chosen: Arrays, table: dict[str, Arrays]) -> list[str]:
    """Writes the figures into the store's folder and returns their names; only the first one shows photographs."""
    figures = {"fig3.png": _fig3(config, store, images, chosen), "types.png": _types(config, table)}
    for name, figure in figures.items():
        store.write_figure(name, figure)
    return list(figures)


def _fig3(config: Config, store: Store, images: ImageSet, chosen: Arrays) -> Any:
    stored = store.read(_FIRST)
    clean = images.take(chosen["row"][:1]).in_memory(crop_of(config)).images[0]
    pictures, changes = [clean / 255], [np.full(clean.shape, 0.5)]
    above = [name_of(config, images, int(chosen["label"][0]))]
    below = [f"perturbation x{_MAGNIFIED}"]
    for name, (answer, score, l2, linf, works) in captions(config, store, images).items():
        image = stored["shown"][_shown(config, stored, name)]
        pictures.append(image / 255)
        changes.append(0.5 + _MAGNIFIED * (image.astype(float) - clean) / 255)
        above.append(f"{name}: {answer}" + ("" if works else "\n(fails)"))
        below.append(f"({score:.4f}, {l2:.2f}, {linf:.0f})")
    title = f"Fig. 3 for {config.model}: ({PASS}, L2 per pixel, L∞)\n{config.headline}"
    return image_rows({"image": pictures, "perturbation": changes}, [above, below], title=title)


def _types(config: Config, table: dict[str, Arrays]) -> Any:
    lines = {
        "success": np.array([each["success"] for each in table.values()]),
        f"mean {PASS}": np.array([each["score"] for each in table.values()]),
        f"success with {PASS} > {config.threshold:g}": np.array([each["similar"] for each in table.values()]),
    }
    # One line lower every second word, or they would touch.
    names = [name.replace("FGV", "\nFGV").replace("HC-", "") for name in table]
    title = f"{config.model}\n{config.headline}"
    return curves(names, lines, xlabel="attack (numbers: HC-k)", ylabel="share, or PASS", title=title)


def _shown(config: Config, stored: Arrays, name: str) -> int:
    """The place of a type's image of photograph 0 among those that the first stage stores."""
    return int(np.flatnonzero(stored["kind"][stored["shown_record"]] == types(config).index(name))[0])
