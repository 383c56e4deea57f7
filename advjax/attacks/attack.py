"""Attacks: pairs of pure functions (init, step) on one image, and the combinators that make new ones of them.

Every attack is a value (see `advjax.value`): it can be passed through `jit`, mapped over and saved.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.constraints import Ball, Constraint
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Direction, as_direction
from advjax.attacks.objectives import Objective
from advjax.attacks.part import Number, Part
from advjax.attacks.searches import Search
from advjax.attacks.settings import check_count
from advjax.entropy import log_mean_probability
from advjax.value import static, value

__all__ = [
    "Around",
    "Asks",
    "Attack",
    "BestOf",
    "Failure",
    "Finish",
    "Move",
    "Problem",
    "RandomStart",
    "Repeat",
    "Stack",
    "State",
    "check_count",
    "check_single",
    "criterion_of",
    "first_state",
    "made_finite",
    "stack",
]


Asks = Literal["nothing", "decisions", "scores", "gradients"]
"""What an attack learns from a model: each of these knows what those before it do."""


class Failure(IntEnum):
    """Why an attack did not turn a right answer into a wrong one, or into its target."""

    NONE = 0
    """It did."""
    ALREADY_MISCLASSIFIED = 1
    """The clean image was answered wrongly to begin with."""
    NO_DIRECTION = 2
    """Of the gradient nothing was left that is a number, not zero and not masked out: there was nowhere to go."""
    NO_BOUNDARY = 3
    """Nothing along the ray, up to the longest distance, met the criterion."""
    NOT_FOOLED = 4
    """The image returned does not meet the criterion, or by no more than rounding error."""
    LABEL_IS_TARGET = 5
    """The image was to be turned into the class that it is: there is nothing to reach."""


class Problem(NamedTuple):
    """What an attack knows of one image: the model, the image [H, W, C], its label and its clean logits [K].

    Attributes:
      logits: image [H, W, C] -> what the model says of it, [K].
      image, label, clean_logits: as above.
      see: (image, key) -> logits [N, K] of all views of it, at draws of the key; see `advjax.attacks.views`.
      views: image -> those of them over which an objective is averaged; None: `logits` alone.
      gradient_calls: evaluations of the model that a gradient costs.
    """

    logits: Callable[[jax.Array], jax.Array]
    image: jax.Array
    label: jax.Array
    clean_logits: jax.Array
    see: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    views: Callable[[jax.Array], jax.Array] | None = None
    gradient_calls: int = 1

    def climbed(self, objective: Objective) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """Image -> what the objective makes of it, the mean over the views if there are any; and its logits [K]."""

        def value_of(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            if self.views is None:
                logits = self.logits(image)
                return objective(logits, self.label, self.clean_logits), logits
            views = self.views(image)
            values = jax.vmap(objective, (0, None, None))(views, self.label, self.clean_logits)
            return jnp.mean(values), log_mean_probability(views)

        return value_of


class State(NamedTuple):
    """What changes during an attack on one image.

    Attributes:
      image: [H, W, C].
      direction_state: that of the attack's direction.
      key: for the next draw.
      scale: see `Perturbation`.
      calls: evaluations of the model so far.
      failure: a `Failure`, of the last step.
      non_finite: whether a gradient so far, or the ray made of it, held a NaN or an infinity.
    """

    image: jax.Array
    direction_state: Any
    key: jax.Array
    scale: jax.Array
    calls: jax.Array
    failure: jax.Array
    non_finite: jax.Array


def first_state(problem: Problem, key: jax.Array) -> State:
    """The clean image, before anything was done."""
    return State(
        image=problem.image,
        direction_state=(),
        key=key,
        # Like the problem's arrays, so that in a user's `shard_map` a loop's carry varies as its body does.
        scale=jnp.zeros_like(problem.image, shape=()),
        calls=jnp.zeros_like(problem.label),
        failure=jnp.zeros_like(problem.label),
        non_finite=jnp.zeros_like(problem.label, dtype=jnp.bool_),
    )


class Attack(Part, ABC):
    """A pair of pure functions on one image, and what they are after."""

    @property
    def asks(self) -> Asks:
        """The most that it learns from the model it attacks."""
        return "gradients"

    def init(self, problem: Problem, key: jax.Array) -> State:
        """The state before the first step."""
        return first_state(problem, key)

    @abstractmethod
    def step(self, problem: Problem, state: State) -> State:
        """The attack itself."""

    @property
    def criterion(self) -> Criterion:
        """What counts as success, for the attack, the verdict and the reports."""
        return Misclassified()

    def towards(self, targets: Number) -> "Attack":
        """See `targeted`; ValueError where it cannot be turned."""
        raise ValueError(f"attack must climb the cross-entropy or the margin, got {self!r}")


@value
class Move(Attack):
    """One move: the objective's gradient at the current image -> a ray -> a search along it.

    Attributes:
      objective: see `advjax.attacks.objectives`.
      direction: see `advjax.attacks.directions`; an optax transformation is one.
      search: see `advjax.attacks.searches`.
      constraint: see `advjax.attacks.constraints`.
      criterion: what the search looks for and the verdict asks; see `advjax.attacks.criteria`.
    """

    objective: Objective
    direction: Direction
    search: Search
    constraint: Constraint
    criterion: Criterion = Misclassified()

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", as_direction(self.direction))

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(
            self,
            objective=self.objective.towards(targets),
            search=self.search.towards(targets),
            criterion=self.criterion.towards(targets),
        )

    def init(self, problem: Problem, key: jax.Array) -> State:
        return first_state(problem, key)._replace(direction_state=self.direction.init(problem.image))

    def step(self, problem: Problem, state: State) -> State:
        climbed = jax.grad(problem.climbed(self.objective), has_aux=True)
        key, direction_key = jax.random.split(state.key)
        gradient, broken = made_finite(climbed(self.direction.ahead(state.image, state.direction_state))[0])
        ray, direction_state = self.direction.update(
            gradient,
            state.direction_state,
            state.image,
            key=direction_key,
            gradient_at=lambda image: made_finite(climbed(image)[0])[0],
        )
        ray, ray_broken = made_finite(ray)
        active = jnp.any(ray != 0) & self.criterion.possible(problem.label)
        found = self.search(
            candidate=lambda scale: self.constraint(state.image + scale * ray, problem.image),
            fooled=lambda image: self.criterion(problem.logits(image), problem.label),
            active=active,
        )
        failure = jnp.where(found.found, Failure.NONE, Failure.NO_BOUNDARY)
        failure = jnp.where(active, failure, Failure.NO_DIRECTION)
        return State(
            image=found.image,
            direction_state=direction_state,
            key=key,
            scale=found.scale,
            calls=state.calls + (1 + self.direction.gradients) * problem.gradient_calls + found.calls,
            failure=failure.astype(jnp.int32),
            non_finite=state.non_finite | broken | ray_broken,
        )


@value
class Around(Attack):
    """Base of what is put around an attack: it begins and ends as that does, and is after the same."""

    attack: Attack

    def __post_init__(self) -> None:
        check_single(self.attack)

    @property
    def criterion(self) -> Criterion:
        return self.attack.criterion

    @property
    def asks(self) -> Asks:
        return self.attack.asks

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, attack=self.attack.towards(targets))

    def init(self, problem: Problem, key: jax.Array) -> State:
        return self.attack.init(problem, key)

    def step(self, problem: Problem, state: State) -> State:
        return self.attack.step(problem, state)


@value
class Repeat(Around):
    """`steps` moves of the same attack, one after the other, in one compiled loop."""

    steps: int = static()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)

    def step(self, problem: Problem, state: State) -> State:
        end: State = jax.lax.fori_loop(0, self.steps, lambda _, current: self.attack.step(problem, current), state)
        return end


@value
class RandomStart(Around):
    """Begins at a random point: the attack's start plus a uniform draw from `ball`, made allowed by `constraint`."""

    ball: Ball
    constraint: Constraint
    random = True

    def init(self, problem: Problem, key: jax.Array) -> State:
        key, start_key = jax.random.split(key)
        state = self.attack.init(problem, key)
        start = state.image + self.ball.sample(start_key, state.image)
        return state._replace(image=self.constraint(start, problem.image))


