"""Losses of pairs: what a network says of a clean image, and of what an attack made of it."""

from abc import ABC, abstractmethod

import jax

__all__ = ["PairLoss"]


class PairLoss(ABC):
    """A `loss` of `train_step` that compares the logits of the clean and of the attacked images; both are descended."""

    @abstractmethod
    def __call__(self, clean_logits: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The losses float32 [B] of pairs with logits [B, K], of the clean and of the attacked images, and labels [B].

        The logits come as the network gives them: one in bfloat16 should be widened before exponentials are taken.
        """
