"""Algorithm 1 of the paper: at each step the batch is moved by eq. 11, and the network learns from that alone."""

import dataclasses
import json
import pathlib

import numpy as np

from advjax.attacks import steepest
from advjax.training import Resident, Trainer, stack, train_step, unstack
from experiments.robust_optimization.config import Config, Part
from experiments.robust_optimization.networks import fresh, optimizer_of, steps_per_epoch
from experiments.robust_optimization.preprocess import Images
from experiments.states import key_of, weights
from experiments.store import Arrays

__all__ = ["train_network"]


def train_network(config: Config, part: Part, name: str, train: Images, test: Images, folder: pathlib.Path) -> Arrays:
    """Trains the baseline, or the robust network of the norm `name`, for all epochs; goes on from `folder`.

    The test set is asked after each epoch, for Fig. 5 alone: nothing is chosen by it, and the weights are those after
    the last epoch.

    Returns:
        the weights; loss and accuracy float32 [epochs], of the images as they were trained on; epoch_test float32
        [epochs], accuracy on the test set, standardised by the training set's statistics.
    """
    attack = None
    if name != "baseline":
        attack = steepest(name, part.radius(name) * train.std, levels=None, box=False)  # type: ignore[arg-type]
    per_epoch = steps_per_epoch(part, train)
    step = train_step(optimizer_of(part, train), attack=attack, attack_mode=part.attack_mode)
    trainer = Trainer(step, batch_size=part.batch_size, block=per_epoch)
    fitted = trainer.fit(
        stack([fresh(part, name, train, config.seed)]),
        Resident(train.images, train.labels, shuffle=part.shuffle),
        part.epochs * per_epoch,
        key_of(config.seed, part.data, "order"),
        folder=folder,
        every=per_epoch,
        config=json.loads(json.dumps(dataclasses.asdict(part))),
        # For the curve of Fig. 5 alone, as the paper draws it: every network trains to the last epoch, and its last
        # weights are the ones judged. Nothing is chosen by this.
        validation=(test.images, test.labels),
        progress=f"{part.data}, {name}",
    )
    (state,) = unstack(fitted.states)
    return {
        **weights(state),
        "loss": np.asarray(fitted.loss[0]),
        "accuracy": np.asarray(fitted.accuracy[0]),
        "epoch_test": fitted.history.column("validation_accuracy", 1)[0],
    }
