"""The run, read top to bottom: baseline and robust networks, the set A, what each network makes of it, report."""

import os
from functools import partial

from experiments.robust_optimization.adversaries import adversarial_set
from experiments.robust_optimization.config import Config, Part
from experiments.robust_optimization.judge import judge
from experiments.robust_optimization.networks import classifier_of
from experiments.robust_optimization.preprocess import Images, prepare
from experiments.robust_optimization.report import report, stage
from experiments.robust_optimization.train import train_network
from experiments.store import Store, open_store

__all__ = ["run"]


def run(config: Config, out: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> str:
    """Runs what the folder `out` does not hold yet, writes the report there and returns its summary.

    Raises:
        FileNotFoundError: a data set is not there; the message says how to prepare it.
        ValueError: `out` holds a run of another configuration, or a data set is too small for this one.
        OSError: `out` cannot be written to.
    """
    prepared = {part.data: prepare(part, data_dir) for part in config.parts}
    store = open_store(out, config)
    for part in config.parts:
        _run_part(config, part, store, *prepared[part.data])
    return report(config, store, {name: test for name, (_, test) in prepared.items()})


def _run_part(config: Config, part: Part, store: Store, train: Images, test: Images) -> None:
    for name in part.networks:
        store.ensure(
            stage(part, "train", name),
            partial(train_network, config, part, name, train, test, store.root / "checkpoints" / part.data / name),
        )
    classifiers = {
        name: classifier_of(part, name, store.read(stage(part, "train", name)), train, test) for name in part.networks
    }
    store.ensure(
        stage(part, "adversarial"),
        partial(adversarial_set, part, classifiers["baseline"], test, config.attack_batch),
    )
    found = store.read(stage(part, "adversarial"))
    for name, classifier in classifiers.items():
        store.ensure(stage(part, "judged", name), partial(judge, config, part, classifier, test, found))
