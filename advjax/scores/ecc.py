"""Alignment of one image to another by the enhanced correlation coefficient, batched on static shapes."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.scores.norms import check_pair
from advjax.scores.warp import MOTIONS, Frame, Motion, frame_of, motion_matrix, pixel_grid, project, sample, warp_image

__all__ = ["Alignment", "ecc_align"]

_RIDGE = 1e-6
"""Tikhonov term on the normal equations, relative to their mean eigenvalue."""
_LEAST_OVERLAP = 0.5
"""A warp that shows less than this share of the template is not a better alignment, whatever it correlates to."""
_SLOT_PIXELS = 32 * 28 * 28
"""Pixels iterated at once on CPU: what the caches hold."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alignment:
    """What `ecc_align` found, for leading axes [...].

    Attributes:
      warp: [..., 3, 3], template to input pixel coordinates (x, y, 1), as OpenCV reports it.
      image: [..., H, W, C], the input seen through `warp` (unblurred; 0 outside the input).
      correlation: [...], ECC of blurred template and blurred warped input over the valid pixels, in [-1, 1];
        never below that of the identity. 0 where either has no contrast.
      iterations: int32 [...], evaluations of the warp on the finest level.
      converged: bool [...], whether the correlation settled to `tolerance` within `iterations`.
    """

    warp: jax.Array
    image: jax.Array
    correlation: jax.Array
    iterations: jax.Array
    converged: jax.Array


class _Problem(NamedTuple):
    """N pairs on one pyramid level, pixel by pixel: read in place by every slot."""

    values: jax.Array  # [N * P, 3]: image, d/dX, d/dY
    template: jax.Array  # [N, P]


class _Slot(NamedTuple):
    """One pair under iteration."""

    index: jax.Array  # which pair; N when idle
    parameters: jax.Array  # [k], to be evaluated next
    correlation: jax.Array  # at the last evaluation
    best_parameters: jax.Array
    best_correlation: jax.Array
    iterations: jax.Array


def ecc_align(
    image: jax.Array,
    template: jax.Array,
    motion: Motion = "homography",
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
    levels: int = 1,
    blur: bool = True,
) -> Alignment:
    check_pair(image, template, "image", "template")
    if motion not in MOTIONS:
        raise ValueError(f"motion: expected one of {list(MOTIONS)}, got {motion!r}")
    return _ecc_align(image, template, iterations, tolerance, motion=motion, levels=levels, blur=blur)


@partial(jax.jit, static_argnames=("motion", "levels", "blur"))
def _ecc_align(image, template, iterations, tolerance, *, motion, levels, blur):
    *batch, height, width, channels = image.shape
    image, template = (a.reshape(-1, height, width, channels) for a in (image, template))
    frame = frame_of(height, width)
    grey_image, grey_template = luma(image), luma(template)
    parameters = jnp.zeros((image.shape[0], MOTIONS[motion]), image.dtype)
    slots = _solve(parameters, _problem(grey_image, grey_template, frame, blur), frame, motion, iterations, tolerance)
    parameters, correlation, its, converged = slots
    to_pixels = jnp.asarray(frame.to_pixels(), image.dtype)
    to_frame = jnp.linalg.inv(to_pixels)
    warp = jax.vmap(lambda p: to_pixels @ motion_matrix(p, motion) @ to_frame)(parameters)
    warp = warp / warp[:, 2:, 2:]
    warped = jax.vmap(warp_image)(image, warp)
    return Alignment(
        warp.reshape(*batch, 3, 3),
        warped.reshape(*batch, height, width, channels),
        correlation.reshape(batch),
        its.reshape(batch),
        converged.reshape(batch),
    )


def luma(image: jax.Array) -> jax.Array:
    if image.shape[-1] == 1:
        return image[..., 0]
    return image @ jnp.asarray([0.299, 0.587, 0.114], image.dtype)


def _problem(image, template, frame, blur):
    """Blurs, centres and differentiates [N, H, W] pairs."""
    if blur:
        image, template = _blurred(image), _blurred(template)
    image = image - image.mean((1, 2), keepdims=True)
    template = template - template.mean((1, 2), keepdims=True)
    mirrored = jnp.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    d_x = (mirrored[:, 1:-1, 2:] - mirrored[:, 1:-1, :-2]) * (frame.scale / 2)
    d_y = (mirrored[:, 2:, 1:-1] - mirrored[:, :-2, 1:-1]) * (frame.scale / 2)
    return _Problem(jnp.stack([image, d_x, d_y], -1).reshape(-1, 3), template.reshape(template.shape[0], -1))


def _blurred(image):
    """OpenCV's 5 x 5 Gaussian [1, 4, 6, 4, 1] / 16, mirrored at the border without repeating it."""
    for axis in (1, 2):
        size = image.shape[axis]
        pad = [(0, 0)] * 3
        pad[axis] = (2, 2)
        mirrored = jnp.pad(image, pad, mode="reflect")
        image = sum(
            weight * jax.lax.slice_in_dim(mirrored, k, k + size, axis=axis)
            for k, weight in enumerate((1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16))
        )
    return image


