"""The iteration of ECC alignment at one resolution: warped images, their Gram matrix, the step, the queue."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.scores.ecc_pixels import validity
from advjax.scores.warp import Frame, Interpolation, Motion, motion_matrix, pixel_grid, project, sample

__all__ = ["Level", "Settings", "gram_matrix", "optimality", "read", "solve"]

_RIDGE = 1e-6
"""Tikhonov term of the normal equations, relative to their mean eigenvalue."""
_LEAST_AREA = 0.1
"""A warp that reads the whole template from a smaller part of the image correlates a few pixels with many."""
_SLACK = 0.01
"""How far the correlation may fall below the best before the step is halved: noise makes small hills."""
_TIE = 1e-4
"""A warp that the iteration settled at is preferred to one seen before, unless that correlates so much better."""
_LEAST_VARIANCE = 1e-12
"""Below it (the rounding of a constant image) there is no contrast to align."""
_PIXELS_AT_ONCE = 32 * 28 * 28
"""Pixels under iteration at a time on CPU: what its caches hold."""
_PIXELS_AT_ONCE_ON_ACCELERATOR = 4096 * 28 * 28


class Settings(NamedTuple):
    """What is static in an alignment."""

    motion: Motion = "homography"
    levels: int = 1
    blur: bool = True
    interpolation: Interpolation = "gather"


class Level(NamedTuple):
    """N pairs at one resolution, P pixels each, read in place by the slots."""

    values: jax.Array  # [N * P, 3 or 4], of `Pixels`
    template: jax.Array  # [N, 2 or 3, P]
    least_overlap: jax.Array  # [N]
    start: jax.Array  # [N, k], parameters found so far


class _Slot(NamedTuple):
    """One pair under iteration."""

    pair: jax.Array  # which one; N once there is none left
    parameters: jax.Array  # [k], the warp that `warped` shows
    warped: jax.Array  # [P, 3 or 4], the level's values seen through it
    correlation: jax.Array  # of the warp before
    first_correlation: jax.Array
    best_parameters: jax.Array
    best_correlation: jax.Array
    iterations: jax.Array


def _points(settings: Settings, frame: Frame, parameters: jax.Array) -> tuple[jax.Array, ...]:
    """Normalized x, y of the template's pixels, x', y' and 1/denominator of their images; column, row of them."""
    x, y = pixel_grid(frame.height, frame.width, parameters.dtype)
    x, y = (x - frame.center_x) / frame.scale, (y - frame.center_y) / frame.scale
    x_new, y_new, inverse = project(motion_matrix(parameters, settings.motion), x, y)
    column, row = x_new * frame.scale + frame.center_x, y_new * frame.scale + frame.center_y
    return x, y, x_new, y_new, inverse, column, row


def read(
    settings: Settings, frame: Frame, parameters: jax.Array, values: jax.Array, first: jax.Array | int
) -> jax.Array:
    """The image that starts at row `first` of `values`, with what belongs to it, seen through the warp: [P, 3 or 4]."""
    *_, column, row = _points(settings, frame, parameters)
    if not frame.filled:
        last = jnp.stack([frame.columns - 1, frame.rows - 1]).astype(column.dtype)
        column, row = jnp.clip(column, 0, last[0]), jnp.clip(row, 0, last[1])
    return sample(values, frame.height, frame.width, column, row, first, settings.interpolation)


def gram_matrix(
    settings: Settings, frame: Frame, parameters: jax.Array, warped: jax.Array, template: jax.Array
) -> jax.Array:
    """Inner products over the valid pixels of (J_1 .. J_k, image, template, 1): [k + 3, k + 3]."""
    x, y, x_new, y_new, inverse, column, row = _points(settings, frame, parameters)
    weight = validity(frame, column, row, warped, template)
    valid = jnp.sqrt(jnp.maximum(weight, 1e-12))  # The floor keeps the root's slope finite.
    d_x, d_y = warped[:, 1] * (inverse * valid), warped[:, 2] * (inverse * valid)
    d_w = -(x_new * d_x + y_new * d_y)
    jacobian = [d_x * x, d_y * x, d_w * x, d_x * y, d_y * y, d_w * y, d_x, d_y]
    rows = jnp.stack([*jacobian, warped[:, 0] * valid, template[0] * valid, valid])
    gram = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    if settings.motion == "homography":
        return gram
    # The other motions are curves in the space of homographies: their Jacobian by the chain rule.
    entries = jax.jacfwd(lambda p: motion_matrix(p, settings.motion).T.reshape(-1)[:8])(parameters)
    chain = jax.scipy.linalg.block_diag(entries, jnp.eye(3, dtype=entries.dtype))
    return chain.T @ gram @ chain


