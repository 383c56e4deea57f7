"""Attacks: pairs of pure functions (init, step) on one image, and the combinators that make new ones of them.

Every attack is a value (see `advjax.value`): it can be passed through `jit`, mapped over and saved.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.directions import as_direction
from advjax.attacks.objectives import Margin, margin
from advjax.value import static, value

__all__ = [
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
    "finite_or_zero",
    "first_state",
    "is_clear",
    "is_fooled",
    "stack",
]


class Failure(IntEnum):
    """Why an attack did not turn a right answer into a wrong one."""

    NONE = 0
    """It did."""
    ALREADY_MISCLASSIFIED = 1
    """The clean image was answered wrongly to begin with."""
    NO_DIRECTION = 2
    """The gradient was zero, masked out or not finite: there was nowhere to go."""
    NO_BOUNDARY = 3
    """Nothing along the ray, up to the longest distance, fooled the model."""
    NOT_FOOLED = 4
    """The model is right about the image returned, or wrong by no more than rounding error."""


class Problem(NamedTuple):
    """What an attack knows of one image: the model, the image [H, W, C], its label and its clean logits [K]."""

    logits: Callable[[jax.Array], jax.Array]
    image: jax.Array
    label: jax.Array
    clean_logits: jax.Array


class State(NamedTuple):
    """What changes during an attack on one image."""

    image: jax.Array
    direction: Any
    key: jax.Array
    scale: jax.Array
    calls: jax.Array
    failure: jax.Array


class Attack(Protocol):
    """A pair of pure functions on one image."""

    def init(self, problem: Problem, key: jax.Array) -> State:
        """The state before the first step."""

    def step(self, problem: Problem, state: State) -> State:
        """The attack itself."""


def is_fooled(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether another class beats the label by more than rounding error: logits [K], label scalar -> bool."""
    return is_clear(margin(logits, label), logits)


def is_clear(lead: jax.Array, logits: jax.Array) -> jax.Array:
    """Whether a difference of logits is positive by more than rounding error.

    The bar is 1e-5 of the largest |logit|, so that the same image is judged the same when it is classified again
    in another batch, program or device.
    """
    return lead > 1e-5 * jnp.max(jnp.abs(logits))


def first_state(problem: Problem, key: jax.Array) -> State:
    """The clean image, before anything was done."""
    return State(
        image=problem.image,
        direction=(),
        key=key,
        # Like the problem's arrays, so that in a user's `shard_map` a loop's carry varies as its body does.
        scale=jnp.zeros_like(problem.image, shape=()),
        calls=jnp.zeros_like(problem.label),
        failure=jnp.zeros_like(problem.label),
    )


@value
class Move:
    """One move: the objective's gradient at the current image -> a ray -> a search along it.

    Attributes:
      objective: see `advjax.attacks.objectives`.
      direction: see `advjax.attacks.directions`; an optax transformation is one.
      search: see `advjax.attacks.searches`.
      constraint: see `advjax.attacks.constraints`.
    """

    objective: Any
    direction: Any
    search: Any
    constraint: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", as_direction(self.direction))

    def init(self, problem: Problem, key: jax.Array) -> State:
        return first_state(problem, key)._replace(direction=self.direction.init(problem.image))

    def step(self, problem: Problem, state: State) -> State:
        def climbed(image: jax.Array) -> jax.Array:
            return self.objective(problem.logits(image), problem.label, problem.clean_logits)

        key, direction_key = jax.random.split(state.key)
        gradient = finite_or_zero(jax.grad(climbed)(state.image))
        ray, direction = self.direction.update(gradient, state.direction, state.image, key=direction_key)
        ray = finite_or_zero(ray)
        active = jnp.any(ray != 0)
        found = self.search(
            candidate=lambda scale: self.constraint(state.image + scale * ray, problem.image),
            fooled=lambda image: is_fooled(problem.logits(image), problem.label),
            active=active,
        )
        failure = jnp.where(found.found, Failure.NONE, Failure.NO_BOUNDARY)
        failure = jnp.where(active, failure, Failure.NO_DIRECTION)
        return State(found.image, direction, key, found.scale, state.calls + 1 + found.calls, failure.astype(jnp.int32))


