"""Criteria: what counts as success.

One value says it to everyone: the search that looks for a boundary, the attacks that stop early or keep the best of
many images, the verdict in `Perturbation.success`, and the reports made of it.
"""

from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.objectives import best_other
from advjax.attacks.part import Number, Part
from advjax.value import number, value

__all__ = ["Criterion", "Misclassified", "TargetReached", "clear_lead"]

# See `clear_lead`: shares of the spread of the logits and of the size of the two that are compared.
_OF_SPREAD, _OF_SIZE = 1e-5, 2.5e-7


class Criterion(Part, ABC):
    """What an attack is after, on one image: logits [K] and the label, a scalar."""

    @abstractmethod
    def margin(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """By how much the criterion is met: a difference of two logits, positive where it is met."""

    @abstractmethod
    def __call__(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """Whether it is met by more than rounding error, bool."""

    def possible(self, label: jax.Array) -> jax.Array:
        """Whether an image of this label can meet it at all, bool."""
        return jnp.ones_like(label, dtype=jnp.bool_)

    def towards(self, targets: Number) -> "Criterion":
        """The like of it that is met at classes alone, for `targeted`; ValueError if there is none."""
        raise ValueError(f"attack must be after any wrong class, without a target, got {self!r}")


@value
class Misclassified(Criterion):
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

    def towards(self, targets: Number) -> Criterion:
        return TargetReached(targets)


@value
class TargetReached(Criterion):
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

    target: Number = number(dtype=np.int32)

    def asked_classes(self) -> dict[str, Number]:
        return {"targets": self.target}

    def margin(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        target = jnp.asarray(self.target)
        margin = logits[target] - best_other(logits, target)
        return jnp.where(self.possible(label), margin, jnp.full_like(margin, -jnp.inf))

    def __call__(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        target = jnp.asarray(self.target)
        return self.possible(label) & _clearly_ahead(logits[target], best_other(logits, target), logits)

    def possible(self, label: jax.Array) -> jax.Array:
        return jnp.asarray(self.target) != label


def _clearly_ahead(first: jax.Array, second: jax.Array, logits: jax.Array) -> jax.Array:
    """Whether one logit is above another by more than rounding error: so in any batch, program and device."""
    return first - second > clear_lead(first, second, logits)


def clear_lead(first: jax.Array, second: jax.Array, logits: jax.Array) -> jax.Array:
    """The bar over which the lead of one of logits [K] over another is no rounding error.

    It has two parts.  Each of the two may be off by one step of float32 at its size, 1.2e-7 of it at most.  And
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
    return _OF_SPREAD * spread + _OF_SIZE * size