def _centered(gram: jax.Array) -> tuple[jax.Array, ...]:
    """Q, a, b, <i, i>, <i, t>, <t, t> with every row at zero mean over the valid pixels."""
    k = gram.shape[0] - 3
    mean = gram[-1, :-1] / jnp.maximum(gram[-1, -1], 1)
    c = gram[:-1, :-1] - mean[:, None] * gram[-1, None, :-1]
    return c[:k, :k], c[:k, k], c[:k, k + 1], c[k, k], c[k, k + 1], c[k + 1, k + 1]


def _correlation(gram: jax.Array) -> jax.Array:
    *_, ii, it, tt = _centered(gram)
    least = _LEAST_VARIANCE * gram[-1, -1]
    contrast = (ii > least) & (tt > least)
    return jnp.clip(jnp.where(contrast, it / jnp.sqrt(jnp.where(contrast, ii * tt, 1)), 0), -1, 1)


def optimality(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """b / <t, i> - a / ||i||^2, the slope of log(correlation), 0 where the iteration rests; the correlation."""
    _, a, b, ii, it, _ = _centered(gram)
    least = _LEAST_VARIANCE * gram[-1, -1]
    usable = (ii > least) & (jnp.abs(it) > least)
    slope = b / jnp.where(usable, it, 1) - a / jnp.where(usable, ii, 1)
    return jnp.where(usable, slope, 0), _correlation(gram)


def _step(gram: jax.Array) -> jax.Array:
    """The forward-additive step Q^-1 (lambda b - a)."""
    q, a, b, ii, it, _ = _centered(gram)
    ridge = _RIDGE * jnp.trace(q) / len(q) + 1e-12
    factor = jnp.linalg.cholesky(q + ridge * jnp.eye(len(q), dtype=q.dtype))
    q_a, q_b = jax.scipy.linalg.cho_solve((factor, True), jnp.stack([a, b], -1)).T
    denominator = it - b @ q_a
    direct = (ii - a @ q_a) / jnp.where(denominator > 0, denominator, 1)
    bqb = jnp.maximum(b @ q_b, 1e-12)
    # Evangelidis & Psarakis, eq. 21: the scale from which on the correlation cannot fall (to first order).
    bound = jnp.maximum(jnp.sqrt(jnp.maximum(a @ q_a, 0) / bqb), (b @ q_a - it) / bqb)
    return jnp.where(denominator > 0, direct, bound) * q_b - q_a


def solve(
    settings: Settings,
    frame: Frame,
    level: Level,
    from_identity: bool,
    iterations: jax.Array,
    tolerance: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Best parameters [N, k], their correlation, iterations and convergence [N] of every pair of a level.

    Static shapes: some slots iterate in step, and a slot whose pair has settled takes the next of the queue.
    `from_identity`: look at the identity before `level.start`.
    """
    pairs = len(level.start)
    at_once = _PIXELS_AT_ONCE if jax.default_backend() == "cpu" else _PIXELS_AT_ONCE_ON_ACCELERATOR
    slots = min(pairs, max(1, at_once // (frame.height * frame.width)))
    entry = jax.vmap(partial(_entry, level, from_identity))
    look = jax.vmap(partial(_look, settings, frame, level))
    advance = jax.vmap(partial(_advance, settings, frame, level, from_identity, iterations, tolerance))

    def unfinished(state: tuple) -> jax.Array:
        return (state[0].pair < pairs).any()

    def turn(state: tuple) -> tuple:
        slot, waiting, result = state
        slot, settled, finished = advance(slot)
        row = jnp.where(finished, slot.pair, pairs)
        report = (slot.best_parameters, slot.best_correlation, slot.iterations, settled)
        result = tuple(old.at[row].set(new, mode="drop") for old, new in zip(result, report, strict=True))
        following = jnp.minimum(waiting + jnp.cumsum(finished, dtype=jnp.int32) - 1, pairs)
        fresh = entry(following)
        slot = jax.tree.map(partial(_select, finished), fresh, slot._replace(warped=fresh.warped))
        # Sampled at the end, not when used: carried by the loop it is computed once, while XLA would
        # recompute it inside each of the Jacobian's columns.
        slot = slot._replace(warped=look(slot))
        return slot, jnp.minimum(waiting + finished.sum(dtype=jnp.int32), pairs), result

    slot = entry(jnp.arange(slots, dtype=jnp.int32))
    zero = jnp.zeros(pairs, level.start.dtype)
    result = (level.start, zero, zero.astype(jnp.int32), zero.astype(bool))
    state = (slot._replace(warped=look(slot)), jnp.asarray(slots, jnp.int32), result)
    return jax.lax.while_loop(unfinished, turn, state)[2]


def _select(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _entry(level: Level, from_identity: bool, index: jax.Array) -> _Slot:
    """A slot about to see its first warp."""
    start = level.start.at[index].get(mode="clip")
    start = jnp.zeros_like(start) if from_identity else start
    none = jnp.full((), -jnp.inf, start.dtype)
    return _Slot(index, start, jnp.zeros((), start.dtype), none, none, start, none, jnp.zeros((), jnp.int32))


def _look(settings: Settings, frame: Frame, level: Level, slot: _Slot) -> jax.Array:
    pairs, _, pixels = level.template.shape
    first = jnp.minimum(slot.pair, pairs - 1) * pixels
    return read(settings, frame.of(slot.pair), slot.parameters, level.values, first)


def _advance(
    settings: Settings,
    frame: Frame,
    level: Level,
    from_identity: bool,
    iterations: jax.Array,
    tolerance: jax.Array,
    slot: _Slot,
) -> tuple[_Slot, jax.Array, jax.Array]:
    """Judges the slot's warp and proposes the next: the slot, whether it has settled, whether it is done."""
    template = level.template.at[slot.pair].get(mode="clip")
    gram = gram_matrix(settings, frame.of(slot.pair), slot.parameters, slot.warped, template)
    correlation = _correlation(gram)
    area = jnp.linalg.det(motion_matrix(slot.parameters, settings.motion))  # Of a pixel's image, at the center.
    shown = (gram[-1, -1] >= level.least_overlap.at[slot.pair].get(mode="clip")) & (area > _LEAST_AREA)
    first = slot.iterations == 0
    better = (correlation > slot.best_correlation) & (shown | first)
    acceptable = better | (shown & (correlation > slot.best_correlation - _SLACK))
    halfway = (slot.parameters + slot.best_parameters) / 2
    proposal = jnp.where(acceptable, slot.parameters + _step(gram), halfway)
    # Two warps that show nothing correlate alike, but that is no rest.
    settled = acceptable & (jnp.abs(correlation - slot.correlation) <= tolerance)
    if from_identity:
        proposal = jnp.where(first, level.start.at[slot.pair].get(mode="clip"), proposal)
        settled &= slot.iterations != 1
    finished = settled | (slot.iterations + 1 >= iterations) | ~jnp.isfinite(proposal).all()
    first_correlation = jnp.where(first, correlation, slot.first_correlation)
    best_correlation = jnp.where(better, correlation, slot.best_correlation)
    # Where the iteration rests is a smooth function of the images, the best point of its path is not.
    at_rest = settled & shown & (correlation >= jnp.maximum(first_correlation, best_correlation - _TIE))
    slot = _Slot(
        slot.pair,
        proposal,
        slot.warped,
        correlation,
        first_correlation,
        jnp.where(better | at_rest, slot.parameters, slot.best_parameters),
        jnp.where(at_rest, correlation, best_correlation),
        slot.iterations + 1,
    )
    return slot, settled, finished
