"""Checks of what a user hands to `perturb`: static facts before the program, facts about the data after it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Stack
from advjax.attacks.constraints import Quantize
from advjax.attacks.faults import Fault, add_bits
from advjax.attacks.part import Part, parts
from advjax.classifier import Classifier
from advjax.value import batch_axes, walk

__all__ = [
    "Facts",
    "check_asked",
    "check_classifier",
    "check_facts",
    "check_images",
    "check_inputs",
    "check_logits",
    "collect_facts",
    "on_host",
]


class Facts(NamedTuple):
    """Facts about a whole batch, computed inside the program and read once after it; `faults` are those of any image.

    Numbers, not arrays over the images, so that each of several hosts has them.
    """

    faults: jax.Array
    smallest: jax.Array
    largest: jax.Array
    smallest_label: jax.Array
    largest_label: jax.Array
    classes: jax.Array


def check_inputs(attack: object, classifier: object, images: Any, labels: Any, key: Any) -> jax.Array:
    """Raises for what types and shapes can tell; returns the key, or keys, to use."""
    if not isinstance(attack, Attack | Stack):
        raise TypeError(
            "attack must be an attack such as fgs() or a stack of them (a class of your own derives from "
            f"advjax.attacks.Attack: see CONTRIBUTING), got {attack!r}"
        )
    check_classifier(classifier)
    check_images(images, labels)
    _check_labels(labels, images.shape[0])
    one, extra = (attack.attack, 1) if isinstance(attack, Stack) else (attack, 0)
    axes = batch_axes(one, images.shape[0], extra=extra)
    if len(axes) != len(jax.tree.leaves(attack)):
        raise TypeError(
            "attack must be made of values: each number a number() field of a class made by @value, each function a "
            f"static() one (see CONTRIBUTING), got {attack!r}"
        )
    for part in walk(attack):
        if not isinstance(part, Part):
            raise TypeError(
                "attack must be made of parts: a class of your own derives from its kind in advjax.attacks, Objective, "
                f"Direction, Search, Constraint, ... (see CONTRIBUTING), got {part!r}"
            )
        part.check_image_shape(images.shape[1:])
    return _check_key(attack, key, images.shape[0])


def check_classifier(classifier: object) -> None:
    """Raises TypeError unless it is a `Classifier`."""
    if not isinstance(classifier, Classifier):
        raise TypeError(
            f"classifier must be a Classifier (make one with from_nnx, from_linen or from_function), "
            f"got {type(classifier).__name__}"
        )


def check_logits(classifier: Classifier, image: jax.Array) -> None:
    """Raises ValueError unless the classifier gives an image [H, W, C] logits, by tracing alone."""
    batch = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    try:
        logits = jax.eval_shape(classifier, batch)
    except Exception as error:  # whatever the model, or its framework, says of images that it does not take
        raise ValueError(f"the classifier cannot take images of shape [B, H, W, C] = {batch.shape}: {error}") from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        got = type(logits).__name__ if shape is None else shape
        raise ValueError(
            f"the classifier must return logits of shape [B, K] with K >= 2 classes, got {got} for a batch of 1"
        )


def check_images(images: Any, labels: Any = None) -> None:
    """Raises unless they are float images [B, H, W, C], as far as type and shape can tell."""
    wanted = "images must be a float32 array [B, H, W, C] with values in [0, 1]"
    if not isinstance(images, jax.Array | np.ndarray):
        raise TypeError(f"{wanted}, got {type(images).__name__}")
    if images.dtype == np.uint8:
        raise TypeError(f"{wanted}, got uint8: divide by 255 first (advjax.data.to_float)")
    if images.dtype not in (np.float32, np.float64):
        raise TypeError(f"{wanted}, got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"{wanted}, got shape {images.shape}{_missing_axis(images.shape, labels)}")
    if images.size == 0:
        raise ValueError(f"{wanted}, got an empty batch of shape {images.shape}")
    if images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 4:
        raise ValueError(f"{wanted}, got shape {images.shape}, which looks like NCHW: transpose to NHWC")


def _missing_axis(shape: tuple[int, ...], labels: Any) -> str:
    """What images of three axes lack, going by the number of labels and by what looks like channels."""
    if len(shape) != 3:
        return ""
    one_each = getattr(labels, "shape", ())[:1] == shape[:1]
    if not one_each and shape[0] in (1, 3) and shape[1] == shape[2] > 4:
        return ", which looks like one image CHW: use images.transpose(1, 2, 0)[None]"
    if one_each or shape[-1] not in (1, 3, 4):
        return ": add the channel axis (images[..., None])"
    return ": add a batch axis (images[None])"


def _check_labels(labels: Any, batch: int) -> None:
    wanted = f"labels must be an integer array of shape [{batch}], one class for each image"
    if not isinstance(labels, jax.Array | np.ndarray):
        raise TypeError(f"{wanted}, got {type(labels).__name__}")
    if labels.ndim == 2 and labels.shape in ((batch, 1), (1, batch)):
        axis = -1 if labels.shape == (batch, 1) else 0
        raise ValueError(f"{wanted}, got shape {labels.shape}: use labels.squeeze({axis})")
    if labels.ndim == 2 and labels.shape[0] == batch:
        raise ValueError(f"{wanted}, got shape {labels.shape}, which looks one-hot: use labels.argmax(-1)")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{wanted}, got {labels.dtype}")
    if labels.shape != (batch,):
        raise ValueError(f"{wanted}, got shape {labels.shape}")


def _check_key(attack: Part, key: Any, batch: int) -> jax.Array:
    wanted = f"key must be jax.random.key(seed), or an array of {batch} such keys"
    random = any(part.random for part in parts(attack))
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


def collect_facts(faults: jax.Array, images: jax.Array, labels: jax.Array, classes: int) -> Facts:
    """The facts about a batch; faults [..., B] are those of its images."""
    return Facts(
        faults=add_bits({fault: jnp.any(faults & fault != 0) for fault in Fault}),
        smallest=jnp.min(images),
        largest=jnp.max(images),
        smallest_label=jnp.min(labels),
        largest_label=jnp.max(labels),
        classes=jnp.int32(classes),
    )


def on_host(facts: Facts) -> bool:
    """Whether the facts have values: not so while an outer function is being traced."""
    return not any(isinstance(fact, jax.core.Tracer) for fact in facts)


def check_facts(attack: Part, facts: Facts) -> None:
    """Raises for what only the data could tell."""
    known = jax.device_get(facts)
    faults = Fault(int(known.faults))
    wanted = "images must be finite numbers in [0, 1]"
    if faults & Fault.NOT_FINITE:
        raise ValueError(f"{wanted}, got NaN or infinity")
    if faults & Fault.OUT_OF_RANGE:
        hint = _range_hint(float(known.smallest), float(known.largest))
        raise ValueError(f"{wanted}, got values from {known.smallest:g} to {known.largest:g}{hint}")
    if faults & Fault.OFF_GRID:
        levels = max(part.levels for part in parts(attack) if isinstance(part, Quantize))
        raise ValueError(
            f"images must be on the grid k/{levels - 1} for an attack with levels={levels}, got values between the "
            f"levels: round them (jnp.round(images * {levels - 1}) / {levels - 1}) or make the attack with levels=None"
        )
    classes = int(known.classes)
    if faults & Fault.UNKNOWN_LABEL:
        raise ValueError(
            f"labels must be classes from 0 to {classes - 1}, got values from "
            f"{known.smallest_label} to {known.largest_label}"
        )
    check_asked(attack, classes)


def check_asked(attack: Part, classes: int) -> None:
    """Raises ValueError for targets and ranks in the attack that a model with `classes` classes does not have."""
    for name, numbers in (asked for part in parts(attack) for asked in part.asked_classes().items()):
        # An attack that is mapped over has no values to read.
        if isinstance(numbers, jax.core.Tracer):
            continue
        array = np.asarray(numbers)
        if name == "rank" and np.any(array >= classes):
            raise ValueError(f"rank must be at most {classes - 1}, the number of other classes, got {np.max(array)}")
        if np.any((array < 0) | (array >= classes)):
            raise ValueError(f"{name} must be classes from 0 to {classes - 1}, got {array}")


def _range_hint(smallest: float, largest: float) -> str:
    """What images outside [0, 1] seem to be."""
    if smallest < -0.05 or 1.05 < largest <= 16:
        return (
            ": they seem to be normalized; attacks need the images themselves, and the model must normalize them "
            "inside itself"
        )
    return f": divide by {255 if largest < 256 else 65535} first" if largest > 16 else ""
