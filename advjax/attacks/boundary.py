"""The boundary attack: a random walk along the decision boundary (Brendel, Rauber and Bethge 2018)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Problem
from advjax.attacks.constraints import All, Box, L2Ball, Quantize
from advjax.attacks.decisions import DecisionSearch, Seen
from advjax.attacks.directions import L2, Chain
from advjax.attacks.part import Mask
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.value import value

__all__ = ["BoundaryAttack", "boundary_attack"]

_HALVINGS = 10  # of the way from the noise to the image
_PROBE_EVERY = 5  # queries; what is asked then is the orthogonal step alone
_FIRST, _LARGEST, _FACTOR = 0.01, 0.5, 1.5  # step sizes, as shares of the distance, and by what they change


def boundary_attack(*, queries: int = 5000, mask: Mask | None = None, levels: int | None = 256) -> "BoundaryAttack":
    """The boundary attack (Brendel et al. 2018, algorithm 1): small l2 distances from decisions alone.

    It starts from the first of up to 100 uniform images that fools, blended towards the clean image x by bisection.
    From the point p that it reached, at distance d = ||p - x||_2, it then proposes

        q = x + (p - x + delta d u) / sqrt(1 + delta^2),   u a normal draw, made orthogonal to p - x and of length 1,
        p' = the point at distance (1 - epsilon) d from x towards q,

    and goes to p' if that fools.  Each fifth query asks about q alone: where more than half of ten of these fool, the
    boundary is flat, and delta and epsilon grow by 1.5; below a fifth they shrink.  Of 30 p' more than a quarter
    should fool, or a tenth: else epsilon alone grows or shrinks.  The paper gives no windows; a quarter, a tenth and
    the start of 0.01 are Foolbox's.  The model is read at the image as it would be returned, and that rounded image
    is where the walk goes on from; steps that are too short to change it count as failures towards x, and as
    successes across, so that delta grows until they do.

    Args:
      queries: most evaluations of the model, the start included; the paper makes far more than 10,000.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: queries below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import boundary_attack, from_function, perturb
      >>> classifier = from_function(lambda w, x: jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1), 2.0)
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.5), jnp.array([0])  # answers 0 where the sum is above 1
      >>> result = perturb(boundary_attack(queries=600, levels=None), classifier, images, labels, jax.random.key(0))
      >>> round(float(result.l2[0]), 2), result.asks  # the distance is 1 / 2
      (0.5, 'decisions')
    """
    grid = None if levels is None else Quantize(levels)
    return BoundaryAttack(Chain(mask_directions(mask)), All((Box(), *mask_constraints(mask))), grid, queries)


class _Counted(NamedTuple):
    """How many of the last proposals were read, and how many of these fool."""

    tries: jax.Array
    hits: jax.Array

    def after(self, read: jax.Array, fooled: jax.Array, window: int) -> "_Counted":
        """One more where `read`; from 0 after a full window."""
        again = self.tries >= window
        tries, hits = (jnp.where(again, jnp.zeros_like(count), count) for count in self)
        return _Counted(tries + read.astype(tries.dtype), hits + (read & fooled).astype(hits.dtype))

    def factor(self, read: jax.Array, window: int, low: float, high: float) -> jax.Array:
        """By what step sizes change: not at all, until the window is full."""
        share = self.hits / window
        change = jnp.where(share > high, _FACTOR, jnp.where(share < low, 1 / _FACTOR, 1.0))
        return jnp.where(read & (self.tries >= window), change, 1.0)


class _Walk(NamedTuple):
    query: jax.Array
    image: jax.Array
    across: jax.Array
    inward: jax.Array
    probes: _Counted
    steps: _Counted


@value
class BoundaryAttack(DecisionSearch):
    """See `boundary_attack`, which makes it."""

    def search(self, problem: Problem, key: jax.Array, start: Seen, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        origin = problem.image
        start, query = self._blended(problem, start, query)

        def again(s: _Walk) -> _Walk:
            way, radius = s.image - origin, jnp.linalg.norm(s.image - origin)
            noise = self.masked(jax.random.normal(jax.random.fold_in(key, s.query), origin.shape, origin.dtype))
            outward = L2().ray(way)
            aside = L2().ray(noise - jnp.sum(noise * outward) * outward)
            turned = origin + (way + s.across * radius * aside) / jnp.sqrt(1 + s.across**2)
            turned = self.within(turned, origin)
            probing = s.query % _PROBE_EVERY == 0
            proposed = jnp.where(probing, turned, L2Ball((1 - s.inward) * radius)(turned, origin))
            seen = self.read(problem, proposed)
            moved = seen.fooled & ~probing & (jnp.linalg.norm(seen.image - origin) < radius)
            probes, steps = s.probes.after(probing, seen.fooled, 10), s.steps.after(~probing, moved, 30)
            both, alone = probes.factor(probing, 10, 0.2, 0.5), steps.factor(~probing, 30, 0.1, 0.25)
            return _Walk(
                query=s.query + 1,
                image=jnp.where(moved, seen.image, s.image),
                across=jnp.minimum(s.across * both, _LARGEST),
                inward=jnp.minimum(s.inward * both * alone, _LARGEST),
                probes=probes,
                steps=steps,
            )

        none, first = jnp.zeros_like(problem.label), jnp.full_like(origin, _FIRST, shape=())
        walk = _Walk(query, start.image, first, first, _Counted(none, none), _Counted(none, none))
        walk = jax.lax.while_loop(lambda s: start.fooled & (s.query < self.queries), again, walk)
        return walk.image, walk.query

    def _blended(self, problem: Problem, start: Seen, query: jax.Array) -> tuple[Seen, jax.Array]:
        """The start as near to the image, on the straight way, as a bisection finds that it fools."""
        way = start.point - problem.image

        def halve(carry: tuple[Seen, jax.Array, jax.Array, jax.Array]) -> tuple[Seen, jax.Array, jax.Array, jax.Array]:
            best, low, high, made = carry
            middle = 0.5 * (low + high)
            seen = self.read(problem, problem.image + middle * way)
            best = jax.tree.map(lambda new, old: jnp.where(seen.fooled, new, old), seen, best)
            return best, jnp.where(seen.fooled, low, middle), jnp.where(seen.fooled, middle, high), made + 1

        zero = jnp.zeros_like(problem.image, shape=())
        last = jnp.minimum(query + _HALVINGS, self.queries)
        best, _, _, made = jax.lax.while_loop(
            lambda carry: start.fooled & (carry[3] < last), halve, (start, zero, zero + 1, query)
        )
        return best, made
