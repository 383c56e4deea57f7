"""Criteria: what counts as success.

One value says it to everyone: the search that looks for a boundary, the attacks that stop early or keep the best of
many images, the verdict in `Perturbation.success`, and the reports made of it.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.objectives import best_other, check_targets
from advjax.value import number, value, walk

__all__ = ["Criterion", "Misclassified", "TargetReached", "criterion_of"]

# See `_clearly_ahead`: shares of the spread of the logits and of the size of the two that are compared.
_OF_SPREAD, _OF_SIZE = 1e-5, 2.5e-7


class Criterion(Protocol):
    """What an attack is after, on one image: logits [K] and the label, a scalar."""

    def margin(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """By how much the criterion is met: a difference of two logits, positive where it is met."""

    def __call__(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """Whether it is met by more than rounding error, bool."""

    def possible(self, label: jax.Array) -> jax.Array:
        """Whether an image of this label can meet it at all, bool."""


@value
class Misclassified:
    """Another class than the label is answered: `max_{j != y} h_j - h_y > 0`.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks import Misclassified
      >>> met = Misclassified()
      >>> bool(met(jnp.array([1.0, 3.0, 2.0]), jnp.int32(0))), bool(met(jnp.array([1.0, 3.0, 2.0]), jnp.int32(1)))
      (True, False)
    """

    def margin(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        return best_other(logits, label) - logits[label]

    def __call__(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        return _clearly_ahead(best_other(logits, label), logits[label], logits)

    def possible(self, label: jax.Array) -> jax.Array:
        return jnp.ones_like(label, dtype=jnp.bool_)


@value
class TargetReached:
    """The class `target` is answered: `h_t - max_{j != t} h_j > 0`.

    Where the label is the target there is nothing to reach: the margin is -infinity and the criterion is never met.

    Attributes:
      target: a class number, or one for each image [B].

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks import TargetReached
      >>> met = TargetReached(1)
      >>> bool(met(jnp.array([1.0, 3.0, 2.0]), jnp.int32(0))), bool(met(jnp.array([1.0, 3.0, 4.0]), jnp.int32(0)))
      (True, False)
    """

    target: Any = number(dtype=np.int32)

    def check_classes(self, classes: int) -> None:
        """Raises ValueError if a target is no class of the model."""
        check_targets(self.target, classes)

    def margin(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        target = jnp.asarray(self.target)
        margin = logits[target] - best_other(logits, target)
        return jnp.where(self.possible(label), margin, jnp.full_like(margin, -jnp.inf))

    def __call__(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        target = jnp.asarray(self.target)
        return self.possible(label) & _clearly_ahead(logits[target], best_other(logits, target), logits)

    def possible(self, label: jax.Array) -> jax.Array:
        return jnp.asarray(self.target) != label


def criterion_of(attack: Any) -> Any:
    """The criterion of an attack or a stack: its outermost part's that has one, else `Misclassified()`.

    Example:
      >>> from advjax import fgs
      >>> from advjax.attacks import criterion_of, targeted
      >>> criterion_of(targeted(fgs(), 3)).target.tolist()
      3
    """
    found = (getattr(part, "criterion", None) for part in walk(attack))
    return next((criterion for criterion in found if criterion is not None), Misclassified())


def _clearly_ahead(first: jax.Array, second: jax.Array, logits: jax.Array) -> jax.Array:
    """Whether one logit is above another by more than rounding error: so in any batch, program and device.

    The bar has two parts.  Each of the two may be off by one step of float32 at its size, 1.2e-7 of it at most.  And
    the sums that they come from were as large as the logits are spread, which is taken to be the distance from the
    largest logit to the one a third of the way down: a common offset of all logits does not change it, nor do masked
    classes (-1e9, -infinity), which are far down.  Where a mask leaves little but the two, the spread counts as at
    most 32 times their size; where there are no others, as a tenth of it.

    Measured on a trained LeNet at boundary images (2026-11-25, CPU): alone instead of in a batch a margin moves by up
    to 1.3e-6 of the spread, an eighth of the bar.
    """
    classes = logits.shape[-1]
    third = classes // 3 + 1
    top, _ = jax.lax.top_k(logits, third + 1)
    pair = jnp.stack([first, second])
    # A masked class has no size.
    size = jnp.max(jnp.where(jnp.isfinite(pair), jnp.abs(pair), jnp.zeros_like(pair)))
    spread = jnp.fmin(top[0] - top[third], 32 * size) if classes > 2 else 0.1 * size
    return first - second > _OF_SPREAD * spread + _OF_SIZE * size
