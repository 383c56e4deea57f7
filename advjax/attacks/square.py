"""Square: a random search over square patches that reads the model's scores and no gradient (Andriushchenko 2020)."""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Asks, Attack, Problem, State
from advjax.attacks.constraints import All, Ball, Box, Constraint, Quantize, ball
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Chain, Direction
from advjax.attacks.part import Mask, Number, Part
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_count, check_radius, check_real
from advjax.value import number, static, value

__all__ = ["SquareL2", "SquareLinf", "SquareSearch", "square"]

# The share of changed pixels halves after these many of 10,000 queries (the paper, section 3.2).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    epsilon: Number,
    *,
    norm: Literal["linf", "l2"] = "linf",
    queries: int = 5000,
    p_init: Number = 0.8,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "SquareSearch":
    """The Square attack (Andriushchenko et al. 2020, algorithms 1 to 3): random search on the margin.

    It starts from vertical stripes of +-epsilon (l2: from a tiling of bumps), then proposes one change after another
    and keeps those that raise the margin.  Linf: a square of side `round(sqrt(p H W))`, set to x + epsilon or
    x - epsilon in each channel.  L2: the budget of two squares is moved into one of them, in the shape of a bump.  p
    falls from `p_init` by the paper's schedule, stretched to the number of queries.  Each proposal is read as it
    would be returned, in [0, 1] and on the grid, and an image is done when it is fooled.

    Args:
      epsilon: radius of the ball, in [0, 1] units; one number, or one for each image [B].
      norm: "linf" or "l2".
      queries: most evaluations of the model, the start included; `Perturbation.calls` has those that were used.
      p_init: share of the pixels that the first proposal changes.
      mask: as for `fgs`; patches are cut to it.
      levels: as for `fgs`, rounded towards the clean image.

    Raises:
      ValueError: an unknown norm; a negative epsilon; queries below 1; p_init outside (0, 1].

    Example:
      >>> from advjax.attacks import square
      >>> black_box = square(0.3, queries=1000)
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f'norm must be "linf" or "l2", got {norm!r}')
    check_count("queries", queries)
    check_radius("epsilon", epsilon)
    check_real("p_init", p_init, "in (0, 1]", lambda share: (share > 0) & (share <= 1))
    region = ball(norm, epsilon)
    grid = () if levels is None else (Quantize(levels, "inward"),)
    patches = SquareLinf(region) if norm == "linf" else SquareL2(region, Chain(mask_directions(mask)))
    constraint = All((region, Box(), *grid, *mask_constraints(mask)))
    return SquareSearch(patches, constraint, p_init, queries)


class _Search(NamedTuple):
    query: jax.Array
    image: jax.Array
    margin: jax.Array
    done: jax.Array


@value
class SquareSearch(Attack):
    """See `square`, which makes it.

    Attributes:
      patches: how proposals are drawn, `SquareLinf` or `SquareL2`.
      constraint: makes a proposal allowed, grid included.
      p_init: share of pixels changed by the first proposal.
      queries: most evaluations of the model.
      criterion: whose margin proposals must raise; the search ends where it is met.
    """

    patches: "SquareLinf | SquareL2"
    constraint: Constraint
    p_init: Number = number()
    queries: int = static()
    criterion: Criterion = Misclassified()
    random = True
    asks: ClassVar[Asks] = "scores"

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, criterion=self.criterion.towards(targets))

    def step(self, problem: Problem, state: State) -> State:
        origin = problem.image
        height, width, _ = origin.shape
        start_key, key = jax.random.split(state.key)

        def read(candidate: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            image = self.constraint(candidate, origin)
            logits = problem.logits(image)
            margin, met = self.criterion.margin(logits, problem.label), self.criterion(logits, problem.label)
            # What is not a number would stay, since nothing is larger.
            return image, jnp.where(jnp.isnan(margin), -jnp.inf, margin), met

        def propose(s: _Search) -> _Search:
            halvings = jnp.sum(s.query > np.array([h * self.queries // 10_000 for h in _HALVINGS], np.int32))
            share = jnp.asarray(self.p_init).astype(origin.dtype) * jnp.exp2(-halvings.astype(origin.dtype))
            side = jnp.round(jnp.sqrt(share * (height * width))).astype(int)
            drawn = self.patches.propose(jax.random.fold_in(key, s.query), s.image, origin, side)
            image, margin, done = read(drawn)
            better = margin > s.margin
            kept = jnp.where(better, image, s.image)
            return _Search(s.query + 1, kept, jnp.where(better, margin, s.margin), s.done | (better & done))

        first = _Search(jnp.ones_like(state.calls), *read(self.patches.start(start_key, origin)))
        found = jax.lax.while_loop(lambda s: (s.query < self.queries) & ~s.done, propose, first)
        return state._replace(image=found.image, calls=state.calls + found.query)


@value
class SquareLinf(Part):
    """Stripes and squares of +-epsilon in each channel (algorithm 2)."""

    ball: Ball

    def start(self, key: jax.Array, origin: jax.Array) -> jax.Array:
        """Vertical stripes, one pixel wide."""
        signs = jax.random.rademacher(key, (1, *origin.shape[1:]), origin.dtype)
        return origin + jnp.broadcast_to(signs * self.ball.epsilon, origin.shape)

    def propose(self, key: jax.Array, image: jax.Array, origin: jax.Array, side: jax.Array) -> jax.Array:
        """One square of `side` pixels at a random place."""
        place, sign = jax.random.split(key)
        side = jnp.clip(side, 1, min(origin.shape[:2]))
        window, _, _ = _window(place, origin.shape, side)
        signs = jax.random.rademacher(sign, (1, 1, origin.shape[2]), origin.dtype)
        return jnp.where(window[..., None], origin + jnp.broadcast_to(signs * self.ball.epsilon, origin.shape), image)


@value
class SquareL2(Part):
    """Bumps that take over the budget of other places (algorithm 3)."""

    ball: Ball
    mask: Direction

    def start(self, key: jax.Array, origin: jax.Array) -> jax.Array:
        """A tiling of bumps, five along the shorter side (section 3.3 and the authors' code)."""
        height, width, channels = origin.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        transposed, sign = jax.random.split(key)
        bump = jnp.broadcast_to(_bump(jnp.arange(side), jnp.arange(side), side), (rows * columns, side, side))
        turn = jax.random.bernoulli(transposed, 0.5, (rows * columns, 1, 1))
        signs = jax.random.rademacher(sign, (rows * columns, 1, 1, channels), origin.dtype)
        tiles = jnp.where(turn, jnp.swapaxes(bump, 1, 2), bump).astype(origin.dtype)[..., None] * signs
        tiles = tiles.reshape(rows, columns, side, side, channels).transpose(0, 2, 1, 3, 4)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        edges = ((top, height - rows * side - top), (left, width - columns * side - left), (0, 0))
        return self._on_sphere(jnp.pad(tiles.reshape(rows * side, columns * side, channels), edges), origin)

    def propose(self, key: jax.Array, image: jax.Array, origin: jax.Array, side: jax.Array) -> jax.Array:
        """The budget of two squares of `side` pixels, and what is unused, as a bump in the first of them."""
        channels = origin.shape[2]
        first, second, turn, sign = jax.random.split(key, 4)
        # Odd and 3 or more, so that a bump has a middle.
        largest = (min(origin.shape[:2]) - 1) // 2 * 2 + 1
        side = jnp.clip(side + (side + 1) % 2, min(3, largest), largest)
        target, top, left = _window(first, origin.shape, side)
        source, _, _ = _window(second, origin.shape, side)
        change = image - origin
        rows = jnp.arange(origin.shape[0]) - top
        columns = jnp.arange(origin.shape[1]) - left
        turned = _bump(columns, rows, side).T
        bump = jnp.where(jax.random.bernoulli(turn), turned, _bump(rows, columns, side)).astype(origin.dtype)
        bump = _unit(jnp.where(target, bump, jnp.zeros_like(bump))[..., None])
        signs = jax.random.rademacher(sign, (1, 1, channels), origin.dtype)
        here = jnp.where(target[..., None], change, jnp.zeros_like(change))
        shape = _unit(jnp.broadcast_to(bump, origin.shape) * jnp.broadcast_to(signs, origin.shape) + _unit(here))
        both = jnp.where((target | source)[..., None], change, jnp.zeros_like(change))
        unused = jnp.maximum(jnp.asarray(self.ball.epsilon) ** 2 - jnp.sum(change**2), 0.0)
        budget = jnp.sqrt(unused / channels + jnp.sum(both**2, axis=(0, 1), keepdims=True))
        rest = jnp.where((target | source)[..., None], jnp.zeros_like(change), change)
        return self._on_sphere(rest + shape * jnp.broadcast_to(budget, origin.shape), origin)

    def _on_sphere(self, change: jax.Array, origin: jax.Array) -> jax.Array:
        change, _ = self.mask.update(change, self.mask.init(origin), origin)
        return origin + self.ball.epsilon * _unit(change, axis=None)


def _window(key: jax.Array, shape: tuple[int, ...], side: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A square of `side` pixels at a uniform place: bool [H, W], its first row and its first column."""
    rows, columns = jax.random.split(key)
    top = jax.random.randint(rows, (), 0, shape[0] - side + 1)
    left = jax.random.randint(columns, (), 0, shape[1] - side + 1)
    row, column = jnp.arange(shape[0]) - top, jnp.arange(shape[1]) - left
    inside = ((row >= 0) & (row < side))[:, None] & ((column >= 0) & (column < side))[None, :]
    return inside, top, left


def _bump(rows: jax.Array, columns: jax.Array, side: int | jax.Array) -> jax.Array:
    """Eta of the paper's eq. 2, up to its norm: a positive hill in the upper half, a negative one in the lower.

    A hill of h x w falls by 1 / (d + 1)^2 from each ring d around its middle to the next.
    """
    upper = side // 2
    longest = rows.size + columns.size
    tail = jnp.asarray(np.append(0.0, np.cumsum(1.0 / np.arange(1, longest + 1) ** 2)), jnp.float32)

    def hill(row: jax.Array, height: int | jax.Array) -> jax.Array:
        ring = jnp.maximum(jnp.abs(row - height // 2)[:, None], jnp.abs(columns - side // 2)[None, :])
        rings = jnp.maximum(height // 2 + 1, side // 2 + 1)
        return jnp.maximum(tail[rings] - tail[jnp.minimum(ring, longest)], 0.0)

    # Both hills have norm 1 before the pair is normalized, as in the authors' code.
    inside = ((columns >= 0) & (columns < side))[None, :]
    above = jnp.where(((rows >= 0) & (rows < upper))[:, None] & inside, hill(rows, upper), 0.0)
    below = jnp.where(((rows >= upper) & (rows < side))[:, None] & inside, hill(rows - upper, side - upper), 0.0)
    return _unit(above) - _unit(below)


def _unit(array: jax.Array, axis: tuple[int, int] | None = (0, 1)) -> jax.Array:
    """Divided by its l2 norm over `axis` (None: over all), zero where that is zero."""
    size = jnp.sqrt(jnp.sum(array * array, axis=axis, keepdims=True))
    return array / jnp.where(size > 0, jnp.broadcast_to(size, array.shape), 1.0)
