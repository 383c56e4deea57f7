"""Does an image get the same logits whatever stands beside it?  Not where batch statistics or random draws decide."""

import jax
import jax.numpy as jnp

from advjax.attacks.faults import Fault, add_bits
from advjax.classifier import Classifier

__all__ = ["consistency_faults", "is_batch_dependent"]

_TOLERANCE = 0.01
"""Share of the logits' scale that rounding may change.

The same image is compared within one program, in batches of one shape, so that nothing is rounded otherwise but by the
order of a sum: on a CPU the logits of LeNet, Madry's and Shaham's networks, CapsNet, VGG, WRN-16-8, ResNet-110,
ResNet-50 and GoogLeNet are the same to the bit, in float32 and bfloat16 (2026-11-25). 1 % leaves room for other
backends; batch statistics, dropout and noise that matters change the logits by 10 % and more.
"""
_MASKED = 1e3
"""Classes this far below the first are masked out, or have no say: they are not compared, and set no scale."""


def consistency_faults(classifier: Classifier, images: jax.Array) -> jax.Array:
    """`Fault.BATCH_DEPENDENT` or `Fault.RANDOM` of a classifier of images [B, H, W, C], as int32.

    A model that is known to be random is not asked for more: its logits depend on the place in the batch anyhow.
    """
    if classifier.ties_images:
        return jnp.zeros((), jnp.int32)
    if classifier.draws(jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)):
        return jnp.full((), Fault.RANDOM, jnp.int32)
    return add_bits({Fault.BATCH_DEPENDENT: is_batch_dependent(classifier, images)})


def is_batch_dependent(classifier: Classifier, images: jax.Array) -> jax.Array:
    """Whether the first of images [B, H, W, C] gets other logits beside an unlike image than beside itself -> bool.

    Two batches of two, (unlike, x) and (x, x), and x's logits in the second row of the one against the first row of
    the other: batch statistics differ for the company, draws of noise for the place.

    What lies between is one reduction of images that may be sharded, and no gather of them.
    """
    index = jnp.arange(images.shape[0], dtype=jnp.int32).reshape(-1, 1, 1, 1)
    image = jnp.sum(jnp.where(index == 0, images, jnp.zeros_like(images)), axis=0)
    # In no pixel nearer to it than 0.5.
    unlike = jnp.where(image > 0.5, jnp.zeros_like(image), jnp.ones_like(image))
    pairs = jnp.stack([jnp.stack([unlike, image]), jnp.stack([image, image])])
    logits = _logits_of_pairs(classifier, pairs)
    kind = logits.dtype if jnp.issubdtype(logits.dtype, jnp.floating) else images.dtype
    (other, beside), (alone, _) = logits.astype(images.dtype)
    return _differ(alone, beside, other, jnp.asarray(4 * float(jnp.finfo(kind).eps), images.dtype))


def _logits_of_pairs(classifier: Classifier, pairs: jax.Array) -> jax.Array:
    wanted = "the classifier must return logits [B, K] for images [B, H, W, C], whatever B"
    try:
        logits: jax.Array = jax.vmap(classifier)(pairs)
    except Exception as error:  # whatever the model, or its framework, says; it took one image
        raise ValueError(f"{wanted}, but does not take two: {error}") from error
    if logits.ndim != 3 or logits.shape[1] != 2:
        raise ValueError(f"{wanted}, got {logits.shape[1:]} for two")
    return logits


def _differ(alone: jax.Array, beside: jax.Array, other: jax.Array, step: jax.Array) -> jax.Array:
    """Whether two logits [K] of an image differ by more than rounding; `other` are those of another image."""
    finite = jnp.isfinite(alone) & jnp.isfinite(beside) & jnp.isfinite(other)
    compared = finite & ((alone > _first(alone) - _MASKED) | (other > _first(other) - _MASKED))

    def largest(numbers: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(compared, jnp.abs(numbers), jnp.zeros_like(numbers)))

    # What the logits tell apart: classes, or images. Either may be near a tie.
    scale = jnp.maximum(largest(alone - _first(alone)), largest(other - alone))
    allowed = _TOLERANCE * scale + step * largest(alone)
    return jnp.any(jnp.isfinite(alone) != jnp.isfinite(beside)) | (largest(alone - beside) > allowed)


def _first(logits: jax.Array) -> jax.Array:
    return jnp.max(jnp.where(jnp.isfinite(logits), logits, jnp.full_like(logits, -jnp.inf)))
