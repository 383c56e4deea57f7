"""The run, read top to bottom: five models, each judged on natural images and under four attacks, report."""

import os
from functools import partial

from advjax.data import Dataset, load
from experiments.localized_training.config import MODELS, Config
from experiments.localized_training.judge import examples, judge, judge_strongly
from experiments.localized_training.report import report
from experiments.localized_training.train import classifier_of, train_model
from experiments.provenance import data_read
from experiments.store import open_store

__all__ = ["run"]


def run(config: Config, out: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> str:
    """Runs what the folder `out` does not hold yet, writes the report there and returns its summary.

    Raises:
        FileNotFoundError: the data set is not there; the message says how to prepare it.
        ValueError: `out` holds a run of another configuration or of other images; the data set is too small.
        OSError: `out` cannot be written to.
    """
    train, test = (load(config.data, split, data_dir=data_dir) for split in ("train", "test"))
    _check_sizes(config, train, test)
    store = open_store(out, config, data_read(train, test))
    for model in MODELS:
        folder = store.root / "checkpoints" / model
        store.ensure(f"train/{model}", partial(train_model, config, model, train, folder))
        classifier = classifier_of(config, store.read(f"train/{model}"))
        if model == "natural":
            store.ensure("examples", partial(examples, config, classifier, test))
        store.ensure(f"judged/{model}", partial(judge, config, classifier, test))
        if model in config.strong_models:
            store.ensure(f"strong/{model}", partial(judge_strongly, config, classifier, test))
    return report(config, store, train, test)


def _check_sizes(config: Config, train: Dataset, test: Dataset) -> None:
    if len(train.labels) - config.held_back < config.batch_size:
        raise ValueError(
            f"held_back={config.held_back} leaves less than a batch of the {len(train.labels)} training images of "
            f"{config.data}"
        )
    for name in ("test_images", "strong_images"):
        if getattr(config, name) > len(test.labels):
            raise ValueError(
                f"{name}={getattr(config, name)} exceeds the {len(test.labels)} test images of {config.data}"
            )
