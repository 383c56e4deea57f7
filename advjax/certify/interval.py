"""Bounds of a network's logits over all images in a linf ball, by interval arithmetic through its traced program."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Var

from advjax.attacks.part import Number
from advjax.attacks.settings import check_radius
from advjax.certify.program import Interval, affine_from, bounded, read, used, values_of
from advjax.classifier import Classifier
from advjax.fastcpu import compiled

__all__ = ["bounds", "certified"]


def bounds(classifier: Classifier, images: jax.Array, epsilon: Number) -> tuple[jax.Array, jax.Array]:
    """Numbers between which each logit stays for all images of [0, 1] within `epsilon` of the given ones, in linf.

    Interval bound propagation: the interval [x - epsilon, x + epsilon] of each pixel, cut to [0, 1], goes through the
    network operation by operation. One that is affine, with weights W, makes of an interval with center c and radius r

        center W c + b,    radius |W| r,

    and an increasing one, such as ReLU or a pool, that between its values at both ends. The bounds hold for every
    image, but are loose, layer by layer more so, except for networks trained for them. They are computed in float32,
    whose rounding (some 1e-6 of the numbers on the way) they do not count.

    Args:
        classifier: a network in evaluation mode of dense and convolutional layers, normalizations, pools, sums, ReLU,
            tanh and the like.
        images: [B, H, W, C] float32 in [0, 1].
        epsilon: radius of the ball, in [0, 1] units; one number, or one for each image [B].

    Returns:
        The lower and the upper bounds, [B, K] each.

    Raises:
        NotImplementedError: the network computes something that there is no rule for; the message names it.
        TypeError, ValueError: an argument is not as above.

    Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation for training verifiably robust
    models", eqs. 6-7.

    Example:
        >>> from advjax import from_function
        >>> def model(weights, x):
        ...     return jax.nn.relu(x.reshape(x.shape[0], -1) @ weights)
        >>> classifier = from_function(model, jnp.array([[1.0, -1.0], [1.0, 2.0]]))
        >>> lower, upper = bounds(classifier, jnp.full((1, 2, 1, 1), 0.5), 0.25)
        >>> lower.tolist(), upper.tolist()
        ([[0.5, 0.0]], [[1.5, 1.25]])
    """
    lower, upper = _bounds(classifier, images, _radii(images, epsilon))
    return lower, upper


def certified(classifier: Classifier, images: jax.Array, labels: jax.Array, epsilon: Number) -> jax.Array:
    """For which images no image of [0, 1] within `epsilon` of it, in linf, gets another answer than its label.

    True where the interval bounds prove it; False says nothing. As in the paper what is bounded is not each logit but
    the difference h_j - h_y of each class j to the label's, over the interval of what enters the last affine layers:
    their weights are subtracted before absolute values are taken, and less is lost.

    Args:
        classifier, images, epsilon: as for `bounds`.
        labels: [B] integers, the true classes.

    Returns:
        bool [B].

    Raises:
        NotImplementedError, TypeError, ValueError: as `bounds`.

    Source: Gowal et al. 2018, section 3 ("elision of the last layer").

    Example:
        >>> from advjax import from_function
        >>> def model(weights, x):
        ...     return x.reshape(x.shape[0], -1) @ weights
        >>> classifier = from_function(model, jnp.array([[1.0, 0.0]]))
        >>> images = jnp.full((2, 1, 1, 1), 0.5)
        >>> certified(classifier, images, jnp.array([0, 0]), jnp.array([0.4, 0.6])).tolist()
        [True, False]
    """
    images = jnp.asarray(images)
    labels = jnp.asarray(labels)
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers [{images.shape[0]}], one for each image, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    result: jax.Array = _certified(classifier, images, labels.astype(jnp.int32), _radii(images, epsilon))
    return result


def _radii(images: jax.Array, epsilon: Number) -> jax.Array:
    check_radius("epsilon", epsilon)
    if jnp.ndim(images) != 4 or not jnp.issubdtype(jnp.asarray(images).dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1], [B, H, W, C], got shape {jnp.shape(images)}")
    if jnp.ndim(epsilon) > 1 or (jnp.ndim(epsilon) and jnp.shape(epsilon) != jnp.shape(images)[:1]):
        raise ValueError(
            f"epsilon must be one number, or one for each of {len(images)} images, got shape {jnp.shape(epsilon)}"
        )
    return jnp.broadcast_to(jnp.asarray(epsilon, jnp.asarray(images).dtype), jnp.shape(images)[:1])


@compiled
def _bounds(classifier: Classifier, images: jax.Array, radii: jax.Array) -> tuple[jax.Array, jax.Array]:
    def one(image: jax.Array, radius: jax.Array) -> tuple[jax.Array, jax.Array]:
        program, known = _traced(classifier, image, radius)
        logits = read(bounded(program.eqns, known), program.outvars[0])
        ends = logits if isinstance(logits, Interval) else Interval(logits, logits)
        return ends.lower[0], ends.upper[0]

    return jax.vmap(one)(images, radii)


@compiled
def _certified(classifier: Classifier, images: jax.Array, labels: jax.Array, radii: jax.Array) -> jax.Array:
    def one(image: jax.Array, label: jax.Array, radius: jax.Array) -> jax.Array:
        program, known = _traced(classifier, image, radius)
        begin = affine_from(program)
        last = program.eqns[begin:]
        values = bounded(program.eqns[:begin], known)
        entering = {name: values[name] for name in used(last, program.outvars) if name in values}
        boxes = {name: box for name, box in entering.items() if isinstance(box, Interval)}

        def gaps(point: list[jax.Array]) -> jax.Array:
            there = bounded(last, {**values, **dict(zip(boxes, point, strict=True))})
            logits: jax.Array = read(there, program.outvars[0])[0]
            return logits - logits[label]

        centers = [box.center for box in boxes.values()]
        worst = gaps(centers)
        for slope, box in zip(jax.jacrev(gaps)(centers), boxes.values(), strict=True):
            worst = worst + jnp.sum(jnp.abs(slope) * box.radius[None], range(1, slope.ndim))
        others = jnp.arange(worst.shape[0], dtype=label.dtype) != label
        return jnp.all(jnp.where(others, worst < 0, True))

    return jax.vmap(one)(images, labels, radii)


def _traced(classifier: Classifier, image: jax.Array, radius: jax.Array) -> tuple[Jaxpr, dict[Var, Any]]:
    """The program of the logits [1, K] of one image, and what is known at its beginning."""
    program = jax.make_jaxpr(classifier)(image[None])
    around = Interval(*(jnp.clip(image[None] + sign * radius, 0.0, 1.0) for sign in (-1, 1)))
    return program.jaxpr, values_of(program, [around])
