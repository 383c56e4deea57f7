"""The two players' losses of a perturbation generation network (Yoo et al. 2017), by image."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

__all__ = ["AdversarialLoss", "Problem", "discriminator_losses", "generator_losses", "targets"]

AdversarialLoss: TypeAlias = Literal["ls", "lr"]
"""Least squares or cross-entropy (the paper's Proposed-ls and Proposed-lr)."""
Problem: TypeAlias = Literal["enhancing", "adversarial"]
"""Whether the classifier is to be right or to be wrong."""


def targets(predictions: jax.Array, labels: jax.Array, problem: Problem) -> jax.Array:
    """The targets t [B], float32: 1 where the classifier's answer is what the problem wants.

        enhancing     t_i = 1 if argmax C(x~_i) = y_i, else 0       (eq. 4)
        adversarial   t_i = 1 if argmax C(x~_i) != y_i, else 0      (eq. 10)

    They are made of integers, so no gradient can pass.

    >>> targets(jnp.array([3, 1]), jnp.array([3, 2]), "enhancing").tolist()
    [1.0, 0.0]
    """
    right = predictions == labels
    return (right if problem == "enhancing" else ~right).astype(jnp.float32)


def discriminator_losses(logits: jax.Array, wanted: jax.Array, loss: AdversarialLoss) -> jax.Array:
    """The discriminator's losses [B] of its logits z [B] for targets t [B], with s = sigmoid(z):

        ls   (s - t)^2                                   (eqs. 5, 7)
        lr   -t log s - (1 - t) log(1 - s)               (eq. 25)

    The mean over a batch is defined whatever its targets are, since the expectations over good and bad images are not
    averaged apart. Where images x~ are good with density p1 and bad with density p0 (each with its share of all), the
    best discriminator is s = p1 / (p1 + p0) for both.

    >>> discriminator_losses(jnp.zeros(2), jnp.array([1.0, 0.0]), "ls").tolist()
    [0.25, 0.25]
    """
    if loss == "lr":
        return optax.sigmoid_binary_cross_entropy(logits, wanted)
    return jnp.square(jax.nn.sigmoid(logits) - wanted)


def generator_losses(logits: jax.Array, loss: AdversarialLoss) -> jax.Array:
    """The generator's losses [B] of the discriminator's logits [B], small where it takes all images for good ones:

        ls   (s - 1)^2                                   (eqs. 6, 8)
        lr   -log s                                      (eq. 26)

    Unlike in a GAN the good images stay in the loss. At the best discriminator its mean is

        ls   integral p0^2 / (p1 + p0)
        lr   - integral (p1 + p0) log(p1 / (p1 + p0)),

    0 and least where no image is bad.

    >>> generator_losses(jnp.zeros(1), "ls").tolist()
    [0.25]
    """
    return discriminator_losses(logits, jnp.ones_like(logits), loss)
