"""EAD: the attack of Carlini and Wagner with the elastic net as distance (Chen et al. 2018)."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Problem
from advjax.attacks.carlini_wagner import Traded, check_traded
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Chain
from advjax.attacks.nearest import Nearest, allowed_images
from advjax.attacks.objectives import Margin
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_directions
from advjax.attacks.settings import check_radius
from advjax.value import number, static, value

__all__ = ["ElasticNet", "ead"]


def ead(
    *,
    beta: Number = 1e-2,
    rule: Literal["EN", "L1"] = "EN",
    searches: int = 9,
    steps: int = 200,
    step_size: Number = 0.01,
    first_c: Number = 1e-2,
    confidence: Number = 0.0,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "ElasticNet":
    """The smallest change in the elastic net, l1 and l2 together (Chen et al. 2018, algorithm 1).

        min over x' in [0, 1] of  ||x' - x||_2^2 + beta ||x' - x||_1 + c f(x'),

    with f and the search for c those of `carlini_wagner`.  With g the smooth part, ||x' - x||_2^2 + c f, and S the
    shrinkage, which gives an entry that is within beta of the clean one back to it, brings others nearer by beta, and
    clips to [0, 1],

        x_{k+1} = S(y_k - a_k grad g(y_k)),    y_{k+1} = x_{k+1} + k / (k + 3) (x_{k+1} - x_k),

    from x_0 = y_0 = x, with a_k = step_size sqrt(1 - k / steps).  Of the rounded x_k that were answered as wanted, the
    nearest by `rule` is returned, or the clean image.  The gradient is read at y_k in [0, 1] and rounded.

    Args:
      beta: threshold of the shrinkage and weight of l1, 0 or more.
      rule: the distance that decides: "EN", ||.||_2^2 + beta ||.||_1, or "L1".
      steps: for each c; each takes a gradient at y_k and an evaluation at x_k.
      step_size: the first a_k.
      searches, first_c, confidence, mask, levels: as for `carlini_wagner`.

    Raises:
      ValueError: an unknown rule; a negative beta; and as `carlini_wagner` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import ead, from_function, perturb
      >>> def model(w, x):
      ...     pixels = x.reshape(-1, 4)
      ...     return jnp.stack([pixels @ w, 1 - pixels @ w], -1)
      >>> classifier = from_function(model, jnp.array([0.2, 2.0, 0.2, 0.2]))  # the second pixel matters most
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.4), jnp.array([0])
      >>> result = perturb(ead(), classifier, images, labels)
      >>> int(result.l0[0]), result.success.tolist()
      (1, [True])
    """
    if rule not in ("EN", "L1"):
        raise ValueError(f'rule must be "EN" or "L1", got {rule!r}')
    check_radius("beta", beta)
    check_traded(searches, steps, step_size, first_c, confidence)
    masked, allowed = Chain(mask_directions(mask)), allowed_images(mask, levels)
    return ElasticNet(Margin(), masked, allowed, first_c, confidence, step_size, searches, steps, beta, rule)


class _Descent(NamedTuple):
    """The way for one c: x_k and y_k, not rounded, and whether an image on it was answered as wanted."""

    x: jax.Array
    y: jax.Array
    reached: jax.Array
    nearest: Nearest


@value
class ElasticNet(Traded):
    """See `ead`, which makes it."""

    beta: Number = number()
    rule: Literal["EN", "L1"] = static()
    criterion: Criterion = Misclassified()

    @property
    def calls(self) -> int:
        return 2 * self.steps

    def minimize(self, problem: Problem, c: jax.Array, nearest: Nearest) -> tuple[jax.Array, Nearest]:
        origin = problem.image

        def again(step: jax.Array, d: _Descent) -> _Descent:
            k = step.astype(origin.dtype)
            slope, _, _, nearest = self.slope(problem, d.y, c, d.nearest)
            x = self._shrunk(d.y - self.step_size * jnp.sqrt(1 - k / self.steps) * slope, origin)
            image = self.constraint(x, origin)
            reached = self.wanted(problem.logits(image), problem.label)
            nearest = nearest.or_nearer(image, self._distance(image - origin), reached)
            return _Descent(x, x + k / (k + 3) * (x - d.x), d.reached | reached, nearest)

        start = _Descent(origin, origin, jnp.zeros_like(nearest.moved), nearest)
        last: _Descent = jax.lax.fori_loop(0, self.steps, again, start)
        return last.reached, last.nearest

    def _shrunk(self, z: jax.Array, origin: jax.Array) -> jax.Array:
        change = z - origin
        shrunk = jnp.sign(change) * jnp.maximum(jnp.abs(change) - self.beta, 0)
        return jnp.clip(origin + shrunk, 0.0, 1.0)

    def _distance(self, change: jax.Array) -> jax.Array:
        l1 = jnp.sum(jnp.abs(change))
        return l1 if self.rule == "L1" else jnp.sum(change**2) + self.beta * l1
