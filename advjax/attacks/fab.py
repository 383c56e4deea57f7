"""FAB: a fast adaptive boundary attack, which looks for the nearest wrong answer (Croce & Hein 2020b).

Each step linearizes the model, as DeepFool's does, but projects onto hyperplane and box at once, and is drawn to the
clean image.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Ball, Constraint, Quantize, ball
from advjax.attacks.criteria import Criterion, Misclassified, TargetReached
from advjax.attacks.directions import Chain, Direction, steepest_ray
from advjax.attacks.objectives import ranked_class
from advjax.attacks.part import Mask, Number
from advjax.attacks.projections import to_hyperplane
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_count, check_radius, check_real
from advjax.scores.norms import l1, l2, linf
from advjax.value import number, static, value

__all__ = ["Boundaries", "fab"]

# The radius from half of which restarts begin where no epsilon is given and nothing was found: the authors' own.
_RADII = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
_DISTANCES = {"linf": linf, "l2": l2, "l1": l1}
# What is beyond a linearized boundary by less than this share of the way to it is at it.
_BEYOND = 1e-4


def fab(
    epsilon: Number | None = None,
    *,
    norm: Literal["linf", "l2", "l1"] = "linf",
    steps: int = 100,
    restarts: int = 1,
    targets: int | None = None,
    alpha_max: Number = 0.1,
    eta: Number = 1.05,
    beta: Number = 0.9,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "Boundaries":
    """The Fast Adaptive Boundary attack (Croce & Hein 2020b, algorithm 1), and FAB-T (2020a, section 4).

    With x the clean image, h'_k = h_k - h_y, and pi the hyperplane on which the h'_k linearized at x_i is zero whose
    |h'_k(x_i)| / ||grad h'_k||_q is least,

        d_i     = the smallest step from x_i onto pi within [0, 1], and d that from x,
        a       = min(||d_i|| / (||d_i|| + ||d||), alpha_max),
        x_{i+1} = clip((1 - a) (x_i + eta d_i) + a (x + eta d), 0, 1).

    Where x_{i+1} is answered wrongly it is kept if none was nearer, and the way goes on from
    (1 - beta) x + beta x_{i+1}.  The nearest image found is returned, or the clean one.

    The model is read and distances are measured at the image rounded to the nearest level, and d_i is the step that
    this image needs, while the way goes on from x_i, which is not rounded; with `levels=None` the two are one, and it
    is the paper's algorithm without its final search, which the authors' own code leaves out too.

    Args:
      epsilon: None: the nearest image, from all runs.  A radius in [0, 1] units, one number or one for each image [B]:
        only an image within it counts, and no step is made once there is one.
      norm: "linf", "l2" or "l1", in which it is near.
      steps: of each run; each reads the model twice, once for gradients.
      restarts: runs (for each target class).  The first begins at the clean image, others at a random point around it,
        at half the distance of the nearest image found, or of epsilon (0.3, 1.0 and 5.0 without one) if that is less.
      targets: None: in each step all classes are looked at, which costs a gradient for each.  A number: FAB-T, with one
        run for each of that many classes that come next on the clean image, of which each step looks at one.
      alpha_max: greatest weight of the clean image, in [0, 1].
      eta: overshoot, 1 or more.
      beta: what is left of the way after a step back, in [0, 1].
      mask, levels: as for `fgs`.

    Raises:
      ValueError: an unknown norm; a negative epsilon; a count below 1; a number out of its range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import fab, from_function, perturb
      >>> def model(w, x):
      ...     return jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1)
      >>> classifier = from_function(model, jnp.float32(2.0))  # answers 0 where the sum is above 1
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.5), jnp.array([0])
      >>> result = perturb(fab(norm="l1", levels=None), classifier, images, labels, jax.random.key(0))
      >>> round(float(result.l1[0]), 2), result.success.tolist()  # the boundary is at a distance of 1
      (1.0, [True])
    """
    if norm not in _RADII:
        raise ValueError(f'norm must be "linf", "l2" or "l1", got {norm!r}')
    for name, count in (("steps", steps), ("restarts", restarts), ("targets", 1 if targets is None else targets)):
        check_count(name, count)
    if epsilon is not None:
        check_radius("epsilon", epsilon)
    for name, share in (("alpha_max", alpha_max), ("beta", beta)):
        check_real(name, share, "in [0, 1]", lambda array: (array >= 0) & (array <= 1))
    check_real("eta", eta, "1 or more", lambda array: (array >= 1) & np.isfinite(array))
    grid = () if levels is None else (Quantize(levels, "nearest"),)
    return Boundaries(
        within=None if epsilon is None else ball(norm, epsilon),
        around=ball(norm, 1.0),
        mask=Chain(mask_directions(mask)),
        grid=All((*grid, *mask_constraints(mask))),
        alpha_max=alpha_max,
        eta=eta,
        beta=beta,
        norm=norm,
        steps=steps,
        restarts=restarts,
        targets=targets,
    )


class _Way(NamedTuple):
    """Where it is: `turn` counts the steps of all runs; the nearest image so far and how far it is."""

    turn: jax.Array
    point: jax.Array
    image: jax.Array
    distance: jax.Array
    moved: jax.Array
    non_finite: jax.Array


@value
class Boundaries(Attack):
    """See `fab`, which makes it.

    Attributes:
      within: where an image counts, and ends the search; None: everywhere, and nothing does.
      around: the ball of radius 1, whose draws restarts begin at, scaled.
      mask: forgets the gradient outside the mask.
      grid: the rounding under which the model is read.
      target: None; or the one class that is looked at, against the best of all others.
      the others: as there.
    """

    within: Ball | None
    around: Ball
    mask: Direction
    grid: Constraint
    alpha_max: Number = number()
    eta: Number = number()
    beta: Number = number()
    norm: Literal["linf", "l2", "l1"] = static()
    steps: int = static()
    restarts: int = static()
    targets: int | None = static()
    target: Number | None = number(dtype=np.int32, default=None)

    @property
    def random(self) -> bool:
        return self.restarts > 1

    @property
    def criterion(self) -> Criterion:
        return Misclassified() if self.target is None else TargetReached(self.target)

    def asked_classes(self) -> dict[str, Number]:
        return {} if self.target is None else {"targets": self.target}

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, target=targets, targets=1)

    def step(self, problem: Problem, state: State) -> State:
        others = problem.clean_logits.shape[-1] - 1
        classes = 1 if self.targets is None else min(self.targets, others)
        turns = classes * self.restarts * self.steps
        right = jnp.argmax(problem.clean_logits).astype(problem.label.dtype) == problem.label
        attacked = right & self.criterion.possible(problem.label)

        def unfinished(way: _Way) -> jax.Array:
            over = jnp.zeros_like(attacked) if self.within is None else jnp.isfinite(way.distance)
            return attacked & (way.turn < turns) & ~over

        def move(way: _Way) -> _Way:
            run = way.turn // self.steps
            start = problem.image
            if self.restarts > 1:
                drawn = self._drawn(problem, jax.random.fold_in(state.key, run), way.distance)
                start = jnp.where(run < classes, start, drawn)
            point = jnp.where(way.turn % self.steps == 0, start, way.point)
            if self.target is not None:
                looked_at = jnp.asarray(self.target)[None]
            elif self.targets is not None:
                looked_at = ranked_class(problem.clean_logits, problem.label, 1 + run % classes)[None]
            else:
                looked_at = jnp.arange(others, dtype=jnp.int32)
                looked_at = jnp.where(looked_at < problem.label, looked_at, looked_at + 1)
            return self._move(problem, looked_at, way._replace(point=point))

        first = _Way(
            turn=jnp.zeros_like(state.calls),
            point=problem.image,
            image=problem.image,
            distance=jnp.full_like(state.scale, jnp.inf),
            moved=jnp.zeros_like(state.non_finite),
            non_finite=state.non_finite,
        )
        last = jax.lax.while_loop(unfinished, move, first)
        failure = jnp.where(jnp.isfinite(last.distance), Failure.NONE, Failure.NO_BOUNDARY)
        failure = jnp.where(last.moved, failure, Failure.NO_DIRECTION).astype(jnp.int32)
        planes = others if self.targets is None else 1
        calls = state.calls + last.turn * (1 + planes * problem.gradient_calls)
        return state._replace(image=last.image, calls=calls, failure=failure, non_finite=last.non_finite)

    def _drawn(self, problem: Problem, key: jax.Array, nearest: jax.Array) -> jax.Array:
        """A random point at half of a radius from the clean image."""
        reach = jnp.asarray(_RADII[self.norm] if self.within is None else self.within.epsilon)
        reach = 0.5 * jnp.minimum(reach.astype(nearest.dtype), nearest)
        drawn = self.around.sample(key, problem.image)
        shift = drawn * (reach / jnp.maximum(_DISTANCES[self.norm](drawn, jnp.zeros_like(drawn)), 1e-12))
        shift, _ = self.mask.update(shift, self.mask.init(problem.image), problem.image)
        return jnp.clip(problem.image + shift, 0.0, 1.0)

    def _move(self, problem: Problem, classes: jax.Array, way: _Way) -> _Way:
        """One step, and the step back from what is answered wrongly."""
        origin, point = problem.image, way.point
        slope, value_there, read_at, found, broken = self._nearest_plane(problem, classes, point)
        # <slope, z - read_at> = -value: from where it was read, and from the clean image.
        ends = jnp.stack([read_at, origin])
        gains = -value_there - jnp.sum(slope[None] * (ends - read_at[None]), axis=(1, 2, 3))
        project = functools.partial(to_hyperplane, norm=self.norm)
        ways, sizes = jax.vmap(project, (0, None, 0))(ends, slope, gains)
        sizes = jnp.maximum(sizes, 1e-8)
        alpha = jnp.minimum(sizes[0] / (sizes[0] + sizes[1]), self.alpha_max)
        # The step that the rounded image needs, from the unrounded point: what rounding swallows adds up.  Where it
        # swallowed all, nothing may draw the point back.
        alpha = jnp.where(jnp.any(read_at != origin), alpha, 0.0)
        after = jnp.clip(_between(alpha, point + self.eta * ways[0], origin + self.eta * ways[1]), 0.0, 1.0)
        # Where all that was changed is at 0 or 1 the box takes the overshoot back: others must change for it.
        beyond, _ = jax.vmap(project, (0, None, 0))(ends, slope, jnp.asarray(self.eta) * gains)
        short = jnp.sum(slope * (after - read_at)) <= -value_there * (1 + _BEYOND)
        after = jnp.where(short, jnp.clip(_between(alpha, point + beyond[0], origin + beyond[1]), 0.0, 1.0), after)
        after = jnp.where(found, after, point)
        image = self.grid(after, origin)
        logits = problem.logits(image)
        distance = _DISTANCES[self.norm](image, origin).astype(way.distance.dtype)
        met = self.criterion(logits, problem.label) & jnp.any(image != origin)
        # Float error of the difference itself must not put an image on the sphere outside.
        counts = met if self.within is None else met & (distance <= self.within.epsilon * (1 + 1e-6) + 1e-7)
        nearer = counts & (distance < way.distance)
        return _Way(
            turn=way.turn + 1,
            point=jnp.where(met, (1 - self.beta) * origin + self.beta * after, after),
            image=jnp.where(nearer, image, way.image),
            distance=jnp.where(nearer, distance, way.distance),
            moved=way.moved | found,
            non_finite=way.non_finite | broken,
        )

    def _nearest_plane(
        self, problem: Problem, classes: jax.Array, point: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        """Of the boundaries linearized at the point the nearest: its gradient, h' there, where that was read.

        And whether there is one, and whether a gradient was not finite.
        """
        read_at = self.grid(point, problem.image)
        logits, pull = jax.vjp(problem.logits, read_at)
        one_hot = functools.partial(jax.nn.one_hot, num_classes=logits.shape[-1], dtype=logits.dtype)
        # A target must lead over all others, not only over the label.
        rival = problem.label
        if self.target is not None:
            rival = jnp.argmax(jnp.where(one_hot(classes[0]) > 0, -jnp.inf, logits))
        cotangents = one_hot(classes) - one_hot(rival)[None]
        slopes, broken = jax.vmap(lambda cotangent: made_finite(pull(cotangent)[0]))(cotangents)
        slopes = jax.vmap(lambda slope: self.mask.update(slope, self.mask.init(point), point)[0])(slopes)
        values = logits[classes] - logits[rival]
        # ||slope||_q is what the slope gains along the ray of norm 1 that it is steepest along.
        ray = steepest_ray(self.norm)
        sizes = jax.vmap(lambda slope: jnp.sum(slope * ray.ray(slope)))(slopes)
        reachable = (sizes > 0) & jnp.isfinite(values)
        distances = jnp.where(reachable, jnp.abs(values) / jnp.where(reachable, sizes, 1.0), jnp.inf)
        nearest = jnp.argmin(distances)
        value_there = jnp.where(reachable[nearest], values[nearest], 0.0)
        return slopes[nearest], value_there, read_at, reachable[nearest], jnp.any(broken)


def _between(share: jax.Array, point: jax.Array, other: jax.Array) -> jax.Array:
    return (1 - share) * point + share * other
