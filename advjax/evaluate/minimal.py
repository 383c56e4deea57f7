"""The smallest epsilon that fools a model, image by image, by bisection."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from advjax.attacks.attack import Attack, check_count, check_single
from advjax.attacks.checks import check_inputs
from advjax.attacks.perturb import perturb_in_silence
from advjax.attacks.perturbation import Perturbation
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batch, Batches, Data, make_batches
from advjax.evaluate.checks import check_key, check_models
from advjax.evaluate.findings import model_bits, naming, warn_of_models
from advjax.evaluate.intervals import Accuracy, accuracy_of
from advjax.evaluate.stream import progress_bar
from advjax.value import batch_axes

__all__ = ["MinimalEpsilon", "minimal_epsilon"]


@dataclasses.dataclass(frozen=True, eq=False)
class MinimalEpsilon:
    """The brackets that the bisection ended with.

    Attributes:
      epsilon: float32 [N], the smallest epsilon tried at which the attack succeeded: an upper bound of the minimal
        one. 0 where the clean image is answered wrongly, infinity where the attack failed even at `maximum` (as a
        targeted one does where the label is the target).
      failed: float32 [N], the largest epsilon below it at which the attack failed.
      maximum: the largest epsilon tried.
    """

    epsilon: np.ndarray
    failed: np.ndarray
    maximum: float

    @property
    def median(self) -> float:
        """Median over all images; infinity if half of them were never fooled."""
        return float(np.quantile(self.epsilon, 0.5, method="higher"))

    def accuracy(self, epsilon: float) -> Accuracy:
        """Share of the images that no attack of this size or less was found to fool.

        Raises:
          ValueError: `epsilon` is negative or beyond `maximum`, where nothing was tried.
        """
        if not 0 <= epsilon <= self.maximum:
            raise ValueError(f"epsilon must be from 0 to {self.maximum}, the largest one tried, got {epsilon}")
        return accuracy_of(self.epsilon > np.float32(epsilon))


def minimal_epsilon(
    classifier: Classifier,
    make_attack: Callable[[np.ndarray], Attack],
    data: Data,
    *,
    maximum: float,
    key: jax.Array,
    steps: int = 12,
    batch_size: int = 256,
    progress: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> MinimalEpsilon:
    """Bisects [0, maximum] for each image: s rounds leave a bracket of maximum / 2^s.

    Each image has its own epsilon, a number of the attack like any other, so that all rounds and batches are one
    compiled program. The image's random draws are the same in every round. An attack of many steps need not succeed
    at every larger epsilon; then the bracket holds one of several boundaries. A model that draws random numbers is
    judged at the one draw that the attack sees, which a warning says.

    Args:
      classifier: the model.
      make_attack: epsilons float32 [B] -> attack with these epsilons for B images, `fgs` or
        `lambda e: pgd(e, step_size=e / 4, steps=10)`. `levels=None` measures finer than a gray level.
      data, key, batch_size, progress, devices: as for `evaluate`.
      maximum: the largest epsilon tried, above 0, in the units of the attack.
      steps: halvings.

    Raises:
      TypeError, ValueError: an argument is not as above; the message names it.

    Example:
      >>> import jax, numpy as np
      >>> from advjax import fgs, from_function
      >>> from advjax.evaluate import minimal_epsilon
      >>> def model(weights, images):
      ...     return (images - 0.5).reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(model, np.float32([[1, -1]] * 4))
      >>> data = np.full((1, 2, 2, 1), 204, np.uint8), np.zeros(1, np.int32)
      >>> exactly = lambda epsilon: fgs(epsilon, levels=None)
      >>> found = minimal_epsilon(classifier, exactly, data, maximum=1.0, key=jax.random.key(0))
      >>> round(float(found.epsilon[0]), 3)
      0.3
    """
    batches = make_batches(data, batch_size, devices)
    check_key(key)
    check_count("steps", steps)
    if not 0 < maximum < np.inf:
        raise ValueError(f"maximum must be a finite number above 0, got {maximum}")
    check_models({"model": classifier}, batches)
    _check_make_attack(make_attack, classifier, batches, key)
    model = jax.device_put(classifier, batches.everywhere)
    with progress_bar(progress, len(batches.labels)) as advance:
        parts = []
        for index in range(len(batches)):
            batch = batches[index]
            keys = batches.keys(jax.random.fold_in(key, 0), batch.rows)
            with naming("make_attack"):
                parts.append(_bisect(make_attack, model, batch, keys, float(maximum), steps))
            advance(batch.valid)
    epsilon, failed, faults = (np.concatenate(part) for part in zip(*parts, strict=True))
    warn_of_models({"classifier": model_bits(faults)}, "its answers are those of this draw", stacklevel=2)
    return MinimalEpsilon(epsilon, failed, float(maximum))


def _bisect(
    make_attack: Callable[[np.ndarray], Attack],
    model: Classifier,
    batch: Batch,
    keys: jax.Array,
    maximum: float,
    steps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Upper and lower ends of the brackets of one batch, and faults, without its padding."""

    def attacked(epsilon: np.ndarray) -> Perturbation:
        return perturb_in_silence(make_attack(epsilon), model, batch.images, batch.labels, keys)

    low, high = np.zeros(len(batch.rows), np.float32), np.full(len(batch.rows), maximum, np.float32)
    at_maximum = attacked(high)
    right = np.asarray(at_maximum.clean_prediction == at_maximum.label)
    fooled = np.asarray(at_maximum.success)
    for _ in range(steps):
        middle = (low + high) / 2
        hit = np.asarray(attacked(middle).success)
        low, high = np.where(hit, low, middle), np.where(hit, middle, high)
    epsilon = np.where(fooled, high, np.float32(np.inf))
    epsilon, failed = np.where(right, epsilon, 0), np.where(fooled, low, np.float32(maximum))
    found = epsilon, np.where(right, failed, 0), np.asarray(at_maximum.faults)
    return tuple(array[: batch.valid] for array in found)  # type: ignore[return-value]


def _check_make_attack(make_attack: Any, classifier: Classifier, batches: Batches, key: jax.Array) -> None:
    wanted = "make_attack must be a function from epsilons [B] to an attack that holds them"
    if not callable(make_attack):
        raise TypeError(f"{wanted}, got {make_attack!r}")
    batch = batches[0]
    with naming("make_attack"):
        attack = make_attack(np.ones(batches.padded, np.float32))
        check_inputs(attack, classifier, batch.images, batch.labels, batches.keys(key, batch.rows))
        check_single(attack)
    if 0 not in batch_axes(attack, batches.padded):
        raise ValueError(f"{wanted}, got one in which no number is given per image: {attack!r}")
