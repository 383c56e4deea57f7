"""Fig. 6's bands: the same number of hot/cold adversarial images from each range of PASS."""

from typing import TypeAlias

import jax
import numpy as np

from experiments.hard_positives.config import Config
from experiments.hard_positives.networks import key_of
from experiments.hard_positives.paper import BAND_TYPES
from experiments.hard_positives.scoring import score_name
from experiments.store import Store

__all__ = ["Band", "band_rows", "choose", "too_small"]

Band: TypeAlias = tuple[float, float]


def too_small(config: Config, store: Store) -> dict[Band, int]:
    """The bands that are left out, and how many images the base with the fewest has there."""
    scores = [np.concatenate(_scores(config, store, base)) for base in range(config.bases)]
    fewest = {band: min(map(len, rows)) for band, rows in _inside(scores, _bands(config)).items()}
    return {band: number for band, number in fewest.items() if number < config.band_minimum}


def band_rows(config: Config, store: Store) -> dict[Band, list[np.ndarray]]:
    """For each band with images enough, and each base, which of its HC-D-9 images (types in order) are drawn."""
    scores, rows = [], []
    for base in range(config.bases):
        parts = _scores(config, store, base)
        counts = [len(store.read(f"attack/train/{base}/{kind}", "source")["source"]) for kind in BAND_TYPES]
        starts = np.cumsum([0, *counts[:-1]])
        scores.append(np.concatenate(parts))
        rows.append(np.concatenate([start + np.arange(len(part)) for start, part in zip(starts, parts, strict=True)]))
    chosen = choose(scores, _bands(config), config.band_minimum, key_of(config, "bands"))
    return {band: [row[i] for row, i in zip(rows, indices, strict=True)] for band, indices in chosen.items()}


def choose(scores: list[np.ndarray], bands: list[Band], minimum: int, key: jax.Array) -> dict[Band, list[np.ndarray]]:
    """Indices of equally many scores in (low, high] for each band, from each network's scores.

    A band in which some network has fewer than `minimum` scores is left out; the smallest of the others sets the
    number drawn from all.

    >>> scores = [np.array([0.1, 0.2, 0.3, 0.6, 0.7])]
    >>> chosen = choose(scores, [(0.0, 0.5), (0.5, 0.9), (0.9, 1.0)], 1, jax.random.key(0))
    >>> {band: len(indices) for band, (indices,) in chosen.items()}
    {(0.0, 0.5): 2, (0.5, 0.9): 2}
    """
    kept = {band: rows for band, rows in _inside(scores, bands).items() if min(map(len, rows)) >= minimum}
    number = min((len(row) for rows in kept.values() for row in rows), default=0)
    # NumPy's generator, seeded by the key: each set has its own size, for which JAX would compile anew.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return {band: [np.sort(rng.choice(row, number, replace=False)) for row in rows] for band, rows in kept.items()}


def _bands(config: Config) -> list[Band]:
    return list(zip(config.bands, config.bands[1:], strict=False))


def _scores(config: Config, store: Store, base: int) -> list[np.ndarray]:
    return [store.read(score_name("train", base, kind), "valid")["valid"] for kind in BAND_TYPES]


def _inside(scores: list[np.ndarray], bands: list[Band]) -> dict[Band, list[np.ndarray]]:
    """For each band, which of each network's scores lie in (low, high]."""
    return {band: [np.flatnonzero((s > band[0]) & (s <= band[1])) for s in scores] for band in bands}
