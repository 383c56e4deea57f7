"""Views: how an attack sees the model.  Any attack climbs what it sees; `perturb` judges its image by the model itself.

A view makes of one way to see a model another: both are called as `see(image, key)`, for one image [H, W, C], and give
the logits [N, K] of N views of it, drawn with the key.  An objective is averaged over the views, and the logits that an
attack's criterion is asked about are those of the mean probability.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Around, Asks, Attack, Problem, State
from advjax.attacks.part import Number, Part
from advjax.attacks.settings import check_count, check_real
from advjax.entropy import log_mean_probability
from advjax.value import number, static, value

__all__ = ["Diverse", "Expectation", "Scaled", "See", "Seeing", "View", "expectation_over"]

See = Callable[[jax.Array, jax.Array], jax.Array]
Transform = Callable[[jax.Array, jax.Array], jax.Array]


class View(Part, ABC):
    """Makes of one way to see a model another."""

    @property
    def evaluations(self) -> int:
        """How many of what it is made of it looks at for one image."""
        return 1

    def gradient_calls(self, of_one: int) -> int:
        """What a gradient costs, where one of what it is made of costs `of_one`."""
        return of_one

    def asks(self, asks: Asks) -> Asks:
        """What an attack learns from the model, that without the view learns `asks`."""
        return asks

    @abstractmethod
    def __call__(self, see: See) -> See:
        """See the module's docstring."""


@value
class Seeing(Around):
    """An attack that sees the model through a view.

    What a view draws depends on the image's key and on the bits of the image that it looks at: it is another draw at
    each step, and the same one where nothing has moved.  A model that draws random numbers itself is seen at such draws
    too, not at the one that it is frozen at.

    Example:
      >>> from advjax import apgd
      >>> from advjax.attacks import Diverse, Seeing
      >>> transferable = Seeing(apgd(0.1), Diverse())
    """

    view: View

    @property
    def asks(self) -> Asks:
        return self.view.asks(self.attack.asks)

    def step(self, problem: Problem, state: State) -> State:
        key, view_key = jax.random.split(state.key)
        see = self.view(problem.see if problem.see is not None else _single(problem))

        def views(image: jax.Array) -> jax.Array:
            return see(image, jax.random.fold_in(view_key, _bits(image)))

        seen = problem._replace(
            see=see,
            views=views,
            logits=lambda image: log_mean_probability(views(image)),
            gradient_calls=self.view.gradient_calls(problem.gradient_calls),
        )
        end = self.attack.step(seen, state._replace(key=key))
        return end._replace(calls=state.calls + self.view.evaluations * (end.calls - state.calls))


@value
class Expectation(View):
    """`draws` views, each of the image moved by `transform`; see `expectation_over`."""

    transform: Transform | None = static()
    draws: int = static()
    random = True

    @property
    def evaluations(self) -> int:
        return self.draws

    def __call__(self, see: See) -> See:
        def seen(image: jax.Array, key: jax.Array) -> jax.Array:
            def once(draw: jax.Array) -> jax.Array:
                own, rest = jax.random.split(jax.random.fold_in(key, draw))
                return see(image if self.transform is None else self.transform(image, own), rest)

            return _side_by_side(jax.vmap(once)(jnp.arange(self.draws)))

        return seen


