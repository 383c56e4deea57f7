"""Stage "attack": FGS, FGV and HC-1 ... HC-20 on the chosen photographs, scored by PASS; what is similar is kept."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from advjax.attacks import Perturbation, fgs, fgv, hot_cold, perturb
from advjax.classifier import Classifier
from advjax.data import ImageSet, to_float
from advjax.scores import pass_scores
from experiments.hard_positives.imagenet.config import Config
from experiments.hard_positives.imagenet.network import crop_of
from experiments.store import Arrays, Store

__all__ = ["COMPARED", "attack_all", "attack_photographs", "read_kept", "read_records", "stages", "types"]

# Attacks that are only compared with, in the order of the paper's Fig. 3; no hard positive is made by them.
COMPARED: dict[str, Any] = {"FGS": fgs(), "FGV": fgv()}
_RECORDS = ("kind", "source", "success", "prediction", "score", "l2", "linf")


def types(config: Config) -> tuple[str, ...]:
    """The names of all types, in the order of their numbers in the stages."""
    return (*COMPARED, *(f"HC-{rank}" for rank in range(1, config.ranks + 1)))


def stages(config: Config, chosen: Arrays) -> list[str]:
    """The stages of the attack, one for each batch of photographs."""
    return [f"attack/{number:05d}" for number in range(-(-len(chosen["row"]) // config.attack_batch))]


def attack_all(config: Config, store: Store, images: ImageSet, chosen: Arrays, classifier: Classifier) -> None:
    """Attacks the chosen photographs, batch by batch."""
    names = stages(config, chosen)
    title = f"attack {len(chosen['row'])} photographs in {len(types(config))} ways"
    for number, name in enumerate(tqdm(names, desc=title, unit="batch", disable=all(map(store.done, names)) or None)):
        batch = range(number * config.attack_batch, min((number + 1) * config.attack_batch, len(chosen["row"])))
        store.ensure(name, partial(attack_photographs, config, images, chosen, classifier, np.array(batch)))


def attack_photographs(
    config: Config, images: ImageSet, chosen: Arrays, classifier: Classifier, batch: np.ndarray
) -> Arrays:
    """All attacks on the chosen photographs number `batch`, at most `attack_batch` many.

    Returns:
        For each pair of photograph and type: kind int32, the type's number; source int32, the photograph's; success
        bool; prediction int32; score float32, PASS; l2 (per pixel) and linf float32, in grey levels. For each hard
        positive kept: image uint8 [n, H, W, 3]; record int32 [n], its place among the pairs. Of photograph 0, that of
        Fig. 3, likewise: shown and shown_record.
    """
    pixels = images.take(chosen["row"][batch]).in_memory(crop_of(config)).images
    filled = np.resize(np.arange(len(batch)), config.attack_batch)
    clean, labels = to_float(pixels[filled]), jnp.asarray(chosen["label"][batch][filled])
    compared = COMPARED if batch[0] < config.compared else {}
    parts = [
        _columns(perturb(attack, classifier, clean, labels), kind, batch, None)
        for kind, attack in enumerate(compared.values())
    ]
    hot = perturb(hot_cold(ranks=range(1, config.ranks + 1), cold=config.cold), classifier, clean, labels)
    parts += [_columns(hot, len(COMPARED) + member, batch, member) for member in range(config.ranks)]
    pairs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    perturbed = pairs.pop("image")
    pairs["score"] = _scores(perturbed, np.tile(pixels, (len(parts), 1, 1, 1)), config.attack_batch)
    kept = pairs["success"] & (pairs["score"] > config.threshold) & (pairs["kind"] >= len(COMPARED))
    record, shown = np.flatnonzero(kept), np.flatnonzero(pairs["source"] == 0)
    return {
        **pairs,
        "image": perturbed[record],
        "record": record.astype(np.int32),
        "shown": perturbed[shown],
        "shown_record": shown.astype(np.int32),
    }


def read_records(store: Store, names: list[str]) -> Arrays:
    """What became of every pair of photograph and type, of all stages."""
    parts = [store.read(name, *_RECORDS) for name in names]
    return {name: np.concatenate([part[name] for part in parts]) for name in _RECORDS}


def read_kept(store: Store, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hard positives of all stages: images uint8 [M, H, W, 3], and the photograph that each was made of."""
    parts = [store.read(name, "image", "record", "source") for name in names]
    sources = [part["source"][part["record"]] for part in parts]
    return np.concatenate([part["image"] for part in parts]), np.concatenate(sources)


def _columns(result: Perturbation, kind: int, batch: np.ndarray, member: int | None) -> Arrays:
    """One type's pairs; `member` is its place in a stack of attacks."""
    rows: Any = slice(len(batch)) if member is None else (member, slice(len(batch)))
    pixels = np.prod(result.image.shape[-3:])
    return {
        "image": dataclasses.replace(result, image=result.image[rows]).to_uint8(),
        "kind": np.full(len(batch), kind, np.int32),
        "source": batch.astype(np.int32),
        "success": np.asarray(result.success)[rows],
        "prediction": np.asarray(result.prediction)[rows],
        "l2": np.asarray(result.l2)[rows] * np.float32(255 / np.sqrt(pixels)),
        "linf": np.asarray(result.linf)[rows] * np.float32(255),
    }


def _scores(perturbed: np.ndarray, originals: np.ndarray, batch: int) -> np.ndarray:
    """PASS float32 [N] of pairs of uint8 images."""
    blocks = (
        (np.asarray(to_float(perturbed[i : i + batch])), np.asarray(to_float(originals[i : i + batch])))
        for i in range(0, len(perturbed), batch)
    )
    return np.concatenate([np.asarray(result.score) for result in pass_scores(blocks)])
