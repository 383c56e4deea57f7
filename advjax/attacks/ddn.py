"""Decoupled Direction and Norm: the radius of the sphere follows the boundary (Rony et al. 2019)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks.attack import Problem, State
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import L2, Chain
from advjax.attacks.nearest import Nearest, NearestFooled, allowed_images, check_positive, check_share, falling
from advjax.attacks.objectives import CrossEntropy
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_directions
from advjax.attacks.settings import check_count
from advjax.value import number, static, value

__all__ = ["DecoupledNorm", "ddn"]


def ddn(
    *,
    steps: int = 100,
    init_norm: Number = 1.0,
    gamma: Number = 0.05,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "DecoupledNorm":
    """The smallest change in l2, on a sphere whose radius follows the boundary (Rony et al. 2019, algorithm 1).

    With J the cross-entropy, s_k falling from 1 to 0.01 along half a cosine, and d_k = x_k - x,

        z       = d_k + s_k grad J(x_k) / ||grad J(x_k)||_2,
        r_{k+1} = (1 - gamma) r_k  where x_k is answered wrongly,  (1 + gamma) r_k  where it is not,
        x_{k+1} = Q(clip(x + r_{k+1} z / ||z||_2, 0, 1)),

    from x_0 = x and r_0 = init_norm.  Q is the rounding of the paper, to the nearest level; each x_k is what the model
    is read at and where the next step begins.  The nearest x_k that is answered wrongly is returned, or the clean
    image.  As in the authors' code no radius is longer than the way to the farthest corner of [0, 1].  Where the
    gradient is zero they draw a random one; here the image stays where it is.

    Args:
      steps: evaluations of the model, a gradient each.
      init_norm: the first radius, in l2 over [0, 1] units, above 0; one number, or one for each image [B].
      gamma: how much the radius changes in a step, in (0, 1); one number, or one for each image [B].
      mask, levels: as for `fgs`.

    Raises:
      ValueError: steps below 1, init_norm not above 0, or gamma outside (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import ddn, from_function, perturb
      >>> def model(w, x):
      ...     return jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1)
      >>> classifier = from_function(model, jnp.float32(2.0))  # answers 0 where the sum is above 1
      >>> images, labels = jnp.full((1, 2, 2, 1), 0.4), jnp.array([0])
      >>> result = perturb(ddn(), classifier, images, labels)
      >>> (result.image[0, 0, 0] * 255).tolist(), result.success.tolist()  # from 102 across 63.75
      ([63.0], [True])
    """
    check_count("steps", steps)
    check_positive("init_norm", init_norm)
    check_share("gamma", gamma)
    masked, allowed = Chain(mask_directions(mask)), allowed_images(mask, levels)
    return DecoupledNorm(CrossEntropy(), masked, allowed, init_norm, gamma, steps)


class _Walk(NamedTuple):
    """Where it is, the radius of the sphere that this image was put on, and what to return."""

    image: jax.Array
    norm: jax.Array
    nearest: Nearest


@value
class DecoupledNorm(NearestFooled):
    """See `ddn`, which makes it."""

    init_norm: Number = number()
    gamma: Number = number()
    steps: int = static()
    criterion: Criterion = Misclassified()

    def step(self, problem: Problem, state: State) -> State:
        origin = problem.image
        farthest = jnp.linalg.norm(jnp.maximum(origin, 1 - origin))

        def again(k: jax.Array, walk: _Walk) -> _Walk:
            reading, nearest = self.read(problem, walk.image, walk.nearest)
            change = walk.image - origin
            nearest = nearest.or_nearer(walk.image, jnp.linalg.norm(change), reading.met)
            change = change + (0.01 + 0.99 * falling(k, self.steps, origin)) * L2().ray(reading.gradient)
            norm = walk.norm * jnp.where(reading.met, 1 - self.gamma, 1 + self.gamma)
            norm = jnp.minimum(norm, farthest)
            size = jnp.linalg.norm(change)
            change = change * (norm / jnp.where(size > 0, size, 1.0))
            return _Walk(self.constraint(origin + change, origin), norm, nearest)

        start = _Walk(state.image, state.scale + self.init_norm, self.nothing_yet(problem, state))
        last: _Walk = jax.lax.fori_loop(0, self.steps, again, start)
        return last.nearest.ends(problem, state, self.steps)
