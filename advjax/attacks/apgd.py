"""Auto-PGD: projected gradient ascent with momentum that halves its own step size (Croce & Hein 2020)."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.apgd_l1 import PHASES, climb_l1
from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Ball, Box, Constraint, Quantize, ball
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Chain, Direction, steepest_ray
from advjax.attacks.objectives import DLR, CrossEntropy, Objective, TargetedDLR
from advjax.attacks.part import Mask, Number
from advjax.attacks.projections import BoxedL1Ball
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_count, check_radius
from advjax.value import static, value

__all__ = ["AutoPGD", "apgd", "checkpoints"]

# Croce & Hein 2020, section 3.1: share of steps that must rise, and weight of the new step against momentum.
_RHO, _ALPHA = 0.75, 0.75


def apgd(
    epsilon: Number,
    *,
    norm: Literal["linf", "l2", "l1"] = "linf",
    steps: int = 100,
    objective: Literal["ce", "dlr", "dlr-targeted"] = "ce",
    targets: int = 9,
    restarts: int = 1,
    random_start: bool = True,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "AutoPGD":
    """Auto-PGD, without a step size to choose (Croce & Hein 2020, algorithm 1).

    With f the objective, P the projection onto the ball and [0, 1], d the steepest direction of the norm and
    eta = 2 epsilon at first,

        z       = P(x_k + eta d(grad f(x_k)))
        x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})),

    and at each checkpoint where f rose in less than 75 % of the steps since the last one, or where neither eta nor
    the best f has changed since then, eta is halved and x restarts from the best point.

    The model is read at the rounded image, never at the point between the levels that the recursion goes on from, so
    that what is judged is what is returned: of all images on the way, the one of largest margin.  With `levels=None`
    the two are one, and it is the paper's algorithm.  For l1 it is another one, in
    `advjax.attacks.apgd_l1`.

    Args:
      epsilon: radius of the ball, in [0, 1] units; one number, or one for each image [B].
      norm: "linf", "l2" or "l1".
      steps: number of steps of each run.
      objective: "ce", the cross-entropy; "dlr", the difference-of-logits ratio; or "dlr-targeted", the targeted one,
        with one run for each of the `targets` classes that are closest on the clean image (fewer if the model has
        fewer).
      targets: number of target classes; without meaning but for "dlr-targeted".
      restarts: runs from different starts (for each target class).  No run begins for an image once it is fooled.
      random_start: begin at a uniform point of the ball (l1: at the projection of Gaussian noise), rather than at the
        clean image.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: an unknown norm or objective; a negative epsilon; a count below 1; restarts without random_start.

    Example:
      >>> from advjax.attacks import apgd
      >>> strong = apgd(0.3, objective="dlr-targeted")
    """
    objectives: dict[str, Objective] = {"ce": CrossEntropy(), "dlr": DLR(), "dlr-targeted": TargetedDLR()}
    if norm not in ("linf", "l2", "l1"):
        raise ValueError(f'norm must be "linf", "l2" or "l1", got {norm!r}')
    if objective not in objectives:
        raise ValueError(f'objective must be "ce", "dlr" or "dlr-targeted", got {objective!r}')
    for name, count in (("steps", steps), ("targets", targets), ("restarts", restarts)):
        check_count(name, count)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without random_start, since all would be the same, got {restarts}")
    check_radius("epsilon", epsilon)
    region = BoxedL1Ball(epsilon) if norm == "l1" else ball(norm, epsilon)
    return AutoPGD(
        objective=objectives[objective],
        # For l1 the number of entries that share a step varies: `climb_l1` picks them.
        direction=Chain((*mask_directions(mask), *(() if norm == "l1" else (steepest_ray(norm),)))),
        ball=region,
        constraint=All((region, Box(), *mask_constraints(mask))),
        grid=All(() if levels is None else (Quantize(levels, "inward"),)),
        steps=steps,
        targets=targets if objective == "dlr-targeted" else 1,
        restarts=restarts,
        random_start=random_start,
        criterion=Misclassified(),
    )


class _Climb(NamedTuple):
    """One run: where it is, the best point so far, and what it remembers since the last checkpoint."""

    point: jax.Array
    previous: jax.Array
    gradient: jax.Array
    loss: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_loss: jax.Array
    step_size: jax.Array
    rises: jax.Array
    halved: jax.Array
    best_loss_then: jax.Array
    kept: "_Kept"


class _Kept(NamedTuple):
    """The image to return, the one of largest margin, and whether that means success; what was seen of gradients."""

    image: jax.Array
    margin: jax.Array
    reached: jax.Array
    moved: jax.Array
    non_finite: jax.Array


@value
class AutoPGD(Attack):
    """See `apgd`, which makes it.

    Attributes:
      objective: what is climbed; a `TargetedDLR` goes through its ranks 1 to `targets`.
      direction, ball, constraint: as for `Move` and `RandomStart`.
      grid: the rounding under which the model is read.
      criterion: which of the images on the way is returned, the one of largest margin; once it is met, no run begins.
    """

    objective: Objective
    direction: Direction
    ball: Ball
    constraint: Constraint
    grid: Constraint
    steps: int = static()
    targets: int = static()
    restarts: int = static()
    random_start: bool = static()
    criterion: Criterion = Misclassified()

    @property
    def random(self) -> bool:
        return self.random_start

    def towards(self, targets: Number) -> Attack:
        objective, criterion = self.objective.towards(targets), self.criterion.towards(targets)
        return dataclasses.replace(self, objective=objective, criterion=criterion)

    def step(self, problem: Problem, state: State) -> State:
        targets = min(self.targets, problem.clean_logits.shape[-1] - 1)
        runs = targets * self.restarts

        def unfinished(carry: tuple[jax.Array, jax.Array, _Kept]) -> jax.Array:
            return (carry[0] < runs) & ~carry[2].reached

        def again(carry: tuple[jax.Array, jax.Array, _Kept]) -> tuple[jax.Array, jax.Array, _Kept]:
            run, _, kept = carry
            step_size, kept = self._run(problem, jax.random.fold_in(state.key, run), 1 + run % targets, kept)
            return run + 1, step_size, kept

        none = jnp.zeros_like(problem.label, dtype=jnp.bool_)
        nothing = _Kept(
            image=state.image,
            margin=jnp.full_like(state.scale, -jnp.inf),
            reached=none,
            moved=none,
            non_finite=state.non_finite,
        )
        ran, scale, kept = jax.lax.while_loop(unfinished, again, (jnp.zeros_like(state.calls), state.scale, nothing))
        failure = jnp.where(kept.moved, Failure.NONE, Failure.NO_DIRECTION).astype(jnp.int32)
        starts = PHASES if isinstance(self.ball, BoxedL1Ball) else 1
        calls = state.calls + ran * (self.steps + starts) * problem.gradient_calls
        return state._replace(image=kept.image, scale=scale, calls=calls, failure=failure, non_finite=kept.non_finite)

    def _run(self, problem: Problem, key: jax.Array, rank: jax.Array, kept: _Kept) -> tuple[jax.Array, _Kept]:
        """One run, to beat the image `kept`; the last step size, and the image that is kept after it."""
        origin, start = problem.image, problem.image
        if isinstance(self.ball, BoxedL1Ball):

            def read(k: jax.Array, point: jax.Array, counts: jax.Array, kept: Any) -> tuple[jax.Array, jax.Array, Any]:
                loss, gradient, kept = self._read(problem, rank, point, kept, counts)
                return loss, self.direction.update(gradient, self.direction.init(origin), point)[0], kept

            if self.random_start:
                noise = jax.random.normal(key, origin.shape, origin.dtype)
                start = origin + self.direction.update(noise, self.direction.init(origin), origin)[0]
            return climb_l1(read, start, origin, self.ball, self.steps, kept)
        if self.random_start:
            start = self.constraint(origin + self.ball.sample(key, origin), origin)
        marks = checkpoints(self.steps)
        gaps = np.zeros(self.steps + 1, np.float32)
        gaps[marks[1:]] = np.diff(marks)

        def step(k: jax.Array, c: _Climb) -> _Climb:
            moved = self._move(problem, rank, jnp.where(k == 0, 1.0, _ALPHA).astype(origin.dtype), c)
            gap = jnp.asarray(gaps).astype(origin.dtype)[k + 1]
            checked = _checked(moved, gap)
            after: _Climb = jax.tree.map(lambda new, old: jnp.where(gap > 0, new, old), checked, moved)
            return after

        loss, gradient, kept = self._read(problem, rank, start, kept)
        zero = jnp.zeros_like(loss)
        climb = _Climb(
            point=start,
            previous=start,
            gradient=gradient,
            loss=loss,
            best=start,
            best_gradient=gradient,
            best_loss=loss,
            step_size=2 * jnp.asarray(self.ball.epsilon).astype(origin.dtype) + zero,
            rises=zero,
            halved=zero > 1,
            best_loss_then=loss,
            kept=kept,
        )
        end: _Climb = jax.lax.fori_loop(0, self.steps, step, climb)
        return end.step_size, end.kept

    def _move(self, problem: Problem, rank: jax.Array, share: jax.Array, c: _Climb) -> _Climb:
        """The step and its momentum; `share` is the weight of the step."""
        origin = problem.image
        ray, _ = self.direction.update(c.gradient, self.direction.init(origin), c.point)
        ray, broken = made_finite(ray)
        z = self.constraint(c.point + c.step_size * ray, origin)
        point = self.constraint(c.point + share * (z - c.point) + (1 - share) * (c.point - c.previous), origin)
        seen = c.kept._replace(non_finite=c.kept.non_finite | broken)
        loss, gradient, kept = self._read(problem, rank, point, seen)
        better = loss > c.best_loss
        return c._replace(
            point=point,
            previous=c.point,
            gradient=gradient,
            loss=loss,
            best=jnp.where(better, point, c.best),
            best_gradient=jnp.where(better, gradient, c.best_gradient),
            best_loss=jnp.where(better, loss, c.best_loss),
            rises=c.rises + (loss > c.loss).astype(c.rises.dtype),
            kept=kept,
        )

    def _read(
        self, problem: Problem, rank: jax.Array, point: jax.Array, kept: _Kept, counts: jax.Array | bool = True
    ) -> tuple[jax.Array, jax.Array, _Kept]:
        """Objective and gradient at the rounded point, which is also judged where it `counts`."""
        objective = self.objective
        if isinstance(objective, TargetedDLR):
            objective = dataclasses.replace(objective, rank=rank)

        image = self.grid(point, problem.image)
        (loss, logits), gradient = jax.value_and_grad(problem.climbed(objective), has_aux=True)(image)
        gradient, broken = made_finite(gradient)
        margin = jnp.where(counts, self.criterion.margin(logits, problem.label), -jnp.inf)
        clear = self.criterion(logits, problem.label) & counts
        # A margin within rounding error, where the logits have grown, must not take the place of a clear one.
        better = jnp.where(clear == kept.reached, margin > kept.margin, clear)
        judged = _Kept(
            image=jnp.where(better, image, kept.image),
            margin=jnp.where(better, margin, kept.margin),
            reached=clear | kept.reached,
            moved=kept.moved | jnp.any(gradient != 0),
            non_finite=kept.non_finite | broken,
        )
        return loss, gradient, judged


def checkpoints(steps: int) -> list[int]:
    """The steps w_0 = 0 < w_1 < ... at which the step size is looked at (Croce & Hein 2020, section 3.1).

    w_j = ceil(p_j steps), with p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).

    Example:
      >>> from advjax.attacks.apgd import checkpoints
      >>> checkpoints(100)
      [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    hundredths = [0, 22]
    while hundredths[-1] <= 100:
        hundredths.append(hundredths[-1] + max(hundredths[-1] - hundredths[-2] - 3, 6))
    return sorted({math.ceil(p * steps / 100) for p in hundredths[:-1]})


def _checked(c: _Climb, gap: jax.Array) -> _Climb:
    """At a checkpoint, `gap` steps after the last: conditions 1 and 2 of the paper."""
    stalled = (c.rises < _RHO * gap) | (~c.halved & (c.best_loss == c.best_loss_then))
    return c._replace(
        point=jnp.where(stalled, c.best, c.point),
        gradient=jnp.where(stalled, c.best_gradient, c.gradient),
        loss=jnp.where(stalled, c.best_loss, c.loss),
        step_size=jnp.where(stalled, 0.5 * c.step_size, c.step_size),
        rises=jnp.zeros_like(c.rises),
        halved=stalled,
        best_loss_then=c.best_loss,
    )
