"""Fast Minimum-Norm: the radius of a ball in l0, l1, l2 or linf follows the boundary (Pintor et al. 2021)."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Problem, State
from advjax.attacks.constraints import Constraint, ball
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import L2, Chain, Direction, Inside
from advjax.attacks.nearest import Nearest, NearestFooled, allowed_images, falling
from advjax.attacks.objectives import Margin, Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_directions
from advjax.attacks.settings import check_count, check_real
from advjax.value import number, static, value

__all__ = ["FastMinimumNorm", "fmn"]

# Of each norm, the order that NumPy knows it by, and that of its dual.
_ORDERS = {"linf": (np.inf, 1), "l2": (2, 2), "l1": (1, np.inf), "l0": (0, np.inf)}
_LAST_GAMMA = 0.001


def fmn(
    norm: Literal["linf", "l2", "l1", "l0"] = "l2",
    *,
    steps: int = 100,
    step_size: Number = 1.0,
    gamma: Number = 0.05,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "FastMinimumNorm":
    if norm not in _ORDERS:
        raise ValueError(f'norm must be "linf", "l2", "l1" or "l0", got {norm!r}')
    check_count("steps", steps)
    check_real("step_size", step_size, "above 0", lambda size: size > 0)
    check_real("gamma", gamma, "in (0, 1)", lambda share: (share > 0) & (share < 1))
    direction = Chain((Inside(), *mask_directions(mask)))
    return FastMinimumNorm(Margin(), direction, allowed_images(mask, levels), step_size, gamma, norm, steps)


class _Walk(NamedTuple):
    """Where it is, not rounded; the radius of the ball that this point was put into; and what to return."""

    point: jax.Array
    radius: jax.Array
    nearest: Nearest


@value
class FastMinimumNorm(NearestFooled):
    objective: Objective
    direction: Direction
    constraint: Constraint
    step_size: Number = number()
    gamma: Number = number()
    norm: Literal["linf", "l2", "l1", "l0"] = static()
    steps: int = static()
    criterion: Criterion = Misclassified()

    def step(self, problem: Problem, state: State) -> State:
        origin = problem.image
        farthest = self._size(jnp.maximum(origin, 1 - origin))

        def again(k: jax.Array, walk: _Walk) -> _Walk:
            share = falling(k, self.steps, origin)
            gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * share
            image = self.constraint(walk.point, origin)
            reading, nearest = self.read(problem, image, walk.nearest)
            distance = self._size(image - origin)
            nearest = nearest.or_nearer(image, distance, reading.met)
            gradient, _ = self.direction.update(reading.gradient, self.direction.init(origin), walk.point)
            radius = self._next_radius(walk.radius, gamma, reading, gradient, distance, nearest)
            radius = jnp.minimum(radius, farthest)
            point = walk.point + self.step_size * (0.01 + 0.99 * share) * L2().ray(gradient)
            return _Walk(jnp.clip(self._into_ball(point, origin, radius), 0.0, 1.0), radius, nearest)

        start = _Walk(state.image, state.scale + (1 if self.norm == "l0" else jnp.inf), Nearest.none(state))
        last: _Walk = jax.lax.fori_loop(0, self.steps, again, start)
        return last.nearest.ends(state, self.steps)

    def _next_radius(self, radius, gamma, reading, gradient, distance, nearest):
        smaller, larger = radius * (1 - gamma), radius * (1 + gamma)
        if self.norm == "l0":
            smaller = jnp.minimum(radius - 1, jnp.floor(smaller))
            larger = jnp.maximum(radius + 1, jnp.floor(larger))
            return jnp.where(reading.met, jnp.maximum(jnp.minimum(smaller, nearest.distance), 1.0), larger)
        slope = jnp.linalg.norm(gradient.reshape(-1), _ORDERS[self.norm][1])
        ahead = distance + jnp.abs(reading.loss) / slope
        larger = jnp.where(nearest.found, larger, ahead)
        return jnp.where(reading.met, jnp.minimum(smaller, nearest.distance), larger)

    def _into_ball(self, point, origin, radius):
        if self.norm == "l0":
            change = (point - origin).reshape(-1)
            ranks = jnp.argsort(jnp.argsort(jnp.abs(change), descending=True))
            return origin + jnp.where(ranks < radius, change, 0.0).reshape(origin.shape)
        return ball(self.norm, radius)(point, origin)

    def _size(self, change: jax.Array) -> jax.Array:
        return jnp.linalg.norm(change.reshape(-1), _ORDERS[self.norm][0])
