"""Faults: what only the data could tell is wrong with images, labels or model; found inside the compiled program.

A compiled program cannot raise, so that it carries these flags out, one set for each image.  Whoever owns the program
reads them on the host: `perturb` raises or warns; in a `jit` of your own `Perturbation.check` does so afterwards.
"""

import warnings
from enum import IntFlag

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.constraints import Quantize
from advjax.attacks.part import Part, parts

__all__ = [
    "Fault",
    "add_bits",
    "count_faults",
    "image_faults",
    "model_faults",
    "model_texts",
    "raise_faults",
    "target_faults",
    "warn_faults",
]

# Images may leave [0, 1], and the levels of their grid, by float error, not by more.
_SLACK, _OFF_LEVEL = 1e-6, 1e-3


class Fault(IntFlag):
    """What is wrong with an image, its label or the model."""

    NONE = 0
    NOT_FINITE = 1
    """A pixel is NaN or infinite."""
    OUT_OF_RANGE = 2
    """A pixel is not in [0, 1]: the attack saw it clipped."""
    OFF_GRID = 4
    """A pixel is between the gray levels that the attack rounds to: the attack saw it rounded."""
    UNKNOWN_LABEL = 8
    """The label is no class of the model."""
    PROBABILITIES = 16
    """The model seems to return probabilities, not logits (set for every image)."""
    BATCH_DEPENDENT = 32
    """The model answers an image otherwise beside other images than alone (set for every image)."""
    RANDOM = 64
    """The model draws random numbers, of which the attack saw one fixed draw (set for every image)."""
    UNKNOWN_TARGET = 128
    """The target, or the rank, that the attack has for the image is no class of the model."""


# What is raised for, and what is only warned of.
_TEXTS = {
    Fault.NOT_FINITE: "images must be finite numbers in [0, 1], got NaN or infinity",
    Fault.OUT_OF_RANGE: "images must be finite numbers in [0, 1], got others, which were clipped (images that are "
    "normalized by mean and standard deviation belong inside the model)",
    Fault.OFF_GRID: "images must be on the grid of the attack's levels (k/255 by default), got values between the "
    "levels, which were rounded: round them before, or make the attack with levels=None",
    Fault.UNKNOWN_LABEL: "labels must be classes of the model, got others",
    Fault.UNKNOWN_TARGET: "targets must be classes of the model, and ranks fewer than those, got others",
}
_WARNINGS = {
    Fault.PROBABILITIES: "the classifier seems to return probabilities (non-negative, summing to 1): attacks need "
    "logits, what comes before the softmax, or their gradients vanish",
    Fault.BATCH_DEPENDENT: "the classifier answers an image otherwise beside other images than by itself, and looks "
    "robust where it may not be: probably BatchNorm in training mode, under a switch whose name is not known (pass it: "
    "from_nnx(model, name=False), from_linen(..., name=False)); or noise from a key that is no variable",
    Fault.RANDOM: "the classifier draws random numbers (noise or dropout that stays on in evaluation), and the attack "
    "saw one fixed draw: its successes hold for that draw, and others may be answered rightly; judge it with "
    "`evaluate`, which answers at fresh draws, and attack the mean over draws (`expectation_over`)",
}


def image_faults(attack: Part | None, images: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """The faults of each image and label as bits of `Fault`, int32 [B]; a pure function, for inside a `jit`.

    Args:
      attack: whose grid the images must be on; None asks for none.
      images: [B, H, W, C] floats, as given to `perturb`.
      labels: [B] integers.
      classes: how many the model has.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks import Fault, fgs, image_faults
      >>> images = jnp.stack([jnp.full((2, 2, 1), level) for level in (0.0, 2.0, 0.123)])
      >>> [Fault(int(bits)).name for bits in image_faults(fgs(), images, jnp.array([0, 0, 9]), 3)]
      ['NONE', 'OUT_OF_RANGE', 'OFF_GRID|UNKNOWN_LABEL']
    """
    axes = tuple(range(1, images.ndim))
    off_grid = jnp.zeros_like(labels, dtype=jnp.bool_)
    for part in () if attack is None else parts(attack):
        if isinstance(part, Quantize):
            off_level = jnp.abs(images - part.snap(images)) * float(part.levels - 1)
            off_grid = off_grid | jnp.any(off_level > _OFF_LEVEL, axis=axes)
    return add_bits(
        {
            Fault.NOT_FINITE: ~jnp.all(jnp.isfinite(images), axis=axes),
            Fault.OUT_OF_RANGE: jnp.any((images < -_SLACK) | (images > 1 + _SLACK), axis=axes),
            Fault.OFF_GRID: off_grid,
            Fault.UNKNOWN_LABEL: (labels < 0) | (labels >= classes),
        }
    )


def target_faults(attack: Part, classes: int) -> jax.Array:
    """The faults of an attack on one image, whose numbers are scalars: of its targets and ranks, an int32."""
    unknown = jnp.zeros((), jnp.bool_)
    for part in parts(attack):
        for number in part.asked_classes().values():
            unknown = unknown | (jnp.asarray(number) < 0) | (jnp.asarray(number) >= classes)
    return add_bits({Fault.UNKNOWN_TARGET: unknown})


def model_faults(logits: jax.Array) -> jax.Array:
    """The faults of the model that the clean logits [..., K] of a batch tell, an int32."""
    sums = jnp.abs(jnp.sum(logits, axis=-1) - 1.0) < 1e-3
    return add_bits({Fault.PROBABILITIES: jnp.all(logits >= 0) & jnp.all(sums)})


def add_bits(flags: dict[Fault, jax.Array]) -> jax.Array:
    """Flags by the fault that they are of, as bits of int32."""
    bits = [jnp.where(flag, jnp.int32(fault), jnp.int32(0)) for fault, flag in flags.items()]
    return jnp.sum(jnp.stack(bits), axis=0, dtype=jnp.int32)


def count_faults(faults: np.ndarray) -> list[str]:
    """How many images have each fault, `["2 OUT_OF_RANGE"]`; a model's own fault without a number."""
    named = []
    for fault in Fault:
        count = int(np.sum((faults & fault) != 0))
        if count:
            named.append(f"{count} {fault.name}" if fault in _TEXTS else str(fault.name))
    return named


def raise_faults(faults: np.ndarray) -> None:
    """Raises ValueError for faults of images and labels."""
    counts = {fault: int(np.sum((faults & fault) != 0)) for fault in _TEXTS}
    errors = [f"{_TEXTS[fault]} ({count} of {faults.size})" for fault, count in counts.items() if count]
    if errors:
        raise ValueError("; ".join(errors))


def warn_faults(faults: np.ndarray, stacklevel: int) -> None:
    """Warns of faults of the model."""
    for text in model_texts(Fault(int(np.bitwise_or.reduce(faults, axis=None, initial=0)))).values():
        warnings.warn(text, stacklevel=stacklevel + 1)


def model_texts(faults: Fault) -> dict[Fault, str]:
    """What is to be said of the model's faults among `faults`."""
    return {fault: text for fault, text in _WARNINGS.items() if fault & faults}
