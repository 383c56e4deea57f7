"""Objectives: (logits [K], label, clean logits [K]) -> the scalar that an attack climbs."""

from abc import ABC, abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.part import Number, Part
from advjax.value import number, static, value

__all__ = [
    "DLR",
    "CrossEntropy",
    "HotCold",
    "Margin",
    "Objective",
    "Targeted",
    "TargetedDLR",
    "best_other",
    "margin",
    "ranked_class",
]


class Objective(Part, ABC):
    """What an attack climbs, on one image."""

    @abstractmethod
    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        """The scalar; logits [K], label a scalar, `clean_logits` [K] those of the unperturbed image, constants."""

    def towards(self, targets: Number) -> "Objective":
        """The like of it that climbs towards classes, for `targeted`; ValueError if there is none."""
        raise ValueError(f"attack must climb the cross-entropy or the margin, without a target, got {self!r}")


def margin(logits: jax.Array, label: jax.Array) -> jax.Array:
    """`max_{j != y} h_j - h_y`: positive where the model is fooled.  logits [K], label scalar -> scalar."""
    return best_other(logits, label) - logits[label]


def best_other(logits: jax.Array, label: jax.Array) -> jax.Array:
    """`max_{j != y} h_j`: the largest logit of the other classes.  logits [K], label scalar -> scalar."""
    return jnp.max(jnp.where(_one_hot(label, logits), -jnp.inf, logits))


def ranked_class(clean_logits: jax.Array, label: jax.Array, rank: Number) -> jax.Array:
    """The class of the `rank`-th largest clean logit among the classes other than the label, from 1."""
    others = jnp.where(_one_hot(label, clean_logits), -jnp.inf, clean_logits)
    return jnp.argsort(others, descending=True)[rank - 1]


@value
class CrossEntropy(Objective):
    """`J = -log softmax(h)_y`, the objective of fast gradient sign and value and of PGD.

    As everywhere, its gradient is `softmax(h) - e_y`, in which float32 loses the label's own share where the label
    leads by more than about 16; `Margin` points along the decision boundary there too.
    """

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return loss

    def towards(self, targets: Number) -> Objective:
        return Targeted(targets)


@value
class Margin(Objective):
    """`max_{j != y} h_j - h_y`, which does not saturate where the softmax does (Carlini & Wagner 2017).

    Attributes:
      target: None; or a class (or one for each image [B]) to climb towards, `h_target - max_{j != target} h_j`.
    """

    target: Number | None = number(dtype=np.int32, default=None)

    def asked_classes(self) -> dict[str, Number]:
        return {} if self.target is None else {"targets": self.target}

    def towards(self, targets: Number) -> Objective:
        return super().towards(targets) if self.target is not None else Margin(targets)

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        return margin(logits, label) if self.target is None else -margin(logits, jnp.asarray(self.target))


@value
class Targeted(Objective):
    """`log softmax(h)_target`: climbs towards the class `target` (a class number, or one for each image [B])."""

    target: Number = number(dtype=np.int32)

    def asked_classes(self) -> dict[str, Number]:
        return {"targets": self.target}

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(self.target))
        return -loss


@value
class DLR(Objective):
    """`(max_{j != y} h_j - h_y) / (h_1st - h_3rd)`: the difference-of-logits ratio (Croce & Hein 2020, eq. 6).

    It needs three classes; else as `TargetedDLR`.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.attacks import DLR
      >>> logits = jnp.array([5.0, 3.0, 1.0, 0.0])
      >>> float(DLR()(logits, jnp.int32(0), logits))
      -0.5
    """

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        if logits.shape[-1] < 3:
            raise ValueError(f"the difference-of-logits ratio needs 3 classes or more, got {logits.shape[-1]}")
        logits = _unmasked(logits)
        top, _ = jax.lax.top_k(logits, 3)
        return margin(logits, label) / (top[0] - top[2] + 1e-12)


