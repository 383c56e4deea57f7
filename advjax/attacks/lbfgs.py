"""The attack that found adversarial examples: box-constrained L-BFGS towards a class (Szegedy et al. 2014)."""

from collections.abc import Callable
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
    the objective falls.  A change of variables such as tanh would have no gradient where a pixel is 0 or 1, which
    most pixels of a digit are.

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


class _Point(NamedTuple):
    image: jax.Array
    loss: jax.Array
    gradient: jax.Array
    memory: Any
    calls: jax.Array
    iteration: jax.Array
    settled: jax.Array
    non_finite: jax.Array


class _Bisection(NamedTuple):
    low: jax.Array
    high: jax.Array
    image: jax.Array
    distance: jax.Array
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
        criterion = TargetReached(target)

        def halve(_: int, b: _Bisection) -> _Bisection:
            c = jnp.sqrt(b.low * b.high)
            point = self._minimize(problem, target, c)
            image = self.constraint(point.image, problem.image)
            reached = criterion(problem.logits(image), problem.label)
            distance = jnp.sum((image - problem.image) ** 2)
            nearer = reached & (distance < b.distance)
            return _Bisection(
                low=jnp.where(reached, c, b.low),
                high=jnp.where(reached, b.high, c),
                image=jnp.where(nearer, image, b.image),
                distance=jnp.where(nearer, distance, b.distance),
                calls=b.calls + point.calls + 1,
                non_finite=b.non_finite | point.non_finite,
            )

        least, greatest = (state.scale + bound for bound in self.c_range)
        nothing = jnp.full_like(least, jnp.inf)
        first = _Bisection(least, greatest, state.image, nothing, state.calls, state.non_finite)
        last = jax.lax.fori_loop(0, self.searches, halve, first)
        failure = jnp.where(jnp.isfinite(last.distance), Failure.NONE, Failure.NO_BOUNDARY).astype(jnp.int32)
        return state._replace(image=last.image, calls=last.calls, failure=failure, non_finite=last.non_finite)

    def _minimize(self, problem: Problem, target: jax.Array, c: jax.Array) -> _Point:
        """`steps` iterations of projected L-BFGS from the clean image."""
        climbed, origin = Targeted(target), problem.image

        def objective(image: jax.Array) -> jax.Array:
            entropy = -climbed(problem.logits(image), problem.label, problem.clean_logits)
            return c * jnp.sum((image - origin) ** 2) + entropy

        def free_gradient(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            loss, gradient = jax.value_and_grad(objective)(image)
            gradient, broken = made_finite(gradient)
            gradient, _ = self.mask.update(gradient, self.mask.init(origin), image)
            stuck = ((image <= 0) & (gradient > 0)) | ((image >= 1) & (gradient < 0))
            return loss, jnp.where(stuck, jnp.zeros_like(gradient), gradient), broken

        def iterate(p: _Point) -> _Point:
            ray, memory = _precondition(p.gradient, p.memory, p.image)
            ray, ray_broken = made_finite(ray)
            ray = jnp.where(p.gradient != 0, ray, jnp.zeros_like(ray))
            # Away from a solution the memory of a problem with bounds may point uphill: then forget it.
            uphill = jnp.vdot(ray, p.gradient) <= 1e-6 * jnp.linalg.norm(ray) * jnp.linalg.norm(p.gradient)
            plain, forgotten = _precondition(p.gradient, _no_memory(p.image), p.image)
            ray = jnp.where(uphill, plain, ray)
            memory = jax.tree.map(lambda new, old: jnp.where(uphill, new, old), forgotten, memory)
            image, found, calls = _backtrack(objective, p, ray)
            loss, gradient, broken = free_gradient(image)
            broken = p.non_finite | broken | ray_broken
            # No lower point along the ray: try the plain gradient next time, and if that was it, stop.
            memory = jax.tree.map(lambda kept, new: jnp.where(found, kept, new), memory, _no_memory(p.image))
            settled = ~found & (uphill | (p.memory.count == 0))
            return _Point(image, loss, gradient, memory, p.calls + calls + 1, p.iteration + 1, settled, broken)

        loss, gradient, broken = free_gradient(origin)
        one = jnp.ones_like(problem.label)
        start = _Point(origin, loss, gradient, _no_memory(origin), one, one - 1, one < 1, broken)
        return jax.lax.while_loop(lambda p: (p.iteration < self.steps) & ~p.settled, iterate, start)


def _no_memory(image: jax.Array) -> Any:
    # Like the image: see `first_state`.
    like_image = jnp.zeros_like(image, shape=())
    return jax.tree.map(lambda leaf: leaf + like_image.astype(leaf.dtype), _PRECONDITION.init(image))


def _precondition(gradient: jax.Array, memory: Any, image: jax.Array) -> tuple[jax.Array, Any]:
    # optax mixes integer counts and floats, which strict promotion (a user's setting) would refuse.
    with jax.numpy_dtype_promotion("standard"):
        ray, memory = _PRECONDITION.update(gradient, memory, image)
    return ray, memory


def _backtrack(
    objective: Callable[[jax.Array], jax.Array], p: _Point, ray: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The first of x - ray, x - ray/2, ... clipped to [0, 1], that lowers the objective enough (Armijo); else x."""

    def at(halvings: jax.Array) -> jax.Array:
        return jnp.clip(p.image - jnp.exp2(-halvings.astype(p.image.dtype)) * ray, 0.0, 1.0)

    def lower(halvings: jax.Array) -> jax.Array:
        gain = jnp.vdot(p.gradient, p.image - at(halvings))
        return objective(at(halvings)) <= p.loss - 1e-4 * gain

    def unfinished(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        return ~carry[1] & (carry[0] < _HALVINGS)

    def halve(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return carry[0] + 1, lower(carry[0] + 1)

    zero = jnp.zeros_like(p.calls)
    halvings, found = jax.lax.while_loop(unfinished, halve, (zero, lower(zero)))
    return jnp.where(found, at(halvings), p.image), found, halvings + 1
