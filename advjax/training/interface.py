"""What the training loop and a step know of one another: a batch, sums over its images, and the step itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.data.transforms import to_float
from advjax.training.faults import DataError, Faults, told
from advjax.training.state import TrainState

__all__ = ["Batch", "Metrics", "TrainingStep", "pixels_of"]


class Batch(NamedTuple):
    """Images uint8 (k stands for k/255) or float32 in [0, 1], [B, H, W, C], and labels int32 [B]."""

    image: jax.Array
    label: jax.Array


class Metrics(NamedTuple):
    """Sums over images, to be divided by `examples` once at the end; they add up over steps and devices.

    Attributes:
        loss: of the objective.
        correct: right answers.
        examples: images.
        faults: images and labels that should not have been trained on. Compiled code cannot raise: ask `check`.
        also: further sums over images by name, those that the step names in its own `also`.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array
    faults: Faults = Faults()
    also: dict[str, jax.Array] = {}  # noqa: RUF012 (a tuple's default)

    def check(self) -> None:
        """Reads the faults on the host, of one step or of several, stacked or added up.

        Raises:
            DataError: there are some; the message says what is wrong with how many images, and what to do.

        >>> loss, correct, examples = jnp.float32([9.0, 2.0, 8.0])
        >>> Metrics(loss, correct, examples, Faults(unknown_label=jnp.float32(3.0))).check()
        Traceback (most recent call last):
        ...
        advjax.training.faults.DataError: 3 of 8 labels are no class of the network
        """
        if message := told(*jax.device_get((self.faults, self.examples))):
            raise DataError(message)


class TrainingStep(ABC):
    """One step of training, `(state, batch, key) -> (state, metrics)`, as `Trainer` repeats it.

    Attributes:
        optimizer: makes a state's `opt_state`, for `create`.
        also: the names in `Metrics.also`; their means over images stand in the history.
        lower_is_better: whether a lower accuracy in validation is a better one.
        axis_name: of the mapped axis over which devices share a batch; None: there is none.
    """

    optimizer: optax.GradientTransformation
    also: tuple[str, ...] = ()
    lower_is_better: bool = False
    axis_name: str | None = None

    @abstractmethod
    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """The state after one step on `batch`, and the metrics before it."""

    def doubt(self, row: Mapping[str, Any]) -> str | None:
        """What a row of the history says is wrong with the training, which `Trainer` warns of; None: nothing."""
        return None


def pixels_of(batch: Batch) -> jax.Array:
    """The images of a batch as floats.

    Raises:
        ValueError: images or labels of other types or shapes.

    >>> pixels_of(Batch(jnp.full((1, 1, 1, 1), 51, jnp.uint8), jnp.array([0]))).ravel().tolist()
    [0.20000000298023224]
    """
    images, labels = batch
    wanted = "batch.image must be uint8, or floats in [0, 1], [B, H, W, C]"
    if images.ndim != 4 or not (images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)):
        raise ValueError(f"{wanted}, got {images.dtype} of shape {images.shape}")
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"batch.label must be integers [{images.shape[0]}], one for each image, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    return to_float(images) if images.dtype == jnp.uint8 else images