@value
class TargetedDLR(Objective):
    """`(h_t - h_y) / (h_1st - (h_3rd + h_4th) / 2)`: the targeted difference-of-logits ratio (Croce & Hein 2020).

    Neither shifting nor scaling the logits changes it, so that a softmax which saturates cannot hide the gradient.
    It needs four classes.  A masked class counts as the model gives it, where it is among the four: at -1e9 the ratio
    is tiny, and its gradient that of `h_t - h_y`; one at -infinity is taken to be as far below the lowest finite logit
    as that is below the largest.

    Attributes:
      rank: the target t is the class of the rank-th largest clean logit among the classes other than y, from 1.
    """

    rank: Number = number(dtype=np.int32, default=1)

    def asked_classes(self) -> dict[str, Number]:
        return {"rank": self.rank}

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        if logits.shape[-1] < 4:
            raise ValueError(f"the difference-of-logits ratio needs 4 classes or more, got {logits.shape[-1]}")
        target = ranked_class(clean_logits, label, self.rank)
        logits = _unmasked(logits)
        top, _ = jax.lax.top_k(logits, 4)
        spread = top[0] - 0.5 * (top[2] + top[3])
        # As in the authors' code: logits that are all equal have no spread.
        return (logits[target] - logits[label]) / (spread + 1e-12)


@value
class HotCold(Objective):
    """Rozsa et al. 2016, eq. 7: adds the features of a hot class and removes those of the cold class y.

    With h the logits of the clean image, y its label and c != y the hot class, the cotangent is

        omega_j = |h_c| if j = c,  -h_y if j = y,  0 otherwise

    and the objective is `<omega, logits>` with omega held constant.  Its gradient in the image is the
    vector-Jacobian product of the logits with omega, `sum_j omega_j grad h_j`: the paper's B(omega).

    Attributes:
      rank: the hot class is the one with the rank-th largest clean logit among the classes other than y, from 1.
      target: the hot class itself, instead of `rank`.  Where it is y there is no direction.
      cold: "paper" takes -h_y literally; "abs" takes -|h_y|, which still cools the class where h_y < 0.
    """

    rank: Number | None = number(dtype=np.int32, default=None)
    target: Number | None = number(dtype=np.int32, default=None)
    cold: Literal["paper", "abs"] = static(default="paper")

    def __post_init__(self) -> None:
        if self.cold not in ("paper", "abs"):
            raise ValueError(f'cold must be "paper" or "abs", got {self.cold!r}')
        if (self.rank is None) == (self.target is None):
            raise ValueError(f"give either rank or target, got {self.rank} and {self.target}")
        if isinstance(self.rank, np.ndarray) and np.any(self.rank < 1):
            raise ValueError(f"rank must be 1 (the closest class) or more, got {self.rank}")

    def asked_classes(self) -> dict[str, Number]:
        asked = {"targets": self.target, "rank": self.rank}
        return {name: number for name, number in asked.items() if number is not None}

    def __call__(self, logits: jax.Array, label: jax.Array, clean_logits: jax.Array) -> jax.Array:
        is_label = _one_hot(label, clean_logits)
        hot = jnp.asarray(self.target) if self.rank is None else ranked_class(clean_logits, label, self.rank)
        cold = jnp.abs(clean_logits) if self.cold == "abs" else clean_logits
        omega = jnp.where(_one_hot(hot, clean_logits), jnp.abs(clean_logits), jnp.zeros_like(clean_logits))
        omega = jnp.where(is_label, -cold, omega)
        omega = jnp.where(hot == label, jnp.zeros_like(omega), omega)
        # A class that is masked by -infinity has no feature to add or remove, nor 0 times infinity of it.
        omega = jax.lax.stop_gradient(jnp.where(jnp.isfinite(omega), omega, jnp.zeros_like(omega)))
        return jnp.sum(jnp.where(omega != 0, omega * logits, jnp.zeros_like(logits)))


def _one_hot(index: jax.Array, logits: jax.Array) -> jax.Array:
    return jnp.arange(logits.shape[-1], dtype=jnp.int32) == index


def _unmasked(logits: jax.Array) -> jax.Array:
    """The logits, where those at -infinity are as far below the lowest of the others as that is below the largest."""
    lowest = jnp.min(jnp.where(jnp.isfinite(logits), logits, jnp.full_like(logits, jnp.inf)))
    below = jax.lax.stop_gradient(2 * lowest - jnp.max(logits))
    return jnp.where(logits == -jnp.inf, below, logits)
