"""A perturbation that is there already, added to whatever image comes: a universal one, or one for each image."""

from typing import ClassVar

import jax
import numpy as np

from advjax.attacks.attack import Asks, Attack, Problem, State
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.part import Mask
from advjax.attacks.regions import mask_constraints
from advjax.attacks.settings import check_real
from advjax.value import number, value

__all__ = ["Added", "added"]


def added(perturbation: np.ndarray | jax.Array, *, mask: Mask | None = None, levels: int | None = 256) -> "Added":
    """`x + v` for a given v, which asks the model nothing: how a universal perturbation is judged and trained with.

    The image is clipped to [0, 1] and rounded towards the clean one, so that it is in every ball that v is in.

    Args:
      perturbation: v [H, W, C] in units of [0, 1], or one for each image [B, H, W, C]; another one of this shape runs
        the same program.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: v is not finite, or (in `perturb`) has another shape than the images.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import added, from_function, perturb
      >>> classifier = from_function(lambda w, x: jnp.stack([x.mean((1, 2, 3)), w - x.mean((1, 2, 3))], -1), 0.5)
      >>> images, labels = jnp.array([90, 204]).reshape(2, 1, 1, 1) / 255, jnp.array([0, 0])
      >>> result = perturb(added(jnp.full((1, 1, 1), -51 / 255)), classifier, images, labels)
      >>> (result.image * 255).round().ravel().tolist(), result.success.tolist(), result.calls.tolist()
      ([39.0, 153.0], [True, False], [2, 2])
    """
    check_real("perturbation", perturbation, "finite numbers [H, W, C]", np.isfinite)
    grid = () if levels is None else (Quantize(levels, "inward"),)
    return Added(All((Box(), *grid, *mask_constraints(mask))), perturbation)


@value
class Added(Attack):
    """See `added`, which makes it.

    Attributes:
      constraint: makes the image allowed, grid included.
      perturbation: [H, W, C], or one for each image [B, H, W, C].
    """

    constraint: Constraint
    perturbation: np.ndarray | jax.Array = number(rank=3)
    asks: ClassVar[Asks] = "nothing"

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        if np.shape(self.perturbation)[-3:] != tuple(shape):
            raise ValueError(
                f"perturbation must be [{', '.join(map(str, shape))}], or one for each image with the batch in front, "
                f"got shape {np.shape(self.perturbation)}"
            )

    def step(self, problem: Problem, state: State) -> State:
        return state._replace(image=self.constraint(state.image + self.perturbation, problem.image))
