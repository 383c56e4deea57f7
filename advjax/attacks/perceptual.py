"""PassAtLeast: the constraint that an image must look like its original, by PASS; and attacks bounded by it."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Finish
from advjax.attacks.constraints import Constraint, Quantize
from advjax.attacks.part import Number
from advjax.scores.pass_score import pass_score
from advjax.value import number, static, value

__all__ = ["PassAtLeast", "pass_bounded"]


@value
class PassAtLeast(Constraint):
    """`PASS(x, origin) >= tau`: pulls the perturbation back along its ray until it holds (Rozsa et al. 2016, eq. 5).

    With d = candidate - origin the result is `origin + t d`, rounded inward to the grid, for the largest t in [0, 1]
    that a bisection finds; the candidate itself where it holds already. PASS was computed on exactly the image
    returned. On a ray PASS falls with t but for rounding, so that the bisection finds its crossing.

    Use it at the end, `Finish(attack, PassAtLeast(0.99))`: for a boundary search this is eq. 5, since its image is the
    nearest adversarial one on its ray, and where that looks too different the attack has failed. Or put it last in the
    constraint of a `Move`, where each candidate pays for `steps + 1` scores.

    Attributes:
      tau: least PASS, in (0, 1]; the paper uses 0.99 on ImageNet. A number, or one for each image [B].
      grid: how the result is rounded; None: not at all.
      steps: bisections of [0, 1].

    Example:
      >>> from advjax import hot_cold
      >>> from advjax.attacks import Finish, PassAtLeast
      >>> attack = Finish(hot_cold(1), PassAtLeast(0.99))
    """

    tau: Number = number()
    grid: Quantize | None = Quantize(256, "inward")
    steps: int = static(default=10)

    def __post_init__(self) -> None:
        if isinstance(self.tau, np.ndarray) and not np.all((self.tau > 0) & (self.tau <= 1)):
            raise ValueError(f"tau must be in (0, 1], got {self.tau}")
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")

    def __call__(self, candidate: jax.Array, origin: jax.Array) -> jax.Array:
        def at(share: jax.Array) -> jax.Array:
            image = origin + share * (candidate - origin)
            return image if self.grid is None else self.grid(image, origin)

        def holds(image: jax.Array) -> jax.Array:
            return pass_score(image, origin).score >= self.tau

        def halve(_: int, section: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = section
            middle = 0.5 * (low + high)
            enough = holds(at(middle))
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        zero = jnp.zeros((), candidate.dtype)
        low, _ = jax.lax.fori_loop(0, self.steps, halve, (zero, zero + 1))
        whole = at(zero + 1)
        return jnp.where(holds(whole), whole, at(low))


def pass_bounded(attack: Attack, least: Number = 0.99, *, levels: int | None = 256) -> Attack:
    """The attack, its image pulled back to the clean one until its PASS is `least` or more (Rozsa et al. 2016, eq. 5).

    Give the attack a generous radius, or none: what bounds it is that the image looks like its original.

    Args:
      attack: any, but for a stack.
      least: in (0, 1]; one number, or one for each image [B].
      levels: as those of the attack.

    Raises:
      ValueError: least outside (0, 1]; a stack.

    Example:
      >>> from advjax import pgd
      >>> from advjax.attacks import pass_bounded
      >>> attack = pass_bounded(pgd(0.3, step_size=0.02, steps=40), 0.99)
    """
    return Finish(attack, PassAtLeast(least, None if levels is None else Quantize(levels, "inward")))
