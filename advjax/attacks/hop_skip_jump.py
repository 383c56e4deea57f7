"""HopSkipJump: the gradient at the decision boundary, estimated from decisions (Chen, Jordan and Wainwright 2020)."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Problem
from advjax.attacks.constraints import All, Box, Quantize, ball
from advjax.attacks.decisions import DecisionSearch, Seen
from advjax.attacks.directions import L2, Chain, steepest_ray
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_integer
from advjax.value import number, static, value

__all__ = ["HopSkipJump", "hop_skip_jump"]

_BISECT, _ESTIMATE, _STEP = range(3)
_TRIES = 20  # halvings of a step, before another direction is looked for
_MOST_SAMPLES = 10_000


def hop_skip_jump(
    *,
    norm: Literal["l2", "linf"] = "l2",
    queries: int = 5000,
    samples: Number = 100,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "HopSkipJump":
    """HopSkipJump (Chen et al. 2020, algorithm 2): the nearest boundary in l2 or linf, from decisions alone.

    It starts from the first of up to 100 uniform images that fools.  Round t, with phi = 1 where the model is fooled
    and -1 elsewhere:

    1. Bisection brings the point towards the clean image x until it is on the boundary: along the straight way in l2,
       clipped to ever smaller linf balls around x in linf.
    2. v = sum_b (phi(p + delta u_b) - mean phi) u_b estimates the gradient (eqs. 9 and 16) from
       B = samples sqrt(t) random directions u_b of length 1.  delta is 0.1 at first, then d / n for a distance d and
       n entries (the paper's theta, n^(-3/2) and n^(-2)).
    3. The point goes d / sqrt(t) along v / ||v||_2, or along sign(v), or half of that, ... until it fools.

    The model is read at the image as it would be returned, where rounding would undo a small delta; so with `levels`
    it is at least `sqrt(n)` levels, one for each entry.  The image returned is the nearest that was read and fools.

    Args:
      norm: "l2" or "linf".
      queries: most evaluations of the model, the start included; each one moves all images of a batch.
      samples: directions of the first estimate, 2 or more; one number, or one for each image [B].
      mask, levels: as for `fgs`.

    Raises:
      ValueError: an unknown norm; queries below 1; samples below 2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import from_function, hop_skip_jump, perturb
      >>> classifier = from_function(lambda w, x: jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1), 2.0)
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.5), jnp.array([0])  # answers 0 where the sum is above 1
      >>> result = perturb(hop_skip_jump(queries=800, levels=None), classifier, images, labels, jax.random.key(0))
      >>> bool(0.5 <= result.l2[0] < 0.52), result.asks  # the distance is 1 / 2
      (True, 'decisions')
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f'norm must be "l2" or "linf", got {norm!r}')
    check_integer("samples", samples, least=2)
    grid = None if levels is None else Quantize(levels)
    allowed = All((Box(), *mask_constraints(mask)))
    return HopSkipJump(Chain(mask_directions(mask)), allowed, grid, queries, norm=norm, samples=samples)


class _Jump(NamedTuple):
    """Between two queries.

    `left` counts down in each phase; `far` is the fooled end of the bisection, `low` and `high` its section; `total`,
    `signed` and `phis` are the sums of u, phi u and phi; `ray` and `length` are the step that is tried.
    """

    query: jax.Array
    phase: jax.Array
    left: jax.Array
    turn: jax.Array
    point: jax.Array
    far: jax.Array
    low: jax.Array
    high: jax.Array
    total: jax.Array
    signed: jax.Array
    phis: jax.Array
    ray: jax.Array
    length: jax.Array
    image: jax.Array
    nearest: jax.Array