@value
class Finish(Around):
    """Applies a last constraint to the image that an attack ends with: rounding after many small steps, say."""

    constraint: Constraint

    def step(self, problem: Problem, state: State) -> State:
        state = self.attack.step(problem, state)
        return state._replace(image=self.constraint(state.image, problem.image))


@value
class BestOf(Around):
    """Runs an attack `restarts` times with different keys and keeps the image of largest margin by its criterion."""

    restarts: int = static()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("restarts", self.restarts)

    def step(self, problem: Problem, state: State) -> State:
        def run(start: State) -> tuple[State, jax.Array]:
            end = self.attack.step(problem, start)
            margin = self.criterion.margin(problem.logits(end.image), problem.label)
            # What is not a number would stay, since nothing is larger.
            return end, jnp.where(jnp.isnan(margin), -jnp.inf, margin)

        def again(index: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            best, margin = carry
            other, other_margin = run(self.attack.init(problem, jax.random.fold_in(restart_key, index)))
            better = other_margin > margin
            kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), other, best)
            calls, broken = best.calls + other.calls + 1, best.non_finite | other.non_finite
            return kept._replace(calls=calls, non_finite=broken), jnp.maximum(other_margin, margin)

        # The first run begins where the attack alone does, and goes on from a key that the others do not see.
        key, restart_key = jax.random.split(state.key)
        best, margin = run(state._replace(key=key))
        first = best._replace(calls=best.calls + 1)
        kept: State = jax.lax.fori_loop(1, self.restarts, again, (first, margin))[0]
        return kept


