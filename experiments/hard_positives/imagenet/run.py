"""The run on ImageNet, read top to bottom: network, photographs, attacks, fine-tuning, report."""

import os
from functools import partial

import optax

from advjax.classifier import Classifier, from_nnx
from advjax.data import ImageSet
from advjax.training import TrainState, create, to_model
from experiments.hard_positives.imagenet.attack import attack_all, read_kept, stages
from experiments.hard_positives.imagenet.config import Config
from experiments.hard_positives.imagenet.network import base_network, make, quick_solver
from experiments.hard_positives.imagenet.photographs import rightly_classified
from experiments.hard_positives.imagenet.report import report
from experiments.hard_positives.imagenet.train import finetune, judge
from experiments.states import restored
from experiments.store import Store, open_store

__all__ = ["run"]


def run(
    config: Config,
    images: ImageSet,
    validation: ImageSet | None,
    out: str | os.PathLike[str],
    checkpoint: str | None = None,
) -> str:
    """Runs what the folder `out` does not hold yet, writes the report there and returns its summary.

    Args:
        config: says everything but where the files are.
        images: the training photographs.
        validation: others, to judge by; None: random crops of the attacked ones.
        out: folder for results.
        checkpoint: file of the weights, if `config.weights` is its hash.

    Raises:
        ValueError: `out` holds a run of another configuration; there are too few classes, or none is right.
        WeightsError: the file is not one of the network's weights.
        OSError: `out` cannot be written to.
    """
    if len(images.classes) <= config.ranks:
        raise ValueError(f"ranks={config.ranks} needs more classes than the {len(images.classes)} of {images.name}")
    store = open_store(out, config, config.images)
    store.ensure("base", partial(base_network, config, images, checkpoint))
    base = _restored(config, images, store, "base")
    store.ensure("chosen", partial(rightly_classified, config, images, _classifier(base)))
    chosen = store.read("chosen")
    attack_all(config, store, images, chosen, _classifier(base))
    names = stages(config, chosen)
    positives, sources = read_kept(store, names)
    folder = store.root / "checkpoints"
    store.ensure("tuned", partial(finetune, config, base, images, chosen, positives, sources, folder))
    for name in ("base", "tuned"):
        network = _classifier(_restored(config, images, store, name))
        found = partial(judge, config, network, images, validation, chosen, positives, sources)
        store.ensure(f"judged/{name}", found)
    return report(config, store, images, chosen)


def _restored(config: Config, images: ImageSet, store: Store, name: str) -> TrainState:
    template = create(make(config, len(images.classes)), optax.identity())
    return create(to_model(restored(template, store.read(name))), quick_solver(config))


def _classifier(state: TrainState) -> Classifier:
    return from_nnx(to_model(state))
