"""What attacks share that see a model's decisions alone: noise that fools, and the nearest image that was seen to."""

import dataclasses
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Asks, Attack, Failure, Problem, State
from advjax.attacks.constraints import Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Direction
from advjax.attacks.part import Number
from advjax.attacks.settings import check_count
from advjax.value import static, value

__all__ = ["DecisionSearch", "Seen"]

_DRAWS = 100  # of noise, before an image is given up


class Seen(NamedTuple):
    """What was read at one point.

    Attributes:
      point: [H, W, C], not rounded, so that steps of less than half a level add up.
      image: [H, W, C], the point as it would be returned.
      fooled: whether the image meets the criterion.
    """

    point: jax.Array
    image: jax.Array
    fooled: jax.Array


@value
class DecisionSearch(Attack):
    """Base of searches that start from uniform noise that fools and come nearer to the clean image.

    Attributes:
      mask: forgets what a direction says of entries that may not change.
      within: makes a point allowed, but for the grid.
      grid: how an image is rounded before it is read; None: not at all.
      queries: most evaluations of the model.
      criterion: what the images must meet.
    """

    mask: Direction
    within: Constraint
    grid: Quantize | None
    queries: int = static()
    criterion: Criterion = Misclassified()
    random = True
    asks: ClassVar[Asks] = "decisions"

    def __post_init__(self) -> None:
        check_count("queries", self.queries)

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, criterion=self.criterion.towards(targets))

    @abstractmethod
    def search(self, problem: Problem, key: jax.Array, start: Seen, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The nearest image found, and how many queries were made; `query` of them were before.

        It makes none where `start` does not fool.
        """

    def step(self, problem: Problem, state: State) -> State:
        start_key, key = jax.random.split(state.key)
        start, query = self._noise(problem, start_key)
        image, query = self.search(problem, key, start, query)
        return state._replace(
            image=jnp.where(start.fooled, image, problem.image),
            calls=state.calls + query,
            failure=jnp.where(start.fooled, Failure.NONE, Failure.NO_BOUNDARY).astype(jnp.int32),
        )

    def read(self, problem: Problem, candidate: jax.Array) -> Seen:
        """The candidate made allowed, and the decision at it, rounded."""
        point = self.within(candidate, problem.image)
        image = point if self.grid is None else self.grid(point, problem.image)
        return Seen(point, image, self.criterion(problem.logits(image), problem.label))

    def masked(self, change: jax.Array) -> jax.Array:
        """A change of the image, zero where that may not change."""
        return self.mask.update(change, self.mask.init(change), change)[0]

    def _noise(self, problem: Problem, key: jax.Array) -> tuple[Seen, jax.Array]:
        """The first of some uniform draws that fools, and how many were made; none, where the clean image does."""
        origin, none = problem.image, jnp.zeros_like(problem.label)
        active = self.criterion.possible(problem.label) & ~self.criterion(problem.clean_logits, problem.label)

        def draw(carry: tuple[Seen, jax.Array]) -> tuple[Seen, jax.Array]:
            _, query = carry
            noise = jax.random.uniform(jax.random.fold_in(key, query), origin.shape, origin.dtype)
            return self.read(problem, noise), query + 1

        def unfinished(carry: tuple[Seen, jax.Array]) -> jax.Array:
            seen, query = carry
            return active & ~seen.fooled & (query < min(_DRAWS, self.queries))

        found: tuple[Seen, jax.Array] = jax.lax.while_loop(
            unfinished, draw, (Seen(origin, origin, jnp.zeros_like(active)), none)
        )
        return found
