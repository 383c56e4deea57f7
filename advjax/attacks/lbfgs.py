"""The attack that found adversarial examples: box-constrained L-BFGS towards a class (Szegedy et al. 2014)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified, TargetReached
from advjax.attacks.directions import Chain, Direction
from advjax.attacks.objectives import Targeted, ranked_class
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_count, check_integer
from advjax.value import number, static, value

__all__ = ["BoxLBFGS", "lbfgs"]

_MEMORY = 10
_HALVINGS = 12
# A step that lowers the objective by less than this share of it is none. Of 64 digits on Caffe's LeNet (2026-11-26) the
# mean l2 is 1.4461, 1.4435, 1.4434 and 1.4439 for 1e-3, 3e-4, 1e-4 and 1e-5; 139, 178, 229 and 399 evaluations each.
_STILL = 3e-4
_PRECONDITION = optax.scale_by_lbfgs(_MEMORY)


def lbfgs(
    targets: Number | None = None,
    *,
    steps: int = 40,
    searches: int = 12,
    c_range: tuple[float, float] = (1e-3, 1e3),
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "BoxLBFGS":
    """The smallest change that makes a class of your choice the answer (Szegedy et al. 2014; Shaham et al., eq. 1).

        min over d of  c ||d||_2^2 + J(x + d, t)    such that x + d in [0, 1],

    for the largest c, found by bisection of log c, whose minimizer is answered with the target t.  The norm is
    squared (eq. 1 has it plain), so that the problem is smooth at d = 0.  As c varies, both trade distance against
    loss: each minimizer at which ||d||^2 is the penalty is a stationary point with ||d|| as well, for 2 c ||d||.

    The box is held by two-metric projection (Bertsekas 1982): pixels at a bound that the gradient pushes outwards
    stay, optax's L-BFGS preconditions the gradient of the others, and the step is clipped to [0, 1] and halved until
    the objective falls.  The search for one c begins where that for the last one ended, and ends where neither the
    preconditioned gradient nor the plain one lowers the objective by 0.03 %.  A change of variables such as tanh would
    have no gradient where a pixel is 0 or 1, which most pixels of a digit are.

    Each minimizer is judged as it would be returned, rounded to the nearest level; the returned image is the nearest
    one that reached its target, or the clean one.

    Args:
      targets: the class t, one number or one for each image [B]; None: the class that comes second on the clean image.
      steps: most L-BFGS iterations for each c.
      searches: number of values of c.
      c_range: least and greatest c, per squared unit of [0, 1].
      mask, levels: as for `fgs`.

    Raises:
      ValueError: steps or searches below 1; c_range is not 0 < least < greatest.

    Example:
      >>> from advjax.attacks import lbfgs
      >>> towards_three = lbfgs(3)
    """
    check_count("steps", steps)
    check_count("searches", searches)
    if targets is not None:
        check_integer("targets", targets)
    grid = () if levels is None else (Quantize(levels, "nearest"),)
    constraint = All((Box(), *grid, *mask_constraints(mask)))
    return BoxLBFGS(targets, Chain(mask_directions(mask)), constraint, c_range, steps, searches)


class _Search(NamedTuple):
    """One image between two evaluations of the model, of which each does its part of whatever is to be done next.

    Attributes:
      low, high: the bracket of c; what is minimized has their geometric mean.
      image, distance: the nearest image so far that reached its target, and its squared l2 distance.
      searches: values of c that were judged.
      point, entropy, slope: where the minimization is, J there and its gradient.
      memory, ray, plain: of L-BFGS, what it made of the gradient, and whether that is the gradient alone.
      stale: the ray is that of another point or c.
      halvings: of the step along the ray.
      iteration: of the minimization.
      settled: the point is the minimizer, and to be judged.
      calls, non_finite: see `State`.
    """

    low: jax.Array
    high: jax.Array
    image: jax.Array
    distance: jax.Array
    searches: jax.Array
    point: jax.Array
    entropy: jax.Array
    slope: jax.Array
    memory: Any
    ray: jax.Array
    plain: jax.Array
    stale: jax.Array
    halvings: jax.Array
    iteration: jax.Array
    settled: jax.Array
    calls: jax.Array
    non_finite: jax.Array


@value
class BoxLBFGS(Attack):
    """See `lbfgs`, which makes it."""

    target: Number | None = number(dtype=np.int32)
    mask: Direction
    constraint: Constraint
    c_range: tuple[float, float] = static()
    steps: int = static()
    searches: int = static()

    def __post_init__(self) -> None:
        bounds = self.c_range
        pair = isinstance(bounds, tuple | list) and [isinstance(bound, int | float) for bound in bounds] == [True, True]
        if not pair or not 0 < bounds[0] < bounds[1] < np.inf:
            raise ValueError(f"c_range must be two numbers 0 < least < greatest, got {bounds!r}")
        object.__setattr__(self, "c_range", tuple(bounds))

    @property
    def criterion(self) -> Criterion:
        """Its target; the class that comes second is as good as any other."""
        return Misclassified() if self.target is None else TargetReached(self.target)

    def asked_classes(self) -> dict[str, Number]:
        return {} if self.target is None else {"targets": self.target}

    def step(self, problem: Problem, state: State) -> State:
        if self.target is None:
            target = ranked_class(problem.clean_logits, problem.label, 1)
        else:
            target = jnp.asarray(self.target)
        least, greatest = (state.scale + bound for bound in self.c_range)
        last = self._search(problem, target, least, greatest, state)
        failure = jnp.where(jnp.isfinite(last.distance), Failure.NONE, Failure.NO_BOUNDARY).astype(jnp.int32)
        return state._replace(image=last.image, calls=last.calls, failure=failure, non_finite=last.non_finite)

    def _search(
        self, problem: Problem, target: jax.Array, least: jax.Array, greatest: jax.Array, state: State
    ) -> _Search:
        """Bisects log c.  All loops are one, so that in a batch no image waits for another's line search."""
        criterion, climbed, origin = TargetReached(target), Targeted(target), problem.image
        possible = criterion.possible(problem.label)

        def entropy_of(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = problem.logits(image)
            return -climbed(logits, problem.label, problem.clean_logits), logits

        def unfinished(s: _Search) -> jax.Array:
            return possible & (s.searches < self.searches)

        def evaluate(s: _Search) -> _Search:
            s = _where(s.stale, _aimed(s, origin), s)
            step = s.point - jnp.exp2(-s.halvings.astype(origin.dtype)) * s.ray
            image = jnp.where(s.settled, self.constraint(s.point, origin), jnp.clip(step, 0.0, 1.0))
            (entropy, logits), slope = jax.value_and_grad(entropy_of, has_aux=True)(image)
            slope, broken = made_finite(slope)
            slope, _ = self.mask.update(slope, self.mask.init(origin), image)
            s = s._replace(calls=s.calls + problem.gradient_calls, non_finite=s.non_finite | broken)
            judged = _judged(s, image, criterion(logits, problem.label), origin)
            after: _Search = _where(s.settled, judged, self._moved(s, image, entropy, slope, origin))
            return after

        last: _Search = jax.lax.while_loop(unfinished, evaluate, _first(least, greatest, state))
        return last

    def _moved(self, s: _Search, image: jax.Array, entropy: jax.Array, slope: jax.Array, origin: jax.Array) -> _Search:
        """After a step to `image`: taken if it lowers the objective enough (Armijo), else to be halved."""
        gradient = _free_gradient(s, origin)
        before, after = _objective(s, s.point, s.entropy, origin), _objective(s, image, entropy, origin)
        lower = after <= before - 1e-4 * jnp.vdot(gradient, s.point - image)
        still = lower & (before - after < _STILL * jnp.abs(before))
        failed = (~lower & (s.halvings >= _HALVINGS)) | still
        over = lower | failed
        iteration = s.iteration + over.astype(s.iteration.dtype)
        # No lower point along the ray, or hardly: try the plain gradient next time, and if that was it, stop.
        return s._replace(
            point=jnp.where(lower, image, s.point),
            entropy=jnp.where(lower, entropy, s.entropy),
            slope=jnp.where(lower, slope, s.slope),
            memory=_where(failed, _no_memory(s.point), s.memory),
            stale=over,
            halvings=jnp.where(over, 0, s.halvings + 1),
            iteration=iteration,
            settled=(failed & s.plain) | (iteration >= self.steps),
        )


def _first(least: jax.Array, greatest: jax.Array, state: State) -> _Search:
    image, none, no = state.image, jnp.zeros_like(state.calls), jnp.zeros_like(state.non_finite)
    infinite = jnp.full_like(least, jnp.inf)
    return _Search(
        low=least,
        high=greatest,
        image=image,
        distance=infinite,
        searches=none,
        point=image,
        # Anything is lower: the first step, of no length, reads the clean image.
        entropy=infinite,
        slope=jnp.zeros_like(image),
        memory=_no_memory(image),
        ray=jnp.zeros_like(image),
        plain=no,
        stale=no,
        halvings=none,
        iteration=none - 1,
        settled=no,
        calls=state.calls,
        non_finite=state.non_finite,
    )


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), new, old)


