"""All numbers of a run as a long table: stage, item, network, metric, value."""

import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.hard_positives.adversaries import stage_name, training_types
from experiments.hard_positives.config import Config
from experiments.hard_positives.paper import HELD_OUT_TYPES
from experiments.hard_positives.scoring import score_name
from experiments.store import Store

__all__ = ["Metric", "collect", "to_csv"]


class Metric(NamedTuple):
    """One number. `item` is a split and type, or a row; `network` counts bases, or fine-tuned networks of a row."""

    stage: str
    item: str
    network: int
    metric: str
    value: float


def collect(config: Config, store: Store, rows: list[str]) -> list[Metric]:
    """Every number that the stages of the run give."""
    return [*_of_attacks(config, store), *_of_rows(store, rows)]


def to_csv(metrics: list[Metric]) -> str:
    """A header line and one line for each metric.

    >>> print(to_csv([Metric("attack", "train/FGS", 0, "linf", 41.0)]).strip())
    stage,item,network,metric,value
    attack,train/FGS,0,linf,41
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Metric._fields)
    writer.writerows((*metric[:-1], f"{metric.value:.7g}") for metric in metrics)
    return text.getvalue()


def _of_attacks(config: Config, store: Store) -> Iterator[Metric]:
    for base in range(config.bases):
        for split, kinds in (("train", training_types(config)), ("heldout", HELD_OUT_TYPES)):
            for kind in kinds:
                names = ("attempted", "succeeded", "l2", "linf", "scale")
                stored = store.read(stage_name(split, base, kind), *names)
                scores = store.read(score_name(split, base, kind))
                values: dict[str, Any] = {
                    "attempted": stored["attempted"],
                    "succeeded": stored["succeeded"],
                    "success": stored["succeeded"] / np.maximum(stored["attempted"], 1),
                    "stored": len(stored["l2"]),
                    **_mean_and_std("l2_per_pixel", stored["l2"]),
                    **_mean_and_std("linf", stored["linf"]),
                    **_mean_and_std("pass_valid", scores["valid"]),
                    **_mean_and_std("pass_same", scores["same"]),
                }
                if len(stored["scale"]):
                    values["scale_median"] = np.median(stored["scale"])
                for name, value in values.items():
                    yield Metric("attack", f"{split}/{kind}", base, name, float(value))


def _mean_and_std(name: str, values: np.ndarray) -> dict[str, float]:
    """The mean and, of two or more, the sample standard deviation, as in the tables and figures."""
    mean = {name: values.mean()} if len(values) else {}
    return mean if len(values) < 2 else {**mean, f"{name}_std": values.std(ddof=1)}


def _of_rows(store: Store, rows: list[str]) -> Iterator[Metric]:
    for row in rows:
        stored = store.read(f"row/{row}")
        count = stored["adversarial_count"]
        for network, (clean, wrong) in enumerate(zip(stored["clean_wrong"], stored["adversarial_wrong"], strict=True)):
            yield Metric("row", row, network, "clean_error", clean / stored["clean_count"])
            yield Metric("row", row, network, "adversarial_error", wrong.sum() / count.sum())
            for kind, error in zip(HELD_OUT_TYPES, wrong / np.maximum(count, 1), strict=True):
                yield Metric("row", row, network, f"adversarial_error/{kind}", error)
        for name in ("amplitude", "misclassified_share"):
            for network, value in enumerate(np.atleast_1d(stored.get(name, []))):
                yield Metric("row", row, network, name, float(value))
