"""Checks of what a user hands to `perturb`: static facts before the program, facts about the data after it."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Stack
from advjax.attacks.constraints import Quantise
from advjax.classifier import Classifier
from advjax.value import batch_axes, walk

__all__ = ["Flags", "check_flags", "check_inputs", "flag_inputs", "on_host"]

# Images may leave [0, 1] by float error, not by more.
_SLACK = 1e-6


class Flags(NamedTuple):
    """Facts about the data, computed inside the program and read once after it."""

    finite: jax.Array
    smallest: jax.Array
    largest: jax.Array
    off_grid: jax.Array
    smallest_label: jax.Array
    largest_label: jax.Array
    probabilities: jax.Array
    classes: jax.Array


def check_inputs(attack: Any, classifier: Any, images: Any, labels: Any, key: Any) -> jax.Array:
    """Raises for what types and shapes can tell; returns the key, or keys, to use."""
    if not hasattr(attack, "step") and not isinstance(attack, Stack):
        raise TypeError(f"attack must be an attack such as fgs() or a stack of them, got {attack!r}")
    if not isinstance(classifier, Classifier):
        raise TypeError(
            f"classifier must be a Classifier (make one with from_nnx, from_linen or from_function), "
            f"got {type(classifier).__name__}"
        )
    _check_images(images)
    _check_labels(labels, images.shape[0])
    extra = int(isinstance(attack, Stack))
    axes = batch_axes(attack.attack if extra else attack, images.shape[0], extra=extra)
    if len(axes) != len(jax.tree.leaves(attack)):
        raise TypeError(
            "attack must be made of values: each number a number() field of a class made by @value, each function a "
            f"static() one (see CONTRIBUTING), got {attack!r}"
        )
    for part in walk(attack):
        if hasattr(part, "check_image_shape"):
            part.check_image_shape(images.shape[1:])
    return _check_key(attack, key, images.shape[0])


def _check_images(images: Any) -> None:
    wanted = "images must be a float32 array [B, H, W, C] with values in [0, 1]"
    if not isinstance(images, jax.Array | np.ndarray):
        raise TypeError(f"{wanted}, got {type(images).__name__}")
    if images.dtype == np.uint8:
        raise TypeError(f"{wanted}, got uint8: divide by 255 first (advjax.data.to_float)")
    if images.dtype not in (np.float32, np.float64):
        raise TypeError(f"{wanted}, got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"{wanted}, got shape {images.shape}" + (": add a batch axis" if images.ndim == 3 else ""))
    if images.size == 0:
        raise ValueError(f"{wanted}, got an empty batch of shape {images.shape}")
    if images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 4:
        raise ValueError(f"{wanted}, got shape {images.shape}, which looks like NCHW: transpose to NHWC")


def _check_labels(labels: Any, batch: int) -> None:
    wanted = f"labels must be an integer array of shape [{batch}], one class for each image"
    if not isinstance(labels, jax.Array | np.ndarray):
        raise TypeError(f"{wanted}, got {type(labels).__name__}")
    if labels.ndim == 2:
        raise ValueError(f"{wanted}, got shape {labels.shape}, which looks one-hot: use labels.argmax(-1)")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{wanted}, got {labels.dtype}")
    if labels.shape != (batch,):
        raise ValueError(f"{wanted}, got shape {labels.shape}")


def _check_key(attack: Any, key: Any, batch: int) -> jax.Array:
    wanted = f"key must be jax.random.key(seed), or an array of {batch} such keys"
    random = any(getattr(part, "random", False) for part in walk(attack))
    if key is None:
        if random:
            raise ValueError(f"{wanted}: this attack draws random numbers, got None")
        return jax.random.key(0, impl="threefry2x32")  # no draw depends on it
    if not isinstance(key, jax.Array):
        raise TypeError(f"{wanted}, got {type(key).__name__}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{wanted}, got {key.dtype}{list(key.shape)}, the old kind: use jax.random.key")
    if key.shape not in ((), (batch,)):
        raise ValueError(f"{wanted}, got shape {key.shape}")
    if random and str(jax.random.key_impl(key)) != "threefry2x32":
        # Under vmap the others draw from one key for the whole batch.
        raise ValueError(f"{wanted}, of the implementation threefry2x32, got {jax.random.key_impl(key)}")
    return key


def flag_inputs(attack: Any, images: jax.Array, labels: jax.Array, logits: jax.Array) -> Flags:
    """The facts about a batch; logits [..., B, K] are those of the clean images."""
    off_grid = jnp.zeros((), images.dtype)
    for part in walk(attack):
        if isinstance(part, Quantise):
            off_grid = jnp.maximum(off_grid, jnp.max(jnp.abs(images - part.snap(images))) * float(part.levels - 1))
    total = jnp.sum(logits, axis=-1)
    probabilities = jnp.all(logits >= 0) & jnp.all(jnp.abs(total - 1.0) < 1e-3)
    return Flags(
        finite=jnp.all(jnp.isfinite(images)),
        smallest=jnp.min(images),
        largest=jnp.max(images),
        off_grid=off_grid,
        smallest_label=jnp.min(labels),
        largest_label=jnp.max(labels),
        probabilities=probabilities,
        classes=jnp.int32(logits.shape[-1]),
    )


def on_host(flags: Flags) -> bool:
    """Whether the flags have values: not so while an outer function is being traced."""
    return not any(isinstance(flag, jax.core.Tracer) for flag in flags)


def check_flags(attack: Any, flags: Flags) -> None:
    """Raises for what only the data could tell; warns of a model that returns probabilities."""
    known = jax.device_get(flags)
    wanted = "images must be finite numbers in [0, 1]"
    if not known.finite:
        raise ValueError(f"{wanted}, got NaN or infinity")
    if known.smallest < -_SLACK or known.largest > 1 + _SLACK:
        hint = ": divide by 255 first" if known.largest > 2 else ""
        raise ValueError(f"{wanted}, got values from {known.smallest:g} to {known.largest:g}{hint}")
    if known.off_grid > 1e-3:
        levels = max(part.levels for part in walk(attack) if isinstance(part, Quantise))
        raise ValueError(
            f"images must be on the grid k/{levels - 1} for an attack with levels={levels}, got values between the "
            f"levels: round them (jnp.round(images * {levels - 1}) / {levels - 1}) or make the attack with levels=None"
        )
    classes = int(known.classes)
    if known.smallest_label < 0 or known.largest_label >= classes:
        raise ValueError(
            f"labels must be classes from 0 to {classes - 1}, got values from "
            f"{known.smallest_label} to {known.largest_label}"
        )
    for part in walk(attack):
        # An attack that is mapped over has no values to read.
        mapped = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(part))
        if hasattr(part, "check_classes") and not mapped:
            part.check_classes(classes)
    if known.probabilities:
        warnings.warn(
            "the classifier seems to return probabilities (non-negative, summing to 1): attacks need logits, what "
            "comes before the softmax, or their gradients vanish",
            stacklevel=3,
        )