def _solve(start, problem, frame, motion, iterations, tolerance):
    pairs, size = start.shape
    count = max(1, min(pairs, _SLOT_PIXELS // (frame.height * frame.width)))
    iterations = jnp.asarray(iterations, jnp.int32)

    def fill(index):
        dtype = start.dtype
        p = start.at[index].get(mode="clip")
        return _Slot(index, p, jnp.full(index.shape, -jnp.inf, dtype), p, jnp.full(index.shape, -jnp.inf, dtype), jnp.zeros(index.shape, jnp.int32))

    first = jnp.arange(count, dtype=jnp.int32)
    result = (start, jnp.zeros(pairs, start.dtype), jnp.zeros(pairs, jnp.int32), jnp.zeros(pairs, bool))

    def unfinished(state):
        return (state[0].index < pairs).any()

    def advance(state):
        slots, waiting, result = state
        slots, settled, stopped = jax.vmap(partial(_advance, problem=problem, frame=frame, motion=motion, iterations=iterations, tolerance=tolerance))(slots)
        done = settled | stopped
        at = jnp.where(done, slots.index, pairs)
        news = (slots.best_parameters, slots.best_correlation, slots.iterations, settled)
        result = tuple(old.at[at].set(new, mode="drop") for old, new in zip(result, news, strict=True))
        upcoming = jnp.minimum(waiting + jnp.cumsum(done, dtype=jnp.int32) - 1, pairs)
        fresh = fill(upcoming)
        slots = jax.tree.map(lambda a, b: jnp.where(done.reshape(-1, *[1] * (a.ndim - 1)), a, b), fresh, slots)
        return slots, jnp.minimum(waiting + done.sum(dtype=jnp.int32), pairs), result

    return jax.lax.while_loop(unfinished, advance, (fill(first), jnp.asarray(count, jnp.int32), result))[2]


def _advance(slot, problem, frame, motion, iterations, tolerance):
    index = jnp.minimum(slot.index, problem.template.shape[0] - 1)
    gram = _gram(slot.parameters, problem.values, problem.template[index], index * problem.template.shape[1], frame, motion)
    correlation, step = _correlation_and_step(gram)
    seen = gram[-1, -1] >= _LEAST_OVERLAP * problem.template.shape[1]
    better = (correlation > slot.best_correlation) & (seen | (slot.iterations == 0))
    evaluated = slot.iterations + 1
    settled = jnp.abs(correlation - slot.correlation) < tolerance
    moved = slot.parameters + step
    stopped = (evaluated >= iterations) | ~jnp.isfinite(moved).all()
    new = _Slot(
        slot.index,
        moved,
        correlation,
        jnp.where(better, slot.parameters, slot.best_parameters),
        jnp.where(better, correlation, slot.best_correlation),
        evaluated,
    )
    return new, settled, stopped


def _gram(parameters, values, template, first, frame, motion):
    """Inner products over the valid pixels of [J_1 .. J_k, image, template, 1]: [k + 3, k + 3]."""
    x, y = (grid for grid in pixel_grid(frame.height, frame.width, parameters.dtype))
    x, y = (x - frame.centre_x) / frame.scale, (y - frame.centre_y) / frame.scale
    x_new, y_new, inverse = project(motion_matrix(parameters, motion), x, y)
    column, row = x_new * frame.scale + frame.centre_x, y_new * frame.scale + frame.centre_y
    valid = _validity(column, frame.width) * _validity(row, frame.height)
    warped = sample(values, frame.height, frame.width, column, row, first)
    warped, x_new, y_new, inverse, valid = jax.lax.optimization_barrier((warped, x_new, y_new, inverse, valid))
    d_x, d_y = warped[:, 1] * inverse, warped[:, 2] * inverse
    d_w = -(x_new * d_x + y_new * d_y)
    jacobian = [d_x * x, d_y * x, d_w * x, d_x * y, d_y * y, d_w * y, d_x, d_y]
    rows = jnp.stack([*jacobian, warped[:, 0], template, jnp.ones_like(x)])
    gram = jnp.matmul(rows * valid[None], rows.T, precision=jax.lax.Precision.HIGHEST)
    if motion == "homography":
        return gram
    chart = jax.jacfwd(lambda p: motion_matrix(p, motion).T.reshape(-1)[:8])(parameters)
    chart = jax.scipy.linalg.block_diag(chart, jnp.eye(3, dtype=chart.dtype))
    return chart.T @ gram @ chart


def _validity(position, side):
    """1 inside the image, falling to 0 one pixel outside: continuous, so that the score is too."""
    return jnp.clip(1 + jnp.minimum(position, side - 1 - position), 0, 1)


def _correlation_and_step(gram):
    """ECC and the forward-additive step from the Gram matrix."""
    k = gram.shape[0] - 3
    mean = gram[-1, :-1] / jnp.maximum(gram[-1, -1], 1)
    centred = gram[:-1, :-1] - mean[:, None] * gram[-1, None, :-1]
    q, a, b = centred[:k, :k], centred[:k, k], centred[:k, k + 1]
    ii, it, tt = centred[k, k], centred[k, k + 1], centred[k + 1, k + 1]
    tiny = 1e-10
    has_contrast = (ii > tiny) & (tt > tiny)
    correlation = jnp.where(has_contrast, it / jnp.sqrt(jnp.where(has_contrast, ii * tt, 1)), 0)
    correlation = jnp.clip(correlation, -1, 1)
    ridge = _RIDGE * jnp.trace(q) / k + 1e-12
    factor = jnp.linalg.cholesky(q + ridge * jnp.eye(k, dtype=q.dtype))
    solved = jax.scipy.linalg.cho_solve((factor, True), jnp.stack([a, b], -1))
    qa, qb = solved[:, 0], solved[:, 1]
    denominator = it - b @ qa
    direct = (ii - a @ qa) / jnp.where(denominator > 0, denominator, 1)
    # Evangelidis & Psarakis, eq. 20-21: the least scale that keeps the correlation from falling.
    bqb = jnp.maximum(b @ qb, 1e-12)
    bound = jnp.maximum(jnp.sqrt(jnp.maximum(a @ qa, 0) / bqb), (a @ qb - it) / bqb)
    scale = jnp.where(denominator > 0, direct, bound)
    return correlation, scale * qb - qa
