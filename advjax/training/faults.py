"""Images and labels that a training cannot take as they are: counted by its compiled program, told on the host."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks import Attack, Fault, image_faults
from advjax.attacks.constraints import Quantize
from advjax.command import ExplainedError
from advjax.data.transforms import to_float
from advjax.value import walk

__all__ = ["DataError", "Faults", "faults_of", "naming", "told"]


class DataError(ExplainedError, ValueError):
    """Images or labels that cannot be trained on; the message says what is wrong with how many, and what to do."""


class Faults(NamedTuple):
    """How many images of a batch are not what a training takes, by what is wrong; sums, which add up like `Metrics`.

    Attributes:
        not_finite: images that hold NaN or infinity.
        out_of_range: others that leave [0, 1]. An attack would clip them in silence.
        off_grid: others between the levels of the attack's `Quantize`. It would round them in silence.
        unknown_label: labels that are no class of the network.
    """

    not_finite: jax.Array | float = 0.0
    out_of_range: jax.Array | float = 0.0
    off_grid: jax.Array | float = 0.0
    unknown_label: jax.Array | float = 0.0


# What is wrong with them, and what to do.
_TEXTS = (
    "images hold NaN or infinity: look for what makes them, in the data or its transform",
    "images leave [0, 1]: give pixels as uint8, or as float32 in [0, 1] (0..255 divided by 255); what a network is to "
    "see otherwise, such as a difference from a mean, it computes inside itself",
    "images lie between the levels that the attack rounds to: round them to k/255 or give uint8, or make the attack "
    "with levels=None",
    "labels are no class of the network",
)


def faults_of(attack: Attack | None, images: jax.Array, labels: jax.Array, classes: int) -> Faults:
    """The faults of a batch, float32 [] each; for inside a `jit`.

    Args:
        attack: whose levels the images must have; None asks for none.
        images: uint8 or floats [B, H, W, C].
        labels: integers [B].
        classes: how many the network has.

    >>> images = jnp.stack([jnp.full((2, 2, 1), x) for x in (0.2, -1.5, jnp.nan)])
    >>> faults_of(None, images, jnp.array([0, 1, 7]), classes=3)._asdict()
    {'not_finite': Array(1., ...), 'out_of_range': Array(1., ...), 'off_grid': Array(0., ...), 'unknown_label': ...}
    """
    if images.dtype == jnp.uint8:
        unknown = _count((labels < 0) | (labels >= classes))
        if all((part.levels - 1) % 255 == 0 for part in walk(attack) if isinstance(part, Quantize)):
            return Faults(jnp.float32(0), jnp.float32(0), jnp.float32(0), unknown)
        images = to_float(images)
    bits = image_faults(attack, images, labels, classes)
    not_finite = (bits & Fault.NOT_FINITE) > 0
    out_of_range = (bits & Fault.OUT_OF_RANGE) > 0
    off_grid = (bits & Fault.OFF_GRID) > 0
    return Faults(
        _count(not_finite),
        # Each image counts once: what is out of range is hardly ever on a grid.
        _count(out_of_range & ~not_finite),
        _count(off_grid & ~out_of_range & ~not_finite),
        _count((bits & Fault.UNKNOWN_LABEL) > 0),
    )


@contextlib.contextmanager
def naming(images: jax.Array) -> Iterator[None]:
    """Raises what the network, or its framework, says of these images with their shape, while it is traced."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"the network or its loss cannot take images of shape [B, H, W, C] = {images.shape}: {error}"
        ) from error


def _count(flags: jax.Array) -> jax.Array:
    return jnp.sum(flags, dtype=jnp.float32)


def told(faults: Faults, examples: Any) -> str:
    """What is wrong with a batch of so many images, or with several, and what to do; "" where there are no faults.

    >>> told(Faults(unknown_label=2.0), 16)
    '2 of 16 labels are no class of the network'
    """
    found = [(int(np.sum(count)), text) for count, text in zip(faults, _TEXTS, strict=True)]
    return "; ".join(f"{count} of {int(np.sum(examples))} {text}" for count, text in found if count)