@value
class Stack(Part):
    """Several attacks of one structure, to run on the same images in one call; made by `stack`."""

    attack: Attack

    @property
    def asks(self) -> Asks:
        return self.attack.asks


def stack(attacks: Sequence[Attack]) -> Stack:
    """Attacks that differ in their numbers only, as one: `perturb` gives each result a leading axis [len(attacks)].

    All of them run side by side in one batch of B * len(attacks), so memory grows with their number.

    Example:
      >>> from advjax.attacks import fgs, stack
      >>> sweep = stack([fgs(epsilon) for epsilon in (0.1, 0.2, 0.3)])

    Raises:
      ValueError: no attacks, or attacks of different structure (other parts, steps, norms or mask shapes).
    """
    if not attacks:
        raise ValueError("attacks must hold at least one attack, got none")
    if any(isinstance(attack, Stack) for attack in attacks):
        raise ValueError("attacks must be single attacks, got a stack among them")
    leaves, structures = zip(*(jax.tree.flatten(attack) for attack in attacks), strict=True)
    shapes = [[np.shape(leaf) for leaf in each] for each in leaves]
    if any(s != structures[0] for s in structures) or any(s != shapes[0] for s in shapes):
        raise ValueError("attacks must have one structure and differ in their numbers only")
    stacked = [jnp.stack(each) for each in zip(*leaves, strict=True)]
    return Stack(jax.tree.unflatten(structures[0], stacked))


def made_finite(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A gradient or ray without NaN and infinity, and whether it held any; what was finite stays as it is.

    Where an entry is infinite its sign still says which way is up: it counts as the largest of the finite ones.  NaN
    says nothing, and is 0: no step for that pixel.
    """
    finite = jnp.isfinite(array)
    largest = jnp.max(jnp.where(finite, jnp.abs(array), jnp.zeros_like(array)))
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    instead = jnp.where(jnp.isnan(array), jnp.zeros_like(array), jnp.sign(array) * largest)
    return jnp.where(finite, array, instead), ~jnp.all(finite)


def criterion_of(attack: Attack | Stack) -> Criterion:
    """The criterion of an attack, or of a stack of them.

    Example:
      >>> from advjax import fgs
      >>> from advjax.attacks import criterion_of, targeted
      >>> criterion_of(targeted(fgs(), 3)).target.tolist()
      3
    """
    return attack.attack.criterion if isinstance(attack, Stack) else attack.criterion


def check_single(attack: Attack | Stack) -> None:
    """Raises ValueError for a stack, where one attack is wanted."""
    if isinstance(attack, Stack):
        raise ValueError("attack must be a single attack, got a stack: combine first, then stack([...]) the results")
