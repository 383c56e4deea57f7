"""What attacks that look for the smallest change share: how they read the model, and what they keep."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.directions import Direction
from advjax.attacks.objectives import Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints
from advjax.attacks.settings import check_real
from advjax.value import value

__all__ = ["Nearest", "NearestFooled", "Reading", "allowed_images", "check_positive", "check_share", "falling"]


class Reading(NamedTuple):
    """What the model says of an image: the objective, its gradient [H, W, C], and whether that is what was wanted."""

    loss: jax.Array
    gradient: jax.Array
    met: jax.Array


class Nearest(NamedTuple):
    """The nearest image so far that is answered as wanted; infinitely far, and the clean one, where there is none.

    Attributes:
      image, distance: in whichever distance the attack has.
      moved: a gradient so far was not zero.
      non_finite: see `State`.
    """

    image: jax.Array
    distance: jax.Array
    moved: jax.Array
    non_finite: jax.Array

    def or_nearer(self, image: jax.Array, distance: jax.Array, met: jax.Array) -> "Nearest":
        """This one, or `image` where that is answered as wanted and is nearer."""
        better = met & (distance < self.distance)
        kept = jnp.where(better, image, self.image), jnp.where(better, distance, self.distance)
        return Nearest(*kept, self.moved, self.non_finite)

    def ends(self, problem: Problem, state: State, reads: int) -> State:
        """The state after an attack that found it in so many reads of the model with its gradient."""
        failure = jnp.where(self.moved, Failure.NO_BOUNDARY, Failure.NO_DIRECTION)
        failure = jnp.where(jnp.isfinite(self.distance), Failure.NONE, failure).astype(jnp.int32)
        asked = state.calls + reads * problem.gradient_calls
        return state._replace(image=self.image, calls=asked, failure=failure, non_finite=self.non_finite)


@value
class NearestFooled(Attack):
    """Base of attacks that go to and fro across the boundary and keep the nearest image that is answered as wanted.

    Attributes:
      objective: what is climbed.
      mask: forgets its gradient where the user wants no change.
      constraint: makes an image allowed, grid included.
    """

    objective: Objective
    mask: Direction
    constraint: Constraint

    def towards(self, targets: Number) -> Attack:
        objective, criterion = self.objective.towards(targets), self.criterion.towards(targets)
        # The criterion is a field of those who derive from this.
        return dataclasses.replace(self, objective=objective, criterion=criterion)  # type: ignore[call-arg]

    def nothing_yet(self, problem: Problem, state: State) -> Nearest:
        """Before the first image is read.  Nothing is nearer than a clean image that is answered wrongly already."""
        wrong = self.criterion(problem.clean_logits, problem.label)
        distance = jnp.where(wrong, state.scale, jnp.inf)
        return Nearest(state.image, distance, jnp.zeros_like(state.non_finite), state.non_finite)

    def wanted(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """Whether an image of these logits may be returned, bool."""
        return self.criterion(logits, label)

    def read(self, problem: Problem, image: jax.Array, nearest: Nearest) -> tuple[Reading, Nearest]:
        """What the model says of an image, and `nearest` with what was seen of gradients."""
        (loss, logits), gradient = jax.value_and_grad(problem.climbed(self.objective), has_aux=True)(image)
        gradient, broken = made_finite(gradient)
        gradient, _ = self.mask.update(gradient, self.mask.init(image), image)
        moved, broken = nearest.moved | jnp.any(gradient != 0), nearest.non_finite | broken
        reading = Reading(loss, gradient, self.wanted(logits, problem.label))
        return reading, nearest._replace(moved=moved, non_finite=broken)


def allowed_images(mask: Mask | None, levels: int | None) -> All:
    """In [0, 1], rounded to the nearest level, and the clean image outside the mask."""
    grid = () if levels is None else (Quantize(levels, "nearest"),)
    return All((Box(), *grid, *mask_constraints(mask)))


def falling(k: jax.Array, steps: int, like: jax.Array) -> jax.Array:
    """From 1 in step 0 to almost 0 in the last along half a cosine: (1 + cos(pi k / steps)) / 2."""
    return 0.5 + 0.5 * jnp.cos(k.astype(like.dtype) * (np.pi / steps))


def check_positive(name: str, content: object) -> None:
    """Raises unless `content` is a finite number above 0, or an array of such, one for each image."""
    check_real(name, content, "a finite number above 0", lambda array: np.isfinite(array) & (array > 0))


def check_share(name: str, content: object) -> None:
    """Raises unless `content` is a number in (0, 1), or an array of such, one for each image."""
    check_real(name, content, "in (0, 1)", lambda array: (array > 0) & (array < 1))
