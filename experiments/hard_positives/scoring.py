"""Stage "score": PASS of each stored adversarial image against its original."""

from functools import partial

import jax
import numpy as np
from tqdm import tqdm

from advjax.data import Dataset, to_float
from advjax.scores import pass_score
from experiments.hard_positives.adversaries import Sources, stage_name, training_types
from experiments.hard_positives.config import Config
from experiments.hard_positives.paper import HELD_OUT_TYPES
from experiments.store import Arrays, Store

__all__ = ["PASS", "PASS_IN_FULL", "score_all", "score_name", "score_pairs"]

# By what name figures and rows call the score that all of them use: its value depends on SSIM's windows.
PASS = "PASS (valid)"
PASS_IN_FULL = "PASS (valid: SSIM's windows inside the image)"


def score_name(split: str, base: int, kind: str) -> str:
    """Where the scores of a type are stored."""
    return f"score/{split}/{base}/{kind}"


def score_all(config: Config, store: Store, train: Dataset, sources: Sources) -> None:
    """Scores the first `pass_per_type` images of every type and base."""
    stages = [
        (data, split, base, kind)
        for base in range(config.bases)
        for data, split, kinds in [
            (train, "train", training_types(config)),
            (sources.heldout_from, "heldout", HELD_OUT_TYPES),
        ]
        for kind in kinds
        if not store.done(score_name(split, base, kind))
    ]
    for data, split, base, kind in tqdm(stages, desc="score by PASS", unit="type", disable=not stages or None):
        store.ensure(score_name(split, base, kind), partial(_score_type, config, store, data, split, base, kind))


def _score_type(config: Config, store: Store, data: Dataset, split: str, base: int, kind: str) -> Arrays:
    stored = store.read(stage_name(split, base, kind), "image", "source")
    perturbed = stored["image"][: config.pass_per_type]
    original = data.images[stored["source"][: config.pass_per_type]]
    few = slice(config.same_per_type if split == "train" else 0)
    return {
        "valid": score_pairs(perturbed, original, "valid", config.score_batch),
        "same": score_pairs(perturbed[few], original[few], "same", config.score_batch),
    }


def score_pairs(perturbed: np.ndarray, original: np.ndarray, padding: str, batch: int) -> np.ndarray:
    """PASS float32 [N] of pairs of uint8 images [N, H, W, C], `batch` pairs at a time; the last ones filled up."""
    parts = [np.zeros(0, np.float32)]
    for start in range(0, len(perturbed), batch):
        rows = np.arange(start, min(start + batch, len(perturbed)))
        filled = np.resize(rows, batch)
        scores = _pass(to_float(perturbed[filled]), to_float(original[filled]), padding)
        parts.append(np.asarray(scores)[: len(rows)])
    return np.concatenate(parts)


@partial(jax.jit, static_argnums=2)
def _pass(perturbed: jax.Array, original: jax.Array, padding: str) -> jax.Array:
    return pass_score(perturbed, original, padding=padding).score  # type: ignore[arg-type]
