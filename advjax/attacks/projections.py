"""Exact projections onto what a box [0, 1] has in common with a hyperplane, or with an l1 ball; by sorting, once."""

from typing import Literal

import jax
import jax.numpy as jnp

from advjax.attacks.constraints import L1Ball
from advjax.value import value

__all__ = ["BoxedL1Ball", "to_hyperplane"]


def to_hyperplane(
    point: jax.Array, slope: jax.Array, gain: jax.Array, norm: Literal["linf", "l2", "l1"]
) -> tuple[jax.Array, jax.Array]:
    """The smallest d with `<slope, d> = gain` and `point + d` in [0, 1], and its norm (Croce & Hein 2020b, eq. 4).

    Where the box does not reach the hyperplane, the d of its corner that comes nearest.  Entries move towards the
    hyperplane by u_i at most, where they meet the box: all by the same length (linf), each by its share of the slope
    (l2), the steepest first (l1).  The first two are `min(lambda s_i, u_i)`, whose gain is concave and piecewise
    linear in lambda.

    Args:
      point: in [0, 1], of any shape.
      slope: of the shape of `point`; where it is 0, so is d.
      gain: a scalar.
      norm: "linf", "l2" or "l1".

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks.projections import to_hyperplane
      >>> way, size = to_hyperplane(jnp.array([0.5, 0.9]), jnp.array([1.0, 1.0]), 0.5, "linf")
      >>> [round(float(entry), 3) for entry in (*way, size)]  # the second entry meets the box
      [0.4, 0.1, 0.4]
    """
    up = slope * jnp.where(gain < 0, -1.0, 1.0).astype(slope.dtype)
    room = jnp.where(up > 0, 1 - point, jnp.where(up < 0, point, jnp.zeros_like(point))).reshape(-1)
    steep, wanted = jnp.abs(slope).reshape(-1), jnp.abs(gain)
    most = steep * room
    if norm == "l1":
        order = jnp.argsort(-steep)
        # What those that are steeper leave to be gained.
        left = wanted - (jnp.cumsum(most[order]) - most[order])
        length = left / jnp.where(steep[order] > 0, steep[order], 1.0)
        moved = jnp.zeros_like(room).at[order].set(jnp.clip(length, 0.0, room[order]))
    else:
        share = steep if norm == "l2" else (steep > 0).astype(steep.dtype)
        meets = jnp.where(share > 0, room / jnp.where(share > 0, share, 1.0), jnp.inf)
        order = jnp.argsort(meets)
        rate, full = (share * steep)[order], most[order]
        # Before the k-th entry meets the box those that do so earlier have gained all they can; the rest go on.
        before, going = jnp.cumsum(full) - full, jnp.flip(jnp.cumsum(jnp.flip(rate)))
        reached = before + jnp.where(rate > 0, meets[order], 0.0) * going
        section = jnp.argmax((reached >= wanted) & (rate > 0))
        scale = (wanted - before[section]) / jnp.where(going[section] > 0, going[section], 1.0)
        enough = jnp.any((reached >= wanted) & (rate > 0))
        moved = jnp.where(enough, jnp.minimum(jnp.maximum(scale, 0.0) * share, room), room)
    way = jnp.sign(up) * moved.reshape(point.shape)
    if norm == "l2":
        return way, jnp.sqrt(jnp.sum(moved * moved))
    return way, jnp.sum(moved) if norm == "l1" else jnp.max(moved)


@value
class BoxedL1Ball(L1Ball):
    """`sum |x - origin| <= epsilon` and x in [0, 1], by the exact projection onto both (Croce & Hein 2021, eq. 4).

    With y the change and u_i the room that entry i has on its way before it meets the box, the projection moves it by
    `clip(|y_i| - lambda, 0, u_i)`, for the lambda >= 0 at which these sum to epsilon.  One projection after the other
    would be shorter than it need be.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks.projections import BoxedL1Ball
      >>> BoxedL1Ball(0.5)(jnp.array([1.5, 0.75]), jnp.array([0.75, 0.25])).tolist()
      [1.0, 0.5]
    """

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        change = (candidate - origin).reshape(-1)
        size = jnp.abs(change)
        room = jnp.where(change > 0, 1 - origin.reshape(-1), origin.reshape(-1))
        epsilon = jnp.asarray(self.epsilon).astype(size.dtype)
        # From lambda = begin on an entry shrinks, and from lambda = size on it is 0.
        begin = jnp.maximum(size - room, 0.0)
        marks = jnp.concatenate([begin, size])
        order = jnp.argsort(marks)
        marks = marks[order]
        one = jnp.ones_like(size)
        shrinking = jnp.cumsum(jnp.concatenate([one, -one])[order])
        total = jnp.sum(size - begin)
        steps = shrinking[:-1] * (marks[1:] - marks[:-1])
        left = jnp.concatenate([total[None], total - jnp.cumsum(steps)])
        # The last mark with more than epsilon left; what is summed again from there is free of the steps' rounding.
        section = jnp.maximum(jnp.sum((left > epsilon).astype(jnp.int32)) - 1, 0)
        low = marks[section]
        active = (begin <= low) & (size > low)
        held = jnp.sum(jnp.where(begin > low, size - begin, 0.0)) + jnp.sum(jnp.where(active, size - low, 0.0))
        excess = (held - epsilon) / jnp.maximum(jnp.sum(active.astype(size.dtype)), 1.0)
        shift = jnp.where(total > epsilon, low + jnp.maximum(excess, 0.0), 0.0)
        moved = jnp.sign(change) * jnp.clip(size - shift, 0.0, room)
        # Not 0 + origin + (1 - origin): a bound is met exactly.
        return jnp.clip(origin + moved.reshape(origin.shape), 0.0, 1.0)
