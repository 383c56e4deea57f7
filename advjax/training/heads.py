"""The loss of networks with auxiliary heads."""

from typing import Any

import jax

from advjax.entropy import cross_entropies
from advjax.training.step import Loss

__all__ = ["with_heads"]


def with_heads(weight: float = 0.3) -> Loss:
    """A loss for `train_step`: cross-entropy, plus `weight` times that of each auxiliary head that the network has:

        J(x, y) = -log softmax(h(x))_y - weight sum_k log softmax(h_k(x))_y.

    The heads h_k are the taps whose names begin with "aux", as those of `GoogLeNet`, `InceptionV3` and `NASNetA` in
    training mode; of a network without them it is the cross-entropy. Its call must take a `tap` (see
    `advjax.models.taps`).

    Args:
        weight: 0.3 in the paper, of GoogLeNet; 0.4 in the authors' code (slim) for Inception-v3 and NASNet-A.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 5.

    >>> import jax.numpy as jnp
    >>> def network(images, tap):
    ...     tap("aux1", images[:, 0, 0])
    ...     return tap("penultimate", images[:, 0, 0])
    >>> losses, logits = with_heads(0.5)(network, jnp.zeros((1, 1, 1, 2)), jnp.array([0]))
    >>> bool(jnp.allclose(losses, 1.5 * jnp.log(2.0)))
    True
    """

    def loss(model: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads: list[jax.Array] = []

        def tap(name: str, x: jax.Array) -> jax.Array:
            if name.startswith("aux"):
                heads.append(x)
            return x

        logits = model(images, tap)
        losses = cross_entropies(logits, labels)
        for head in heads:
            losses = losses + weight * cross_entropies(head, labels)
        return losses, logits

    return loss
