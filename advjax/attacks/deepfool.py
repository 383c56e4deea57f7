"""DeepFool: the way to the nearest decision boundary, by linear steps (Moosavi-Dezfooli, Fawzi, Frossard 2016)."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified, clear_lead
from advjax.attacks.directions import Chain, Direction, steepest_ray
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_count, check_radius
from advjax.value import number, static, value

__all__ = ["DeepFool", "Path", "deepfool"]


def deepfool(
    *,
    norm: Literal["l2", "linf"] = "l2",
    steps: int = 50,
    overshoot: Number = 0.02,
    classes: int = 10,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "DeepFool":
    """The nearest decision boundary of the linearized model, again and again (Moosavi-Dezfooli et al. 2016).

    With y the label, h the logits, h'_k = h_k - h_y and w_k = grad h'_k, both at the image x_i that was reached,

        r_i     = |h'_l| / ||w_l||_q d(w_l),    l = argmin_k |h'_k| / ||w_k||_q,
        x_{i+1} = x_0 + (1 + overshoot) (r_0 + ... + r_i),

    until x_i is answered wrongly: the paper's algorithm 2 (l2: d(w) = w / ||w||_2, q = 2) and its eqs. 11 and 12
    (linf: d(w) = sgn(w), q = 1).  As in the authors' Python code, in DeepFool's and in that of the universal
    perturbation, the model is read beyond the boundary, at x_0 + (1 + overshoot) r; algorithm 2 reads it at x_0 + r,
    and adds the overshoot at the end.  k runs over the classes that come next on the clean image.

    Authors and paper leave x_i where it falls.  Here the model is read at the image as it would be returned, in [0, 1]
    and rounded to the nearest level, while the sum of the r_i is not rounded: what is found is answered wrongly as it
    is, but it is not minimal.  Entries of r below half a level vanish in rounding, and the way goes on until what is
    left of it is enough.  `levels=None` measures distances.

    Args:
      norm: "l2" or "linf", in which the boundary is nearest.
      steps: most linear steps.
      overshoot: how far beyond the boundary, as a share of the way to it, 0 or more; one number, or one for each
        image [B].
      classes: how many classes are looked at, the label among them; all, where the model has fewer.  Each costs a
        gradient in each step.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: an unknown norm; steps below 1, or classes below 2; a negative overshoot.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import deepfool, from_function, perturb
      >>> def model(w, x):
      ...     return jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1)
      >>> classifier = from_function(model, jnp.float32(2.0))  # answers 0 where the sum is above 1
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.5), jnp.array([0])
      >>> result = perturb(deepfool(levels=None), classifier, images, labels)
      >>> round(float(result.l2[0]), 4), result.success.tolist()  # 1.02 times the distance, which is 1 / 2
      (0.51, [True])
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f'norm must be "l2" or "linf", got {norm!r}')
    check_radius("overshoot", overshoot)
    grid = () if levels is None else (Quantize(levels, "nearest"),)
    constraint = All((Box(), *grid, *mask_constraints(mask)))
    return DeepFool(Chain((*mask_directions(mask), steepest_ray(norm))), constraint, overshoot, classes, steps)


class Path(NamedTuple):
    """Where DeepFool is.

    Attributes:
      steps: how many were made.
      change: their sum r [H, W, C], without the overshoot.
      image: x + (1 + overshoot) r, made allowed.
      fooled: it meets the criterion.
      stuck: no class has a gradient to go along.
      non_finite: see `State`.
    """

    steps: jax.Array
    change: jax.Array
    image: jax.Array
    fooled: jax.Array
    stuck: jax.Array
    non_finite: jax.Array


