"""The run, read top to bottom: baseline and robust networks, the set A, what each network makes of it, report."""

import os
from functools import partial

from advjax.classifier import Classifier
from experiments.robust_optimization.adversaries import adversarial_set, calibrated_radius
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
        ValueError: `out` holds a run of another configuration or of other images; a data set is too small.
        OSError: `out` cannot be written to.
    """
    prepared = {part.data: prepare(part, data_dir) for part in config.parts}
    store = open_store(out, config, "; ".join(test.read for _, test in prepared.values()))
    parts = [_run_part(config, part, store, *prepared[part.data]) for part in config.parts]
    return report(config, parts, store, {name: test for name, (_, test) in prepared.items()})


def _run_part(config: Config, part: Part, store: Store, train: Images, test: Images) -> Part:
    """Runs one data set, and returns it with the radii that were used."""
    classifiers: dict[str, Classifier] = {}
    for name in part.networks:
        folder = store.root / "checkpoints" / part.data / name
        store.ensure(stage(part, "train", name), partial(train_network, config, part, name, train, test, folder))
        classifiers[name] = classifier_of(part, name, store.read(stage(part, "train", name)), train, test)
        if name == "baseline" and part.set_size:
            baseline, batch = classifiers[name], config.attack_batch
            store.ensure(stage(part, "radius"), partial(calibrated_radius, part, baseline, test, batch))
            part = part.with_linf(float(store.read(stage(part, "radius"), "radius")["radius"]))
    store.ensure(
        stage(part, "adversarial"),
        partial(adversarial_set, part, classifiers["baseline"], test, config.attack_batch),
    )
    found = store.read(stage(part, "adversarial"))
    for name, classifier in classifiers.items():
        store.ensure(stage(part, "judged", name), partial(judge, config, part, classifier, test, found))
    return part
