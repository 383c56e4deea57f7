"""What stacked networks say of many images, in evaluation mode: their classes, their loss and accuracy."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.data.pipeline import check_pixels
from advjax.data.rows import batches, filled
from advjax.data.transforms import to_float
from advjax.entropy import cross_entropies
from advjax.fastcpu import compiled
from advjax.training.faults import naming
from advjax.training.sharding import Placement, default_placement
from advjax.training.state import TrainState

__all__ = ["Score", "measure", "predict"]


class Score(NamedTuple):
    """The mean cross-entropy and the share of right answers of each of S networks, float32 [S]."""

    loss: np.ndarray
    accuracy: np.ndarray


def predict(
    states: TrainState, images: np.ndarray, *, batch_size: int = 500, placement: Placement | None = None
) -> np.ndarray:
    """The classes int32 [S, N] that S stacked networks give to images [N, H, W, C], in evaluation mode.

    The images, uint8 or float32 in [0, 1], are read in batches of one size, the last one filled up: one program for any
    N. With a placement of several devices the batches, filled up to a multiple of them, are divided over them.

    Raises:
        TypeError, ValueError: images of another type, or floats that are not in [0, 1].

    >>> import optax
    >>> from advjax.training import create, stack
    >>> network = nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    >>> predict(stack([create(network, optax.sgd(0.1))]), np.zeros((3, 2, 2, 1), np.uint8)).shape
    (1, 3)
    """
    labels = np.zeros(len(images), np.int32)
    parts = [classes for _, classes, *_ in _batches(states, images, labels, batch_size, placement)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((states.step.shape[0], 0), np.int32)


def measure(
    states: TrainState,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = 500,
    placement: Placement | None = None,
) -> Score:
    """The mean cross-entropy and accuracy of S stacked networks on images as for `predict` with labels int32 [N].

    Raises:
        TypeError, ValueError: images that are not as for `predict`, or labels that are no classes of the networks.

    >>> import optax
    >>> from advjax.training import create, stack
    >>> network = nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    >>> states = stack([create(network, optax.sgd(0.1))])
    >>> measure(states, np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32)).accuracy.tolist()
    [1.0]
    """
    if len(images) == 0:
        raise ValueError("images must hold at least one image to measure on, got none")
    seen = []
    for losses, classes, known, truth in _batches(states, images, labels, batch_size, placement):
        if truth.min() < 0 or truth.max() >= known:
            raise ValueError(
                f"labels must be classes of the networks, 0..{known - 1}, got values from "
                f"{truth.min()} to {truth.max()}"
            )
        seen.append((losses.sum(1, dtype=np.float64), (classes == truth[None]).sum(1)))
    loss, right = (np.sum(part, axis=0) / len(images) for part in zip(*seen, strict=True))
    return Score(loss.astype(np.float32), right.astype(np.float32))


def _batches(
    states: TrainState, images: np.ndarray, labels: np.ndarray, batch_size: int, placement: Placement | None
) -> Iterator[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
    """Of each batch: losses [S, B], classes [S, B], how many classes there are, labels [B]; one ahead of the reader."""
    wanted = "images must be uint8, or float32 in [0, 1], [N, H, W, C]"
    if images.dtype not in (np.uint8, np.float32) or images.ndim != 4:
        raise TypeError(f"{wanted}, got {images.dtype} of shape {images.shape}")
    images, labels = jax.device_get((images, labels))
    check_pixels(images, wanted)
    where = default_placement() if placement is None else placement
    parts = where.mesh.shape["data"]
    if len(images) != len(labels):
        raise ValueError(f"labels must hold one class for each of {len(images)} images, got {len(labels)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batch_size += -batch_size % parts  # so that the devices share each batch
    variables: Any = (states.params, states.rest)
    if states.step.sharding.device_set != set(where.mesh.devices.flat):
        variables = where.put(variables, where.of_states(variables))
    waiting: list[Any] = []
    for rows, real in batches(len(images), batch_size):
        rows = filled(rows, batch_size)
        image, label = (where.put(part[rows], where.of_batch(0, part.ndim)) for part in (images, labels))
        waiting.append((_answers(states.graphdef, where, variables[0], variables[1], image, label), rows[:real]))
        if len(waiting) > 1:
            yield _on_host(labels, *waiting.pop(0))
    if waiting:
        yield _on_host(labels, *waiting.pop(0))


def _on_host(
    labels: np.ndarray, answers: tuple[jax.Array, ...], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    losses, classes, known = jax.device_get(answers)
    return losses[:, : len(rows)], classes[:, : len(rows)], int(known[0]), labels[rows]


@functools.partial(compiled, static_argnums=(0, 1))
def _answers(
    graphdef: Any, placement: Placement, params: Any, rest: Any, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    pixels = to_float(images) if images.dtype == jnp.uint8 else images
    pixels = placement.constrain(pixels, placement.of_batch(0, pixels.ndim))

    def one(params: Any, rest: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        params = placement.constrain(params, placement.replicated)  # see Trainer
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.eval()
        with naming(pixels):
            logits = model(pixels)
        answers = jnp.argmax(logits, -1).astype(jnp.int32)
        return cross_entropies(logits, labels), answers, jnp.int32(logits.shape[-1])

    # Whole on every device, so that every process can read them.
    return placement.constrain(placement.over_networks(one, params, rest), placement.replicated)
