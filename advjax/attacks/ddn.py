"""Decoupled Direction and Norm: the radius of the sphere follows the boundary (Rony et al. 2019)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Problem, State
from advjax.attacks.constraints import Constraint
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import L2, Chain, Direction
from advjax.attacks.nearest import Nearest, NearestFooled, allowed_images, falling
from advjax.attacks.objectives import CrossEntropy, Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_directions
from advjax.attacks.settings import check_count, check_real
from advjax.value import number, static, value

__all__ = ["DecoupledNorm", "ddn"]


def ddn(
    *,
    steps: int = 100,
    init_norm: Number = 1.0,
    gamma: Number = 0.05,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "DecoupledNorm":
    check_count("steps", steps)
    check_real("init_norm", init_norm, "above 0", lambda norm: norm > 0)
    check_real("gamma", gamma, "in (0, 1)", lambda share: (share > 0) & (share < 1))
    direction = Chain((*mask_directions(mask), L2()))
    return DecoupledNorm(CrossEntropy(), direction, allowed_images(mask, levels), init_norm, gamma, steps)


class _Walk(NamedTuple):
    """Where it is, the radius of the sphere that this image was put on, and what to return."""

    image: jax.Array
    norm: jax.Array
    nearest: Nearest


@value
class DecoupledNorm(NearestFooled):
    objective: Objective
    direction: Direction
    constraint: Constraint
    init_norm: Number = number()
    gamma: Number = number()
    steps: int = static()
    criterion: Criterion = Misclassified()

    def step(self, problem: Problem, state: State) -> State:
        origin = problem.image
        farthest = jnp.linalg.norm(jnp.maximum(origin, 1 - origin))

        def again(k: jax.Array, walk: _Walk) -> _Walk:
            reading, nearest = self.read(problem, walk.image, walk.nearest)
            change = walk.image - origin
            nearest = nearest.or_nearer(walk.image, jnp.linalg.norm(change), reading.met)
            ray, _ = self.direction.update(reading.gradient, self.direction.init(origin), walk.image)
            change = change + (0.01 + 0.99 * falling(k, self.steps, origin)) * ray
            norm = walk.norm * jnp.where(reading.met, 1 - self.gamma, 1 + self.gamma)
            norm = jnp.minimum(norm, farthest)
            size = jnp.linalg.norm(change)
            change = change * (norm / jnp.where(size > 0, size, 1.0))
            return _Walk(self.constraint(origin + change, origin), norm, nearest)

        start = _Walk(state.image, state.scale + self.init_norm, Nearest.none(state))
        last: _Walk = jax.lax.fori_loop(0, self.steps, again, start)
        return last.nearest.ends(state, self.steps)