@value
class HopSkipJump(DecisionSearch):
    """See `hop_skip_jump`, which makes it.  One query a turn of its loop, whatever phase an image is in."""

    norm: Literal["l2", "linf"] = static(default="l2")
    samples: Number = number(default=100)

    def search(self, problem: Problem, key: jax.Array, start: Seen, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        origin = problem.image
        entries = jnp.sum(self.masked(jnp.ones_like(origin)))
        theta = {"l2": 1.5, "linf": 2.0}[self.norm]
        # Float32 tells no more than 2^20 distances apart.
        halvings = min(max(1, math.ceil(theta * math.log2(origin.size))), 20)
        least = 0.0 if self.grid is None else jnp.sqrt(entries) / (self.grid.levels - 1)

        def size(change: jax.Array) -> jax.Array:
            return jnp.linalg.norm(change) if self.norm == "l2" else jnp.max(jnp.abs(change))

        def delta(s: _Jump) -> jax.Array:
            return jnp.maximum(jnp.where(s.turn == 1, 0.1, size(s.point - origin) / jnp.maximum(entries, 1)), least)

        def proposed(s: _Jump) -> jax.Array:
            draw = jax.random.normal if self.norm == "l2" else _around_zero
            u = L2().ray(self.masked(draw(jax.random.fold_in(key, s.query), origin.shape, origin.dtype)))
            pulled = ball(self.norm, 0.5 * (s.low + s.high))(s.far, origin)
            return jnp.stack([pulled, s.point + delta(s) * u, s.point + s.length * s.ray])[s.phase]

        def bisecting(s: _Jump, seen: Seen) -> _Jump:
            middle = 0.5 * (s.low + s.high)
            s = s._replace(
                low=jnp.where(seen.fooled, s.low, middle),
                high=jnp.where(seen.fooled, middle, s.high),
                point=jnp.where(seen.fooled, seen.point, s.point),
            )
            return _where(s.left > 1, s._replace(left=s.left - 1), estimate_next(s))

        def estimate_next(s: _Jump) -> _Jump:
            turn = s.turn + 1
            count = jnp.asarray(self.samples) * jnp.sqrt(turn.astype(origin.dtype))
            none = jnp.zeros_like(origin)
            return s._replace(
                phase=jnp.full_like(s.phase, _ESTIMATE),
                left=jnp.minimum(count, _MOST_SAMPLES).astype(s.left.dtype),
                turn=turn,
                total=none,
                signed=none,
                phis=jnp.zeros_like(s.phis),
            )

        def estimating(s: _Jump, seen: Seen) -> _Jump:
            # As it was read, after the box and the rounding.
            u = (seen.image - s.point) / delta(s)
            phi = jnp.where(seen.fooled, 1.0, -1.0).astype(origin.dtype)
            s = s._replace(total=s.total + u, signed=s.signed + phi * u, phis=s.phis + phi)
            mean = s.phis / jnp.floor(jnp.minimum(self.samples * jnp.sqrt(s.turn.astype(origin.dtype)), _MOST_SAMPLES))
            # Where all say the same, that says where to go.
            slope = jnp.where(jnp.abs(mean) >= 1, s.signed, s.signed - mean * s.total)
            onward = s._replace(
                phase=jnp.full_like(s.phase, _STEP),
                left=jnp.full_like(s.left, _TRIES),
                ray=steepest_ray(self.norm).ray(self.masked(slope)),
                length=size(s.point - origin) / jnp.sqrt(s.turn.astype(origin.dtype)),
            )
            return _where(s.left > 1, s._replace(left=s.left - 1), onward)

        def stepping(s: _Jump, seen: Seen) -> _Jump:
            shorter = s._replace(left=s.left - 1, length=0.5 * s.length)
            missed = _where(s.left > 1, shorter, estimate_next(s))
            return _where(seen.fooled, bisect_next(s, seen.point), missed)

        def bisect_next(s: _Jump, far: jax.Array) -> _Jump:
            return s._replace(
                phase=jnp.full_like(s.phase, _BISECT),
                left=jnp.full_like(s.left, halvings),
                point=far,
                far=far,
                low=jnp.zeros_like(s.low),
                high=size(far - origin),
            )

        def again(s: _Jump) -> _Jump:
            seen = self.read(problem, proposed(s))
            distance = size(seen.image - origin)
            nearer = seen.fooled & (distance < s.nearest)
            after = [phase(s, seen) for phase in (bisecting, estimating, stepping)]
            s = _where(s.phase == _BISECT, after[0], _where(s.phase == _ESTIMATE, after[1], after[2]))
            return s._replace(
                query=s.query + 1,
                image=jnp.where(nearer, seen.image, s.image),
                nearest=jnp.where(nearer, distance, s.nearest),
            )

        zero, none = jnp.zeros_like(origin, shape=()), jnp.zeros_like(problem.label)
        jump = _Jump(
            query, none, none, none, origin, origin, zero, zero, origin, origin, zero, origin, zero,
            start.image, size(start.image - origin),
        )  # fmt: skip
        jump = jax.lax.while_loop(
            lambda s: start.fooled & (s.query < self.queries), again, bisect_next(jump, start.point)
        )
        return jump.image, jump.query


def _around_zero(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def _where(condition: jax.Array, yes: _Jump, no: _Jump) -> _Jump:
    chosen: _Jump = jax.tree.map(lambda new, old: jnp.where(condition, new, old), yes, no)
    return chosen
