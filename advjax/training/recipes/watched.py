"""A step that asks on the way whether its network withstands a stronger attack than it trains on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks import Attack, perturb
from advjax.attacks.attack import check_single
from advjax.attacks.settings import check_count
from advjax.classifier import from_nnx
from advjax.keys import image_keys
from advjax.training.interface import Batch, Metrics, TrainingStep, pixels_of
from advjax.training.state import TrainState, to_model

__all__ = ["WatchedStep", "watched"]

# A draw of `fold_in` that no step makes: theirs are small numbers.
_WATCH = np.uint32(2**32 - 2)
# Below this share of the accuracy that it trains to, the watched one has collapsed: it goes to zero within an epoch.
_COLLAPSED = 0.2
# Below this accuracy the network is at its beginning, where few images withstand anything.
_LEARNED = 0.25


def watched(step: TrainingStep, attack: Attack, *, images: int = 2) -> "WatchedStep":
    """The same step, which also attacks the first `images` of each batch with `attack`, before the update.

    The share of right answers to them stands in the history as "watched". A network that was trained with one step of
    an attack can learn, within a few hundred steps, to answer that step alone (catastrophic overfitting): its accuracy
    in training goes up while that under any longer attack goes to zero. Where the watched accuracy of a block of steps
    is below a fifth of the accuracy in training, and that above 25 %, `Trainer` warns. Two of 128 images, attacked by
    ten steps, cost 8 % of a step that makes one gradient for an attack and one for the update.

    Args:
        step: any step.
        attack: the stronger one, `pgd(epsilon, step_size=epsilon / 4, steps=10)` say. It gets the batch's images
            as they are given, without the step's augmentation.
        images: how many of each batch (of each device's part, with an `axis_name`).

    Raises:
        ValueError: images is below 1; attack is a stack; the step is watched already.

    Source: Wong, Rice & Kolter 2020, "Fast is better than free", section 5.

    >>> from advjax import fgs, pgd
    >>> from advjax.training import train_step
    >>> step = train_step(optax.sgd(0.1), attack=fgs(0.1))
    >>> watched(step, pgd(0.1, step_size=0.025, steps=10)).also
    ('watched',)
    """
    check_count("images", images)
    check_single(attack)
    if "watched" in step.also:
        raise ValueError("step must not be watched already: the history has one column for it")
    return WatchedStep(
        step.optimizer, step, attack, images, (*step.also, "watched"), step.lower_is_better, step.axis_name
    )


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedStep(TrainingStep):
    """One step, `(state, batch, key) -> (state, metrics)`; made by `watched`, which explains it."""

    optimizer: optax.GradientTransformation
    step: TrainingStep
    attack: Attack
    images: int
    also: tuple[str, ...]
    lower_is_better: bool
    axis_name: str | None

    def doubt(self, row: Mapping[str, Any]) -> str | None:
        for network, (withstood, accuracy) in enumerate(zip(row["watched"], row["accuracy"], strict=True)):
            if accuracy > _LEARNED and withstood < _COLLAPSED * accuracy:
                return (
                    f"network {network} answers {accuracy:.0%} of the images that it trains on, but {withstood:.0%} of "
                    "those that the watching attack made: it may have overfitted to its own attack (catastrophic "
                    "overfitting), which a smaller step or an earlier stop prevents"
                )
        return self.step.doubt(row)

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        size = batch.label.shape[0]
        few = Batch(*(part[: self.images] for part in batch))
        count = few.label.shape[0]
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * size
        keys = image_keys(jax.random.fold_in(key, _WATCH), count, first)
        result = perturb(self.attack, from_nnx(to_model(state)), pixels_of(few), few.label, keys)
        right = jnp.sum(result.prediction == few.label, dtype=jnp.float32)
        if self.axis_name is not None:
            right = jax.lax.psum(right, self.axis_name)
        state, metrics = self.step(state, batch, key)
        # `also` holds sums over all images, whose mean this is to be.
        return state, metrics._replace(also={**metrics.also, "watched": right * (size / count)})
