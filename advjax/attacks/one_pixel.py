"""The one-pixel attack: places and colors of few pixels by differential evolution (Su, Vargas and Sakurai 2019)."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Asks, Attack, Problem, State
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints
from advjax.attacks.settings import check_count
from advjax.value import static, value

__all__ = ["OnePixel", "one_pixel"]

_TOGETHER = 16  # candidates of one image that are read side by side
_WEIGHT = 0.5  # of the difference, in the paper


def one_pixel(
    pixels: int = 1,
    *,
    generations: int = 100,
    population: int = 400,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "OnePixel":
    """Few pixels of any color, found by differential evolution (Su et al. 2019).

    A candidate is `pixels` times (row, column, color).  The first places are uniform, the colors normal around 1/2 with
    standard deviation 1/2.  In each generation candidate i has a child z_1 + (z_2 - z_3) / 2 of three drawn others,
    without crossover, which takes its place where its margin is larger; the paper compares the class's probability.
    An image is done when its best candidate fools.

    Args:
      pixels: how many change; two may fall on the same place, and then the last counts.
      generations: most of them, after the first candidates; the paper has 100.
      population: candidates, 4 or more; the paper has 400.
      mask, levels: as for `fgs`; a pixel outside the mask changes nothing.

    Raises:
      ValueError: pixels or generations below 1, or a population below 4.

    Example:
      >>> from advjax import one_pixel
      >>> attack = one_pixel(3, generations=75)
    """
    for name, count in (("pixels", pixels), ("generations", generations), ("population", population)):
        check_count(name, count)
    if population < 4:
        raise ValueError(f"population must be 4 or more, a candidate and three others, got {population}")
    grid = () if levels is None else (Quantize(levels),)
    return OnePixel(All((Box(), *grid, *mask_constraints(mask))), pixels, generations, population)


class _Evolved(NamedTuple):
    generation: jax.Array
    places: jax.Array
    colors: jax.Array
    margins: jax.Array
    done: jax.Array


@value
class OnePixel(Attack):
    """See `one_pixel`, which makes it.

    Attributes:
      constraint: makes an image allowed, grid included.
      pixels, generations, population: as there.
      criterion: whose margin children must raise; the search ends where it is met.
    """

    constraint: Constraint
    pixels: int = static()
    generations: int = static()
    population: int = static()
    criterion: Criterion = Misclassified()
    random = True
    asks: ClassVar[Asks] = "scores"

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, criterion=self.criterion.towards(targets))

    def step(self, problem: Problem, state: State) -> State:
        origin, count = problem.image, self.population
        height, width, _ = origin.shape

        def painted(places: jax.Array, colors: jax.Array) -> jax.Array:
            """The image with pixels of these places [pixels, 2] in shares of its sides, and colors [pixels, C]."""
            rows = jnp.minimum((places[:, 0] * height).astype(int), height - 1)
            columns = jnp.minimum((places[:, 1] * width).astype(int), width - 1)
            image = origin
            for index in range(self.pixels):
                image = image.at[rows[index], columns[index]].set(colors[index])
            return self.constraint(image, origin)

        def read(candidate: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            logits = problem.logits(painted(*candidate))
            margin = self.criterion.margin(logits, problem.label)
            # What is not a number would stay, since nothing is larger.
            return jnp.where(jnp.isnan(margin), -jnp.inf, margin), self.criterion(logits, problem.label)

        def read_all(places: jax.Array, colors: jax.Array) -> tuple[jax.Array, jax.Array]:
            margins, met = jax.lax.map(read, (places, colors), batch_size=min(_TOGETHER, count))
            return margins, met[jnp.argmax(margins)]

        def child(array: jax.Array, others: jax.Array) -> jax.Array:
            return array[others[:, 0]] + _WEIGHT * (array[others[:, 1]] - array[others[:, 2]])

        def again(s: _Evolved) -> _Evolved:
            others = _three_others(jax.random.fold_in(state.key, s.generation), count)
            # What leaves the image or the range of colors comes back to its border.
            places, colors = (jnp.clip(child(array, others), 0, 1) for array in (s.places, s.colors))
            margins, _ = read_all(places, colors)
            better = margins > s.margins
            kept = (
                jnp.where(better[:, None, None], places, s.places),
                jnp.where(better[:, None, None], colors, s.colors),
            )
            margins = jnp.maximum(margins, s.margins)
            best = jnp.argmax(margins)
            _, done = read((kept[0][best], kept[1][best]))
            return _Evolved(s.generation + 1, *kept, margins, done)

        place_key, color_key = jax.random.split(jax.random.fold_in(state.key, 0))
        places = jax.random.uniform(place_key, (count, self.pixels, 2), origin.dtype)
        colors = 0.5 + 0.5 * jax.random.normal(color_key, (count, self.pixels, origin.shape[2]), origin.dtype)
        colors = jnp.clip(colors, 0, 1)
        first = _Evolved(jnp.ones_like(problem.label), places, colors, *read_all(places, colors))
        last = jax.lax.while_loop(lambda s: (s.generation <= self.generations) & ~s.done, again, first)
        best = jnp.argmax(last.margins)
        # Each generation reads its best once more.
        calls = count * last.generation + last.generation - 1
        return state._replace(image=painted(last.places[best], last.colors[best]), calls=state.calls + calls)


def _three_others(key: jax.Array, count: int) -> jax.Array:
    """For each of `count` candidates three others, all different: [count, 3]."""

    def three(key: jax.Array, own: jax.Array) -> jax.Array:
        drawn = jax.random.choice(key, count - 1, (3,), replace=False)
        return drawn + (drawn >= own).astype(drawn.dtype)

    return jax.vmap(three)(jax.random.split(key, count), jnp.arange(count))