def _objective(s: _Search, image: jax.Array, entropy: jax.Array, origin: jax.Array) -> jax.Array:
    return entropy + jnp.sqrt(s.low * s.high) * jnp.sum((image - origin) ** 2)


def _free_gradient(s: _Search, origin: jax.Array) -> jax.Array:
    """The objective's gradient at the point, zero for pixels at a bound that it pushes outwards."""
    gradient = s.slope + 2 * jnp.sqrt(s.low * s.high) * (s.point - origin)
    stuck = ((s.point <= 0) & (gradient > 0)) | ((s.point >= 1) & (gradient < 0))
    return jnp.where(stuck, jnp.zeros_like(gradient), gradient)


def _aimed(s: _Search, origin: jax.Array) -> _Search:
    """With the ray of its point."""
    gradient = _free_gradient(s, origin)
    ray, memory = _precondition(gradient, s.memory, s.point)
    ray, broken = made_finite(ray)
    ray = jnp.where(gradient != 0, ray, jnp.zeros_like(ray))
    # Away from a solution the memory of a problem with bounds may point uphill: then forget it.
    uphill = jnp.vdot(ray, gradient) <= 1e-6 * jnp.linalg.norm(ray) * jnp.linalg.norm(gradient)
    plain, forgotten = _precondition(gradient, _no_memory(s.point), s.point)
    return s._replace(
        ray=jnp.where(uphill, plain, ray),
        memory=_where(uphill, forgotten, memory),
        plain=uphill | (s.memory.count == 0),
        stale=jnp.zeros_like(s.stale),
        non_finite=s.non_finite | broken,
    )


