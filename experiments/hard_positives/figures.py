"""Figures 2, 4, 5 and 6 of the paper, from the stages on disk."""

from typing import Any

import numpy as np

from advjax.data import Dataset
from advjax.plots import error_figure, histogram_figure, metric_figure, perturbation_figure
from experiments.hard_positives.adversaries import stage_name, training_types
from experiments.hard_positives.config import Config
from experiments.hard_positives.metrics import Metric
from experiments.hard_positives.paper import BASIC, ROWS
from experiments.hard_positives.scoring import PASS, PASS_IN_FULL, score_name
from experiments.hard_positives.table import Errors, data_name
from experiments.store import Store

__all__ = ["draw", "example"]

_EXAMPLE_TYPES = ("FGS", "FGV", "HC-1", "HC-2")
_EXAMPLE_DIGIT = 9
_METRIC_TYPES = ("FGS", "FGV", *(f"HC-{k}" for k in range(1, 10)))


def draw(
    config: Config,
    store: Store,
    train: Dataset,
    metrics: list[Metric],
    basic: Errors,
    bands: dict[str, Errors],
    left_out: list[str],
) -> list[str]:
    """Writes the figures into the store's folder and returns their names; Fig. 6 needs bands, and names `left_out`."""
    figures = {"fig2.png": _fig2(store, train), "fig4.png": _fig4(config, store), "fig5.png": _fig5(config, metrics)}
    if bands:
        figures["fig6.png"] = _fig6(config, basic, bands, left_out)
    for name, figure in figures.items():
        store.write_figure(name, figure)
    return list(figures)


def example(store: Store, train: Dataset) -> dict[str, int]:
    """For each type of Fig. 2 the place of one source among its scored images: a 9 if all four fooled it."""
    sources = {}
    for kind in _EXAMPLE_TYPES:
        scored = len(store.read(score_name("train", 0, kind), "valid")["valid"])
        sources[kind] = store.read(stage_name("train", 0, kind), "source")["source"][:scored]
    first = sources[_EXAMPLE_TYPES[0]]
    common = [source for source in first if all(source in sources[kind] for kind in _EXAMPLE_TYPES)]
    if not common:
        raise ValueError(f"no training image was fooled by all of {_EXAMPLE_TYPES}")
    chosen = max(common, key=lambda source: train.labels[source] == _EXAMPLE_DIGIT)
    return {kind: int(np.flatnonzero(sources[kind] == chosen)[0]) for kind in _EXAMPLE_TYPES}


def _fig2(store: Store, train: Dataset) -> Any:
    places = example(store, train)
    pictures, captions = [], []
    for kind, place in places.items():
        stored = store.read(stage_name("train", 0, kind), "image", "source", "prediction", "l2", "linf")
        score = store.read(score_name("train", 0, kind), "valid")["valid"][place]
        pictures.append(stored["image"][place])
        captions.append(
            f"{kind} → {stored['prediction'][place]}\n"
            f"({score:.3f}, {stored['l2'][place]:.1f}, {stored['linf'][place]:.0f})"
        )
        source = stored["source"][place]
    title = f"A {train.labels[source]} and what fools the network: ({PASS}, L2 per pixel, L∞)"
    return perturbation_figure(train.images[source], pictures, captions, title=title)


def _fig4(config: Config, store: Store) -> Any:
    """Counts, not densities: they show how many more images the hot/cold types give."""
    done = set(training_types(config))
    families: dict[str, tuple[str, ...]] = {
        "FGS": ("FGS",),
        "FGV": ("FGV",),
        "HC-D-1": ("HC-1",),
        "HC-S-1": ("HC-S-1",),
    }
    families.update((row, ROWS[row].types) for row in ("HC-D-5", "HC-S-5", "HC-D-9", "HC-D-9-1.05"))
    scores: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    for name, kinds in families.items():
        if not done.issuperset(kinds):
            continue
        parts, factors = [], []
        for base in range(config.bases):
            for kind in kinds:
                part = store.read(score_name("train", base, kind), "valid")["valid"]
                images = len(store.read(stage_name("train", base, kind), "source")["source"])
                parts.append(part)
                factors.append(np.full(len(part), images / max(len(part), 1)))
        scores[name], weights[name] = np.concatenate(parts), np.concatenate(factors)
    title = f"PASS of adversarial and hard positive images, {data_name(config)}"
    return histogram_figure(scores, weights, xlabel=PASS_IN_FULL, ylabel="images", title=title)


def _fig5(config: Config, metrics: list[Metric]) -> Any:
    curves = {}
    for label, name in [(PASS, "pass_valid"), ("L2 per pixel", "l2_per_pixel"), ("L∞", "linf")]:
        found = {(m.item, m.network): m.value for m in metrics if m.metric == name}
        curves[label] = np.array(
            [[found[f"train/{kind}", base] for base in range(config.bases)] for kind in _METRIC_TYPES]
        )
    curves = {label: values if label == PASS else values / values.max() for label, values in curves.items()}
    title = f"{data_name(config)}, {config.bases} network(s); L2 and L∞ scaled to a maximum of 1"
    return metric_figure(_METRIC_TYPES, curves, title=title)


def _fig6(config: Config, basic: Errors, bands: dict[str, Errors], left_out: list[str]) -> Any:
    panels = {
        f"{data_name(config)} test error, %": [100 * errors.clean for errors in bands.values()],
        "held-out adversarial error, %": [100 * errors.adversarial for errors in bands.values()],
    }
    references = [100 * basic.clean.mean(), 100 * basic.adversarial.mean()]
    labels = [name.removeprefix(f"{PASS} ") for name in bands]
    title = f"too few images, left out: {', '.join(left_out)}" if left_out else ""
    xlabel = f"{PASS} x 1000 of the images trained on"
    return error_figure(labels, panels, references, reference=BASIC, xlabel=xlabel, title=title)