@value
class Diverse(View):
    """With a `probability`, the image made smaller and put at a random place on black (Xie et al. 2019, DI).

    Attributes:
      rate: the smallest size, as a share of the image's sides, in (0, 1).
      probability: of 0 to 1.
    """

    rate: Number = number(default=0.9)
    probability: Number = number(default=0.5)
    random = True

    def __post_init__(self) -> None:
        check_real("rate", self.rate, "in (0, 1)", lambda share: (share > 0) & (share < 1))
        check_real("probability", self.probability, "from 0 to 1", lambda share: (share >= 0) & (share <= 1))

    def __call__(self, see: See) -> See:
        def seen(image: jax.Array, key: jax.Array) -> jax.Array:
            whether, own, rest = jax.random.split(key, 3)
            moved = jax.random.uniform(whether, (), image.dtype) < self.probability
            return see(jnp.where(moved, self.shrunk(image, own), image), rest)

        return seen

    def shrunk(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """The image [H, W, C], bilinearly resized to [h, w, C] with floor(rate H) <= h < H, and padded with zeros."""
        size_key, place_key = jax.random.split(key)
        sides = np.array(image.shape[:2], np.int32)
        least = jnp.floor(jnp.asarray(self.rate).astype(image.dtype) * sides[0].astype(image.dtype)).astype(jnp.int32)
        height = jax.random.randint(size_key, (), jnp.clip(least, 1, max(sides[0] - 1, 1)), max(sides[0], 2))
        scale = height.astype(image.dtype) / float(sides[0])
        # Whole pixels, so that a wide image keeps its shape to within one.
        sizes = jnp.maximum(jnp.round(scale * sides.astype(image.dtype)), 1.0)
        place = jax.random.randint(place_key, (2,), 0, jnp.asarray(sides) - sizes.astype(jnp.int32) + 1)
        shrunk: jax.Array = jax.image.scale_and_translate(
            image,
            image.shape,
            (0, 1),
            sizes / sides.astype(image.dtype),
            place.astype(image.dtype),
            method="linear",
            antialias=False,
        )
        return shrunk


@value
class Scaled(View):
    """The image divided by 1, 2, 4, ..., 2^(copies - 1) (Lin et al. 2020, SI)."""

    copies: int = static(default=5)

    def __post_init__(self) -> None:
        check_count("copies", self.copies)

    @property
    def evaluations(self) -> int:
        return self.copies

    def __call__(self, see: See) -> See:
        def seen(image: jax.Array, key: jax.Array) -> jax.Array:
            def once(copy: jax.Array) -> jax.Array:
                return see(image * jnp.exp2(-copy.astype(image.dtype)), jax.random.fold_in(key, copy))

            return _side_by_side(jax.vmap(once)(jnp.arange(self.copies)))

        return seen


def expectation_over(attack: Attack, transform: Transform | None = None, *, draws: int) -> Seeing:
    """The attack on the mean over random transformations, and over the model's own draws (Athalye et al. 2018, EOT).

    With t_1, ..., t_n drawn anew at each step, f_i the model at a draw of its own, if it draws random numbers, and J
    the attack's objective, `fgs`, `pgd`, `apgd` and all that is made of moves climb the mean loss

        (1/n) sum_i J(f_i(t_i(x)), y),

    whose gradient is the mean of the gradients.  Where an attack asks for logits (has it fooled the model? where is
    the boundary? what are the distances of `deepfool`?) it gets those of the mean probability,
    `log (1/n) sum_i softmax(f_i(t_i(x)))`.

    Of a random model `perturb` judges its one frozen draw; `evaluate` judges fresh ones.

    Args:
      attack: any attack; not a stack.
      transform: `(image [H, W, C], key) -> image`, differentiable, as the defence draws it; None: the model alone draws
        (dropout or noise from keys among its variables).  The same function object again is not traced anew.
      draws: n, 1 or more; all are evaluated side by side, so memory grows with their number.

    Raises:
      ValueError: draws below 1; a stack of attacks.
      TypeError: transform is no function.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import expectation_over, from_function, perturb, pgd
      >>> def noisy(image, key):
      ...     return image + 0.1 * jax.random.normal(key, image.shape)
      >>> def model(w, x):
      ...     return jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1)
      >>> attack = expectation_over(pgd(0.2, step_size=0.1, steps=2, random_start=False), noisy, draws=4)
      >>> images = jnp.full((1, 2, 2, 1), 153 / 255)
      >>> result = perturb(attack, from_function(model, jnp.float32(4.0)), images, jnp.array([0]), jax.random.key(0))
      >>> result.success.tolist(), result.calls.tolist()  # the clean image, 2 steps of 4 draws, the verdict
      ([True], [10])
    """
    check_count("draws", draws)
    if transform is not None and not (callable(transform) and isinstance(transform, Hashable)):
        raise TypeError(f"transform must be a function (image, key) -> image, got {transform!r}")
    return Seeing(attack, Expectation(transform, draws))


def _single(problem: Problem) -> See:
    """The model as it is, where nobody knows how to draw it anew."""
    return lambda image, key: problem.logits(image)[None]


def _side_by_side(views: jax.Array) -> jax.Array:
    return views.reshape(-1, views.shape[-1])


def _bits(image: jax.Array) -> jax.Array:
    """A number that any change of the image changes: its bits, each mixed with its place, as in MurmurHash."""
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(image), jnp.uint32).reshape(-1)
    place = jnp.arange(bits.size, dtype=jnp.uint32) * np.uint32(0x9E3779B9)
    mixed = (bits ^ place) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