@value
class Repeat:
    """`steps` moves of the same attack, one after the other, in one compiled loop."""

    attack: Any
    steps: int = static()

    def __post_init__(self) -> None:
        check_single(self.attack)
        check_count("steps", self.steps)

    def init(self, problem: Problem, key: jax.Array) -> State:
        return self.attack.init(problem, key)

    def step(self, problem: Problem, state: State) -> State:
        return jax.lax.fori_loop(0, self.steps, lambda _, current: self.attack.step(problem, current), state)


@value
class RandomStart:
    """Begins at a random point: the attack's start plus a uniform draw from `ball`, made allowed by `constraint`."""

    attack: Any
    ball: Any
    constraint: Any
    random = True

    def __post_init__(self) -> None:
        check_single(self.attack)

    def init(self, problem: Problem, key: jax.Array) -> State:
        key, start_key = jax.random.split(key)
        state = self.attack.init(problem, key)
        start = state.image + self.ball.sample(start_key, state.image)
        return state._replace(image=self.constraint(start, problem.image))

    def step(self, problem: Problem, state: State) -> State:
        return self.attack.step(problem, state)


@value
class Finish:
    """Applies a last constraint to the image that an attack ends with: rounding after many small steps, say."""

    attack: Any
    constraint: Any

    def __post_init__(self) -> None:
        check_single(self.attack)

    def init(self, problem: Problem, key: jax.Array) -> State:
        return self.attack.init(problem, key)

    def step(self, problem: Problem, state: State) -> State:
        state = self.attack.step(problem, state)
        return state._replace(image=self.constraint(state.image, problem.image))


@value
class BestOf:
    """Runs an attack `restarts` times with different keys and keeps the image of largest `objective`, the margin."""

    attack: Any
    restarts: int = static()
    objective: Any = Margin()

    def __post_init__(self) -> None:
        check_single(self.attack)
        check_count("restarts", self.restarts)

    def init(self, problem: Problem, key: jax.Array) -> State:
        return self.attack.init(problem, key)

    def step(self, problem: Problem, state: State) -> State:
        def run(start: State) -> tuple[State, jax.Array]:
            end = self.attack.step(problem, start)
            height = self.objective(problem.logits(end.image), problem.label, problem.clean_logits)
            # What is not a number would stay, since nothing is larger.
            return end, jnp.where(jnp.isnan(height), -jnp.inf, height)

        def again(index: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            best, height = carry
            other, other_height = run(self.attack.init(problem, jax.random.fold_in(restart_key, index)))
            better = other_height > height
            kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), other, best)
            calls = best.calls + other.calls + 1
            return kept._replace(calls=calls), jnp.maximum(other_height, height)

        # The first run splits its key into the children 0 and 1; this one is neither.
        restart_key = jax.random.fold_in(state.key, 2)
        best, height = run(state)
        first = best._replace(calls=best.calls + 1)
        return jax.lax.fori_loop(1, self.restarts, again, (first, height))[0]


@value
class Stack:
    """Several attacks of one structure, to run on the same images in one call; made by `stack`."""

    attack: Any


def stack(attacks: Sequence[Any]) -> Stack:
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


def finite_or_zero(array: jax.Array) -> jax.Array:
    """Zeros where anything is not finite: the rest means nothing, and 0 times infinity is NaN even for no step."""
    return jnp.where(jnp.all(jnp.isfinite(array)), array, jnp.zeros_like(array))


def check_single(attack: Any) -> None:
    """Raises ValueError for a stack, where one attack is wanted."""
    if isinstance(attack, Stack):
        raise ValueError("attack must be a single attack, got a stack: combine first, then stack([...]) the results")


def check_count(name: str, count: Any) -> None:
    """Raises ValueError unless `count` is an integer of 1 or more."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, got {count!r}")
