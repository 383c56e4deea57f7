"""Random signs: an attack that asks the model nothing and computes no gradient (Di, Yu and Tian 2018)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Asks, Attack, Problem, State
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.part import Mask, Number
from advjax.attacks.perturb import IMAGE_AXIS
from advjax.attacks.regions import mask_constraints
from advjax.attacks.settings import check_radius, check_real
from advjax.signs import Granularity, check_random_sign, random_sign_of
from advjax.value import number, static, value

__all__ = ["RandomSign", "random_sign"]


def random_sign(
    epsilon: Number,
    p: float = 0.5,
    per: Granularity = "element",
    *,
    mean: float | list[float] | tuple[float, ...] | np.ndarray | jax.Array = 0.0,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "RandomSign":
    """Random signs in input space: `x + eps (x - m) l`, l = sgn(x - m) with probability p, its opposite otherwise.

    With m the mean that a network subtracts, and whatever it divides by, this is the paper's `z + eps z l(z)` of the
    network's own input z; with m = 0 a pixel of 0 stays, and no sign is ever negative. The image is then clipped to
    [0, 1] and rounded to the grid, as that of every attack; `hidden_random_sign` at the tap "input" does neither.
    Training with it is `train_step(attack=random_sign(epsilon))`, which costs a multiplication and no gradient.

    Args:
      epsilon: the share, 0 or more; one number, or one for each image [B].
      p: probability of the sign of x - m, in [0, 1].
      per: what has one draw of its own: each "element", each "example", or the whole "batch" that is attacked in one
        call (of one device, under `pmap`).
      mean: m, a number for each channel [C] or for all.
      mask, levels: as for `fgs`, rounded towards the clean image.

    Raises:
      ValueError: a negative epsilon; p is no probability; another granularity; a mean of more axes.

    Source: Di, Yu and Tian 2018, section 3.3; see `advjax.signs.random_sign_of`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import from_function, perturb, random_sign
      >>> classifier = from_function(lambda w, x: jnp.stack([x.mean((1, 2, 3)), w - x.mean((1, 2, 3))], -1), 0.6)
      >>> images, labels = jnp.full((1, 4, 4, 1), 102 / 255), jnp.array([0])
      >>> result = perturb(random_sign(0.5), classifier, images, labels, jax.random.key(0))
      >>> sorted(set((result.image * 255).round().ravel().tolist())), result.calls.tolist()
      ([51.0, 153.0], [2])
    """
    check_radius("epsilon", epsilon)
    check_real("mean", mean, "finite", np.isfinite)
    grid = () if levels is None else (Quantize(levels, "inward"),)
    return RandomSign(All((Box(), *grid, *mask_constraints(mask))), epsilon, np.atleast_1d(mean), p, per)


@value
class RandomSign(Attack):
    """See `random_sign`, which makes it.

    Attributes:
      constraint: makes the image allowed, grid included.
      epsilon, p, per: as there.
      mean: [C], or [1] for all channels.
    """

    constraint: Constraint
    epsilon: Number = number()
    mean: np.ndarray | jax.Array = number(rank=1)
    p: float = static(default=0.5)
    per: Granularity = static(default="element")
    random = True
    asks: ClassVar[Asks] = "nothing"

    def __post_init__(self) -> None:
        check_random_sign(self.p, self.per)

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        if self.mean.shape[-1] not in (1, shape[-1]):
            raise ValueError(f"mean must be one number, or {shape[-1]}, one for each channel, got {self.mean}")

    def step(self, problem: Problem, state: State) -> State:
        key, own = jax.random.split(state.key)
        around = state.image - jnp.reshape(self.mean, (1, 1, -1))
        keys = _first_of_batch(own) if self.per == "batch" else own[None]
        moved = random_sign_of(keys, around[None], self.epsilon, p=self.p, per=self.per)[0]
        # The difference alone is added: what does not move keeps its bits.
        image = self.constraint(state.image + (moved - around), problem.image)
        return state._replace(image=image, key=key)


def _first_of_batch(key: jax.Array) -> jax.Array:
    """The key of the batch's first image, in all of them."""
    data = jax.random.key_data(key)
    first = jnp.where(jax.lax.axis_index(IMAGE_AXIS) == 0, data, jnp.zeros_like(data))
    shared: jax.Array = jax.lax.psum(first, IMAGE_AXIS)
    whole: jax.Array = jax.random.wrap_key_data(shared, impl=jax.random.key_impl(key))
    return whole
