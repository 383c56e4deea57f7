"""The attack of Carlini and Wagner (2017) in l2, and the search for c that it shares with EAD."""

from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.attacks.attack import Problem, State
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Chain, Optax
from advjax.attacks.nearest import Nearest, NearestFooled, allowed_images, check_positive
from advjax.attacks.objectives import Margin
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_directions
from advjax.attacks.settings import check_count, check_radius
from advjax.value import number, static, value

__all__ = ["CarliniWagner", "Traded", "carlini_wagner", "check_traded"]

_ADAM = Optax(optax.scale_by_adam())


def carlini_wagner(
    *,
    searches: int = 9,
    steps: int = 200,
    step_size: Number = 0.01,
    first_c: Number = 1e-2,
    confidence: Number = 0.0,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "CarliniWagner":
    """The smallest change in l2, traded against the margin (Carlini & Wagner 2017, section VI.A).

        min over x' in [0, 1] of  ||x' - x||_2^2 + c f(x'),    f(x') = max(confidence - margin(x'), 0),

    with the margin `max_{j != y} h_j - h_y`, or `h_t - max_{j != t} h_j` towards t under `targeted`.  For each c Adam
    makes `steps` steps from the clean image.  c begins at `first_c` and grows tenfold until one of these steps is
    answered as wanted; then the least such c is bisected.

    The paper holds the box by `x' = (1 + tanh w) / 2`.  Where a pixel is 0 or 1, as most of a digit's are, that has no
    gradient, and where it is almost so hardly any: here the pixels themselves are stepped, and clipped to [0, 1].  Of
    64 digits on Caffe's LeNet (2026-11-26) 9 x 100 steps fool all at a mean l2 of 1.435, and 9 x 200 of Foolbox's
    attack, which has tanh, 63 at 2.325.

    The model is read at the rounded image, from which the point between the levels goes on; of all images that were
    read, the nearest that was answered as wanted is returned, or the clean one.

    Args:
      searches: number of values of c.
      steps: Adam's steps for each.
      step_size: of Adam, in [0, 1] units: about how far a pixel goes in a step.
      first_c: per unit of the logits, for squared distances in [0, 1] units.
      confidence: the least margin, in units of the logits, 0 or more.
      mask, levels: as for `fgs`.

    Each number is one, or one for each image [B].

    Raises:
      ValueError: searches or steps below 1; a step_size or first_c that is not above 0; a negative confidence.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import carlini_wagner, from_function, perturb
      >>> def model(w, x):
      ...     return jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1)
      >>> classifier = from_function(model, jnp.float32(2.0))  # answers 0 where the sum is above 1
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.4), jnp.array([0])
      >>> result = perturb(carlini_wagner(), classifier, images, labels)
      >>> (result.image[0, 0, 0] * 255).tolist(), result.success.tolist()  # from 102 across 63.75
      ([63.0], [True])
    """
    check_traded(searches, steps, step_size, first_c, confidence)
    masked, allowed = Chain(mask_directions(mask)), allowed_images(mask, levels)
    return CarliniWagner(Margin(), masked, allowed, first_c, confidence, step_size, searches, steps)


def check_traded(searches: object, steps: object, step_size: object, first_c: object, confidence: object) -> None:
    """Raises where a setting of a `Traded` attack is out of range."""
    check_count("searches", searches)
    check_count("steps", steps)
    check_positive("step_size", step_size)
    check_positive("first_c", first_c)
    check_radius("confidence", confidence)


class _Bracket(NamedTuple):
    """c, between the largest that reached nothing and the least that did; and the nearest image of all."""

    low: jax.Array
    high: jax.Array
    c: jax.Array
    nearest: Nearest


@value
class Traded(NearestFooled):
    """Base of attacks that minimize a distance plus c f for the least c whose minimization is answered as wanted."""

    first_c: Number = number()
    confidence: Number = number()
    step_size: Number = number()
    searches: int = static()
    steps: int = static()

    def step(self, problem: Problem, state: State) -> State:
        def again(_: jax.Array, b: _Bracket) -> _Bracket:
            reached, nearest = self.minimize(problem, b.c, b.nearest)
            low, high = jnp.where(reached, b.low, b.c), jnp.where(reached, b.c, b.high)
            return _Bracket(low, high, jnp.where(jnp.isinf(high), 10 * b.c, 0.5 * (low + high)), nearest)

        start = _Bracket(
            state.scale, state.scale + jnp.inf, state.scale + self.first_c, self.nothing_yet(problem, state)
        )
        last: _Bracket = jax.lax.fori_loop(0, self.searches, again, start)
        return last.nearest.ends(problem, state, self.searches * self.calls)

    @abstractmethod
    def minimize(self, problem: Problem, c: jax.Array, nearest: Nearest) -> tuple[jax.Array, Nearest]:
        """Whether an image on the way for this c was answered as wanted, and the nearest of `nearest` and those."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """Evaluations of the model for one c."""

    def wanted(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        return super().wanted(logits, label) & (self.criterion.margin(logits, label) >= self.confidence)

    def slope(
        self, problem: Problem, point: jax.Array, c: jax.Array, nearest: Nearest
    ) -> tuple[jax.Array, jax.Array, jax.Array, Nearest]:
        """The gradient of `||point - x||_2^2 + c f`, f at the allowed image of the point; that image; `Reading.met`.

        f ends where the image is wanted, not at a margin of 0, which may be within rounding error.
        """
        image = self.constraint(point, problem.image)
        reading, nearest = self.read(problem, image, nearest)
        pull = jnp.where(reading.met, jnp.zeros_like(c), c) * reading.gradient
        return 2 * (point - problem.image) - pull, image, reading.met, nearest


class _Descent(NamedTuple):
    """Adam's way for one c: the point, not rounded, and whether an image on it was answered as wanted."""

    point: jax.Array
    memory: Any
    reached: jax.Array
    nearest: Nearest


@value
class CarliniWagner(Traded):
    """See `carlini_wagner`, which makes it."""

    criterion: Criterion = Misclassified()

    @property
    def calls(self) -> int:
        return self.steps

    def minimize(self, problem: Problem, c: jax.Array, nearest: Nearest) -> tuple[jax.Array, Nearest]:
        origin = problem.image

        def again(_: jax.Array, d: _Descent) -> _Descent:
            slope, image, reached, nearest = self.slope(problem, d.point, c, d.nearest)
            nearest = nearest.or_nearer(image, jnp.sum((image - origin) ** 2), reached)
            ray, memory = _ADAM.update(slope, d.memory, d.point)
            return _Descent(jnp.clip(d.point - self.step_size * ray, 0.0, 1.0), memory, d.reached | reached, nearest)

        start = _Descent(origin, _ADAM.init(origin), jnp.zeros_like(nearest.moved), nearest)
        last: _Descent = jax.lax.fori_loop(0, self.steps, again, start)
        return last.reached, last.nearest
