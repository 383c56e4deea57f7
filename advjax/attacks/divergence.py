"""What training by TRADES and MART attacks with: the divergence from the clean answer, and a start beside the image."""

import jax

from advjax.attacks.attack import Around, Problem, State
from advjax.attacks.objectives import Objective
from advjax.attacks.part import Number
from advjax.attacks.settings import check_radius
from advjax.entropy import divergences
from advjax.value import number, value

__all__ = ["Divergence", "NormalStart"]


@value
class Divergence(Objective):
    """`KL(p(x) || p(x'))`, p the softmax of the logits: how far the answer is from that to the clean image x.

    It asks for no label. At the clean image itself its gradient is zero: begin elsewhere (`NormalStart`, or `pgd`'s
    random start).

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", eq. 5.

    Example:
      >>> from advjax import pgd
      >>> from advjax.attacks import Divergence
      >>> attack = pgd(0.031, step_size=0.007, steps=10, objective=Divergence())
    """

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        return divergences(clean_logits, logits).astype(logits.dtype)


@value
class NormalStart(Around):
    """Begins at the attack's start plus `size` N(0, 1) in each entry, not yet made allowed: the first step does that.

    Source: Zhang et al. 2019, Algorithm 1, which has 0.001.
    """

    size: Number = number(default=0.001)
    random = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_radius("size", self.size)

    def init(self, problem: Problem, key: jax.Array) -> State:
        key, start_key = jax.random.split(key)
        state = self.attack.init(problem, key)
        noise = jax.random.normal(start_key, state.image.shape, state.image.dtype)
        return state._replace(image=state.image + self.size * noise)
