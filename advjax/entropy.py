"""The cross-entropy of logits and the divergence of two, in float32 or wider whatever the network computes in."""

import math

import jax
import jax.numpy as jnp
import optax

__all__ = ["cross_entropies", "divergences", "log_mean_probability", "widened"]


def widened(logits: jax.Array) -> jax.Array:
    """Float32 numbers of narrower ones; float32 and float64 stay as they are."""
    return logits.astype(jnp.float32) if jnp.finfo(logits.dtype).bits < 32 else logits


def cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The losses [...] `log sum_j exp(h_j) - h_y` of logits h [..., K] with labels y [...].

    A bfloat16 has 8 bits: at a loss of 16 they lie 1/8 apart, and sums of exponentials lose what is below 1/256 of
    them. So the logits are widened first, and their gradient is rounded to the network's type once, at the end.

    >>> logits = jnp.array([[0.0, 8.0]], jnp.bfloat16)
    >>> [f"{cross_entropies(logits, jnp.array([label]))[0]:.5f}" for label in (0, 1)]
    ['8.00034', '0.00034']
    """
    return optax.softmax_cross_entropy_with_integer_labels(widened(logits), labels)


def log_mean_probability(logits: jax.Array) -> jax.Array:
    """`log (1/N) sum_i softmax(h_i)` of several logits h [N, ..., K] -> [..., K]; the logits of one as they are.

    >>> both = log_mean_probability(jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]])))
    >>> [f"{share:.3f}" for share in jnp.exp(both)]
    ['0.300', '0.700']
    """
    if logits.shape[0] == 1:
        return logits[0]
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(logits.shape[0])


def divergences(logits: jax.Array, others: jax.Array) -> jax.Array:
    """The Kullback-Leibler divergences [...] `sum_k p_k (log p_k - log q_k)`, p and q the softmax of logits [..., K].

    A class whose p is zero adds nothing, also where it is masked by -infinity in both.

    >>> f"{divergences(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.2, 0.8]))):.4f}"
    '0.2231'
    """
    log_p, log_q = (jax.nn.log_softmax(widened(each)) for each in (logits, others))
    p = jnp.exp(log_p)
    # The difference of two infinities must not reach a derivative either.
    some = p > 0
    return jnp.sum(p * (jnp.where(some, log_p, 0.0) - jnp.where(some, log_q, 0.0)), -1)