@value
class DeepFool(Attack):
    """See `deepfool`, which makes it.

    Attributes:
      direction: from a gradient w to the d of norm 1 that w grows fastest along, so that ||w||_q is `<w, d>`.
      constraint: makes an image allowed, grid included.
      overshoot, classes, steps: as there.
      criterion: where the way ends.
    """

    direction: Direction
    constraint: Constraint
    overshoot: Number = number()
    classes: int = static()
    steps: int = static()
    criterion: Criterion = Misclassified()

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("classes", self.classes)
        if self.classes < 2:
            raise ValueError(f"classes must be 2 or more, the label and another, got {self.classes}")

    def step(self, problem: Problem, state: State) -> State:
        path = self.follow(problem)
        failure = jnp.where(path.stuck, Failure.NO_DIRECTION, Failure.NONE).astype(jnp.int32)
        return state._replace(
            image=path.image,
            calls=state.calls + self.calls(problem, path),
            failure=failure,
            non_finite=state.non_finite | path.non_finite,
        )

    def follow(self, problem: Problem) -> Path:
        """The way from the clean image; of no step, where that is answered wrongly."""
        origin, no = problem.image, jnp.zeros_like(problem.label, dtype=jnp.bool_)
        others = problem.clean_logits.at[problem.label].set(-jnp.inf)
        _, candidates = jax.lax.top_k(others, self._candidates(problem))

        def unfinished(path: Path) -> jax.Array:
            return ~path.fooled & ~path.stuck & (path.steps < self.steps)

        def again(path: Path) -> Path:
            step, broken = self._to_nearest(problem, candidates, path.image)
            change = path.change + step
            image = self.constraint(origin + (1 + self.overshoot) * change, origin)
            return Path(
                steps=path.steps + 1,
                change=change,
                image=image,
                fooled=self.criterion(problem.logits(image), problem.label),
                stuck=~jnp.any(step != 0),
                non_finite=path.non_finite | broken,
            )

        fooled = self.criterion(problem.clean_logits, problem.label)
        start = Path(jnp.zeros_like(problem.label), jnp.zeros_like(origin), origin, fooled, no, no)
        path: Path = jax.lax.while_loop(unfinished, again, start)
        return path

    def calls(self, problem: Problem, path: Path) -> jax.Array:
        """Evaluations of the model on the way: in each step a gradient for each class, and one to see what it did."""
        return path.steps * (self._candidates(problem) * problem.gradient_calls + 1)

    def _candidates(self, problem: Problem) -> int:
        return min(self.classes, problem.clean_logits.shape[-1]) - 1

    def _to_nearest(self, problem: Problem, candidates: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The step to the nearest boundary of the model linearized at `image`, and whether a gradient was not finite.

        Zero, where no boundary can be reached.
        """

        def ray_of(slope: jax.Array) -> jax.Array:
            ray, _ = self.direction.update(slope, self.direction.init(image), image)
            return ray

        logits, pull = jax.vjp(problem.logits, image)
        one_hot = functools.partial(jax.nn.one_hot, num_classes=logits.shape[-1], dtype=logits.dtype)
        cotangents = one_hot(candidates) - one_hot(problem.label)[None]
        slopes, broken = jax.vmap(lambda cotangent: made_finite(pull(cotangent)[0]))(cotangents)
        rays = jax.vmap(ray_of)(slopes)
        gains = jnp.sum(slopes * rays, axis=(1, 2, 3))
        # At the boundary itself no share of the distance, which is 0, leads over it: at least what counts as a lead.
        leads = jax.vmap(clear_lead, (0, None, None))(logits[candidates], logits[problem.label], logits)
        least = leads + jnp.finfo(logits.dtype).eps
        gaps = jnp.maximum(jnp.abs(logits[candidates] - logits[problem.label]), least)
        # A class whose gradient is that of the label, or that is masked by -infinity, has no boundary.
        reachable = (gains > 0) & jnp.isfinite(gains) & jnp.isfinite(gaps)
        distances = jnp.where(reachable, gaps / jnp.where(reachable, gains, 1.0), jnp.inf)
        nearest = jnp.argmin(distances)
        step = jnp.where(reachable[nearest], distances[nearest], 0.0) * rays[nearest]
        return step, jnp.any(broken)
