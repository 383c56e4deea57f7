"""Auto-PGD in the l1 norm: steps on as many entries as the perturbation is sparse (Croce & Hein 2021, algorithm 1)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.projections import BoxedL1Ball

__all__ = ["PHASES", "climb_l1"]

# Section 4.3: three phases, in balls of 3, 2 and 1 times epsilon, with these shares of the steps.
_RADII, _SHARES = (3.0, 2.0, 1.0), (0.3, 0.3, 0.4)
PHASES = len(_RADII)
# Section 4.2: the step shrinks by 1.5 down to a tenth of the radius; entries are those of the best point, over 1.5.
_SHRINK, _LEAST, _SPARSER, _STILL = 1.5, 0.1, 1.5, 0.95

Read = Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array, Any]]


class _Climb(NamedTuple):
    point: jax.Array
    gradient: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_loss: jax.Array
    step_size: jax.Array
    share: jax.Array
    changed: jax.Array
    kept: Any


def climb_l1(
    read: Read, start: jax.Array, origin: jax.Array, ball: BoxedL1Ball, steps: int, kept: Any
) -> tuple[jax.Array, Any]:
    """One run; the last step size, and what was kept.

    Each step goes `eta sgn(g) / k` along the k entries of largest |g| and is projected onto ball and box at once;
    there is no momentum.  At each checkpoint (every `max(floor(0.04 n), 1)` of a phase's n steps) k becomes 2/3 of the
    number of entries in which the best point differs from the clean image.  Where that number fell by 5 % or more
    since the last one, eta is the radius again and the best point is returned to; else eta shrinks by 1.5, down to a
    tenth of the radius.  Each phase begins at the best point of the last, projected onto its own ball.

    Args:
      read: (turn, point, whether it counts, kept) -> objective, gradient, kept; only points of the last phase, which
        are in the ball, count.
      start: [H, W, C], anywhere; the clean image has no entries to count, and k is then a fifth of all.
      origin: the clean image.
      ball: that of epsilon.
      steps: of all phases together.
      kept: the image to beat.
    """
    radius, fresh, checked = map(np.stack, zip(*_turns(steps), strict=True))
    epsilon = jnp.asarray(ball.epsilon).astype(origin.dtype)
    entries = float(origin.size)

    def changed_of(point: jax.Array) -> jax.Array:
        return jnp.sum((point != origin).astype(origin.dtype))

    def turn(k: jax.Array, c: _Climb) -> _Climb:
        reach = jnp.asarray(radius, origin.dtype)[k] * epsilon
        first = jnp.asarray(fresh)[k]
        wide = dataclasses.replace(ball, epsilon=reach)
        begun = wide(c.best, origin)
        moved = wide(c.point + c.step_size * _ray(c.gradient, c.share), origin)
        point = jnp.where(first, begun, moved)
        loss, gradient, kept = read(k, point, jnp.asarray(radius)[k] == 1.0, c.kept)
        better = first | (loss > c.best_loss)
        changed = changed_of(begun)
        unknown = changed == 0
        c = _Climb(
            point=point,
            gradient=gradient,
            best=jnp.where(better, point, c.best),
            best_gradient=jnp.where(better, gradient, c.best_gradient),
            best_loss=jnp.where(better, loss, c.best_loss),
            step_size=jnp.where(first, reach, c.step_size),
            share=jnp.where(first, jnp.where(unknown, 0.2, changed / entries / _SPARSER), c.share),
            changed=jnp.where(first, jnp.where(unknown, entries, changed), c.changed),
            kept=kept,
        )
        now = _checked(c, changed_of(c.best), reach, entries)
        after: _Climb = jax.tree.map(lambda new, old: jnp.where(jnp.asarray(checked)[k], new, old), now, c)
        return after

    zero = jnp.zeros_like(origin, shape=())
    begin = _Climb(start, jnp.zeros_like(origin), start, jnp.zeros_like(origin), zero, zero, zero, zero, kept)
    end: _Climb = jax.lax.fori_loop(0, len(radius), turn, begin)
    return end.step_size, end.kept


def _turns(steps: int) -> list[tuple[float, bool, bool]]:
    """Of each read: the radius, whether a phase begins with it, and whether a checkpoint comes after it."""
    counts = [min(math.ceil(round(share * steps, 9)), steps) for share in _SHARES[:-1]]
    counts.append(max(steps - sum(counts), 0))
    turns = []
    for radius, count in zip(_RADII, counts, strict=True):
        period = max(int(0.04 * count), 1)
        turns.append((radius, True, False))
        turns += [(radius, False, step % period == 0) for step in range(1, count + 1)]
    return turns


def _ray(gradient: jax.Array, share: jax.Array) -> jax.Array:
    """`sgn(g) / k` on the k entries of largest |g|, k a share of all."""
    sizes = jnp.abs(gradient)
    last = jnp.clip((1 - share) * gradient.size, 0, gradient.size - 1).astype(int)
    signs = jnp.where(sizes >= jnp.sort(sizes.reshape(-1))[last], jnp.sign(gradient), jnp.zeros_like(gradient))
    return signs / jnp.maximum(jnp.sum(jnp.abs(signs)), 1e-10)


def _checked(c: _Climb, changed: jax.Array, radius: jax.Array, entries: float) -> _Climb:
    """At a checkpoint: the entries of the best point; the step begins anew where these got fewer, else it shrinks."""
    sparser = changed < _STILL * c.changed
    shrunk = jnp.maximum(c.step_size / _SHRINK, _LEAST * radius)
    return c._replace(
        point=jnp.where(sparser, c.best, c.point),
        gradient=jnp.where(sparser, c.best_gradient, c.gradient),
        step_size=jnp.where(sparser, radius, shrunk),
        share=changed / entries / _SPARSER,
        changed=changed,
    )
