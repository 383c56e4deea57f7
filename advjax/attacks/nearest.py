"""What attacks that look for the smallest change share: how they read the model, and what they keep."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Box, Quantize
from advjax.attacks.objectives import Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints

__all__ = ["Nearest", "NearestFooled", "Reading", "allowed_images", "falling"]


class Reading(NamedTuple):
    """What the model says of an image: the objective, its gradient [H, W, C], and whether the criterion is met."""

    loss: jax.Array
    gradient: jax.Array
    met: jax.Array


class Nearest(NamedTuple):
    """The nearest image so far that met the criterion; infinitely far, and the clean one, where there is none.

    Attributes:
      image, distance: in whichever distance the attack has.
      moved: a gradient so far was not zero.
      non_finite: see `State`.
    """

    image: jax.Array
    distance: jax.Array
    moved: jax.Array
    non_finite: jax.Array

    @classmethod
    def none(cls, state: State) -> "Nearest":
        """Before the first image is read."""
        no = jnp.zeros_like(state.non_finite)
        return cls(state.image, jnp.full_like(state.scale, jnp.inf), no, state.non_finite)

    def or_nearer(self, image: jax.Array, distance: jax.Array, met: jax.Array) -> "Nearest":
        """This one, or `image` where that met the criterion and is nearer."""
        better = met & (distance < self.distance)
        return self._replace(
            image=jnp.where(better, image, self.image), distance=jnp.where(better, distance, self.distance)
        )

    @property
    def found(self) -> jax.Array:
        """Whether there is one."""
        return jnp.isfinite(self.distance)

    def ends(self, state: State, calls: jax.Array | int) -> State:
        """The state after an attack that found it, and asked the model `calls` times."""
        failure = jnp.where(self.found, Failure.NONE, jnp.where(self.moved, Failure.NO_BOUNDARY, Failure.NO_DIRECTION))
        return state._replace(
            image=self.image,
            calls=state.calls + calls,
            failure=failure.astype(jnp.int32),
            non_finite=self.non_finite,
        )


class NearestFooled(Attack):
    """Base of attacks that go to and fro across the boundary and keep the nearest image that met their criterion."""

    objective: Objective

    def towards(self, targets: Number) -> Attack:
        objective, criterion = self.objective.towards(targets), self.criterion.towards(targets)
        return dataclasses.replace(self, objective=objective, criterion=criterion)  # type: ignore[type-var]

    def read(self, problem: Problem, image: jax.Array, nearest: Nearest) -> tuple[Reading, Nearest]:
        """Objective, gradient and criterion at an image, and `nearest` with what was seen of gradients."""

        def climbed(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = problem.logits(image)
            return self.objective(logits, problem.label, problem.clean_logits), logits

        (loss, logits), gradient = jax.value_and_grad(climbed, has_aux=True)(image)
        gradient, broken = made_finite(gradient)
        seen = nearest._replace(
            moved=nearest.moved | jnp.any(gradient != 0), non_finite=nearest.non_finite | broken
        )
        return Reading(loss, gradient, self.criterion(logits, problem.label)), seen


def allowed_images(mask: Mask | None, levels: int | None) -> All:
    """In [0, 1], rounded to the nearest level, and the clean image outside the mask."""
    grid = () if levels is None else (Quantize(levels, "nearest"),)
    return All((Box(), *grid, *mask_constraints(mask)))


def falling(k: jax.Array, steps: int, like: jax.Array) -> jax.Array:
    """From 1 in step 0 to almost 0 in the last along half a cosine: (1 + cos(pi k / steps)) / 2."""
    return 0.5 + 0.5 * jnp.cos(jnp.pi / steps * k.astype(like.dtype))
