"""The run, read top to bottom: base networks, attacks, scores, fine-tuning, report."""

import os
from functools import partial

from advjax.data import load
from experiments.hard_positives.adversaries import attack_all, split_sources
from experiments.hard_positives.config import Config
from experiments.hard_positives.finetune import finetune, jobs
from experiments.hard_positives.judge import judge, load_held_out
from experiments.hard_positives.networks import classifiers, restore, trainer
from experiments.hard_positives.paper import BASIC, INFIMNIST
from experiments.hard_positives.report import report
from experiments.hard_positives.scoring import score_all
from experiments.hard_positives.scratch import train_bases, train_infimnist
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
    sources = split_sources(config, train, test)
    store = open_store(out, config, data_read(train, test))
    one = trainer(config)

    store.ensure("base", partial(train_bases, config, one, train, test, store.root / "checkpoints" / "base"))
    bases = restore(config, store.read("base"))
    attack_all(config, store, classifiers(bases), train, sources)
    score_all(config, store, train, sources)
    held_out = load_held_out(config, store, sources.heldout_from, test)
    store.ensure(f"row/{BASIC}", partial(judge, bases, held_out))
    for job in jobs(config, store):
        store.ensure(f"row/{job.name}", partial(finetune, config, store, one, bases, job, train, held_out))
    if INFIMNIST in config.rows:
        folder = store.root / "checkpoints" / "infimnist"
        store.ensure(f"row/{INFIMNIST}", partial(train_infimnist, config, one, bases, train, held_out, folder))
    return report(config, store, train)
