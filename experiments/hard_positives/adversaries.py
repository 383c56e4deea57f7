"""Stage "attack": every type along every base network, on training sources and on held-out ones."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from advjax.attacks import perturb
from advjax.classifier import Classifier
from advjax.data import Dataset, to_float
from experiments.hard_positives.config import Config
from experiments.hard_positives.networks import key_of
from experiments.hard_positives.paper import ATTACKS, FIGURE_TYPES, HELD_OUT_TYPES, ROWS
from experiments.store import Arrays, Store

__all__ = ["Sources", "attack_all", "attack_images", "split_sources", "stage_name", "training_types"]


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """Which clean images are attacked for what.

    Attributes:
        train: int [n], indices into the training images, the same for every base.
        heldout: for each base its own sources of held-out images, indices into `heldout_from`; if that is the
            training split, none of them is in `train`.
        heldout_from: the data set that `heldout` points into.
    """

    train: np.ndarray
    heldout: list[np.ndarray]
    heldout_from: Dataset


def split_sources(config: Config, train: Dataset, test: Dataset) -> Sources:
    """Draws the sources of both sets by the seed.

    Raises:
        ValueError: more sources are asked for than there are images.
    """
    order = np.asarray(jax.random.permutation(key_of(config, "sources"), len(train.labels)))
    if config.heldout_source == "train":
        heldout_from, rest = train, order[config.train_sources :]
    else:
        heldout_from = test
        rest = np.asarray(jax.random.permutation(key_of(config, "held-out sources"), len(test.labels)))
    for name, wanted, there in [
        ("train_sources", config.train_sources, len(order)),
        ("heldout_sources", config.heldout_sources, len(rest)),
    ]:
        if wanted > there:
            raise ValueError(f"{name}={wanted} exceeds the {there} images that {config.data} has for it")
    rest = rest[: config.heldout_sources]
    heldout = [rest[base :: config.bases] for base in range(config.bases)]
    return Sources(order[: config.train_sources], heldout, heldout_from)


def training_types(config: Config) -> tuple[str, ...]:
    """The types attacked on training sources: those trained on, and those of the figures."""
    trained = [kind for row in (*config.rows, *config.unmixed_rows) for kind in ROWS[row].types]
    return tuple(kind for kind in ATTACKS if kind in {*trained, *FIGURE_TYPES})


def stage_name(split: str, base: int, kind: str) -> str:
    """Where the images of a type are stored; `split` is "train" or "heldout"."""
    return f"attack/{split}/{base}/{kind}"


def attack_all(config: Config, store: Store, classifiers: list[Classifier], train: Dataset, sources: Sources) -> None:
    """Attacks all sources by all types that the run needs."""
    for base, classifier in enumerate(classifiers):
        share, heldout_from = config.heldout_share(base), sources.heldout_from
        for split, kinds, data, rows, limit in [
            ("train", training_types(config), train, sources.train, config.cap_per_type),
            ("heldout", HELD_OUT_TYPES, heldout_from, sources.heldout[base], share),
        ]:
            attack = partial(attack_images, classifier, data, rows, limit=limit, batch=config.attack_batch)
            todo = {kind: stage_name(split, base, kind) for kind in kinds}
            todo = {kind: stage for kind, stage in todo.items() if not store.done(stage)}
            title = f"attack network {base}, {split} images"
            with tqdm(total=len(todo) * len(rows), desc=title, unit="img", disable=not todo or None) as bar:
                for number, (kind, stage) in enumerate(todo.items(), start=1):
                    bar.set_postfix_str(kind)
                    store.ensure(stage, partial(attack, ATTACKS[kind], advance=bar.update))
                    bar.update(number * len(rows) - bar.n)


def attack_images(
    classifier: Classifier,
    data: Dataset,
    rows: np.ndarray,
    attack: Any,
    *,
    limit: int,
    batch: int,
    advance: Callable[[int], Any] = lambda count: None,
) -> Arrays:
    """The first `limit` successes of `attack` on the images `data[rows]`, in that order.

    An image that the network gets wrong already is no success, whatever is done to it. The last batch is filled
    up with copies, so that all have one shape.

    Returns:
        image uint8 [n, H, W, C]; source int32 [n], its index in `data`; prediction int32 [n]; scale, l2 (per
        pixel) and linf float32 [n], in grey levels; attempted and succeeded int64 [], the numbers of correctly
        classified images tried and fooled.
    """
    parts: list[Arrays] = []
    counts = np.zeros(2, np.int64)
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        successes, attempted = _attack_batch(attack, classifier, data, chunk, batch)
        parts.append(successes)
        counts += attempted, len(successes["source"])
        advance(len(chunk))
        if counts[1] >= limit:
            break
    merged = {name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]}
    return {**merged, "attempted": counts[0], "succeeded": counts[1]}


def _attack_batch(
    attack: Any, classifier: Classifier, data: Dataset, rows: np.ndarray, batch: int
) -> tuple[Arrays, int]:
    """The successes on at most `batch` images, and how many of these the network got right."""
    filled = np.resize(rows, batch)
    labels = data.labels[filled]
    result = perturb(attack, classifier, to_float(data.images[filled]), jnp.asarray(labels))
    real = np.arange(batch) < len(rows)
    keep = np.asarray(result.success) & real
    pixels = np.prod(data.images.shape[1:])
    columns = {
        "image": result.to_uint8(),
        "source": filled.astype(np.int32),
        "prediction": np.asarray(result.prediction),
        "scale": np.asarray(result.scale) * np.float32(255),
        "l2": np.asarray(result.l2) * np.float32(255 / np.sqrt(pixels)),
        "linf": np.asarray(result.linf) * np.float32(255),
    }
    right = np.asarray(result.clean_prediction) == labels
    return {name: column[keep] for name, column in columns.items()}, int((right & real).sum())