def _judged(s: _Search, image: jax.Array, reached: jax.Array, origin: jax.Array) -> _Search:
    """After the minimizer was judged as `image`, as it would be returned: the next c, from where the last one ended."""
    c, distance = jnp.sqrt(s.low * s.high), jnp.sum((image - origin) ** 2)
    nearer = reached & (distance < s.distance)
    return s._replace(
        low=jnp.where(reached, c, s.low),
        high=jnp.where(reached, s.high, c),
        image=jnp.where(nearer, image, s.image),
        distance=jnp.where(nearer, distance, s.distance),
        searches=s.searches + 1,
        memory=_no_memory(s.point),
        stale=jnp.ones_like(s.stale),
        halvings=jnp.zeros_like(s.halvings),
        iteration=jnp.zeros_like(s.iteration),
        settled=jnp.zeros_like(s.settled),
    )


def _no_memory(image: jax.Array) -> Any:
    # Like the image: see `first_state`.
    like_image = jnp.zeros_like(image, shape=())
    return jax.tree.map(lambda leaf: leaf + like_image.astype(leaf.dtype), _PRECONDITION.init(image))


def _precondition(gradient: jax.Array, memory: Any, image: jax.Array) -> tuple[jax.Array, Any]:
    # optax mixes integer counts and floats, which strict promotion (a user's setting) would refuse.
    with jax.numpy_dtype_promotion("standard"):
        ray, memory = _PRECONDITION.update(gradient, memory, image)
    return ray, memory
