"""The capsule network with dynamic routing, its margin loss and its reconstruction."""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.layers import check_images
from advjax.models.taps import Tap, untapped

__all__ = ["CapsNet", "squash", "route", "margin_loss", "capsule_loss"]

# The authors' code draws all weights as truncated normals of 0.1, conv1's as 0.05, and routes the primary capsules
# to their 32 types with equal weights; that factor 1/32, which the paper has not, is in the weights here.
_CONV = nnx.initializers.truncated_normal(0.05, lower=-2.0, upper=2.0)
_PRIMARY = nnx.initializers.truncated_normal(0.1 / 32, lower=-2.0, upper=2.0)
_CAPSULE = nnx.initializers.truncated_normal(0.1, lower=-2.0, upper=2.0)
_TENTH = nnx.initializers.constant(0.1)
# Below the square of float32's smallest step at 1: it moves no length, and keeps the gradient at 0 finite.
_TINY = 1e-15


class CapsNet(nnx.Module):
    """CapsNet for MNIST; 8,215,568 parameters with the decoder, 6,804,224 without; 202M multiply-adds.

    conv 9x9x256 (valid) -> ReLU -> conv 9x9/2 to 32 types of capsules of 8 numbers on a 6x6 grid, squashed
    -> a capsule of 16 numbers for each class, by routing. The logits are the lengths of the class capsules, in
    [0, 1); they are no log-probabilities, and the loss that goes with them is `margin_loss`.

    Args:
        num_classes: number of logits.
        types: of primary capsules; 32 in the paper.
        filters: channels of the first convolution; 256 in the paper.
        decoder: whether the network can reconstruct the image: dense 512 -> ReLU -> dense 1024 -> ReLU
            -> dense 784 -> sigmoid, from the capsule of one class, the others set to 0.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input, conv1, primary [B, 36 types, 8], capsules [B, num_classes, 16], penultimate; the hidden ones are conv1
    and primary.

    Source: Sabour, Frosst and Hinton 2017, "Dynamic routing between capsules"; their code for the start.

    >>> nnx.eval_shape(lambda: CapsNet(rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28, 1)))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("conv1", "primary")

    def __init__(
        self,
        num_classes: int = 10,
        *,
        types: int = 32,
        filters: int = 256,
        decoder: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = nnx.Conv(1, filters, (9, 9), padding="VALID", kernel_init=_CONV, bias_init=_TENTH, rngs=rngs)
        self.primary = nnx.Conv(
            filters, 8 * types, (9, 9), 2, padding="VALID", kernel_init=_PRIMARY, bias_init=_TENTH, rngs=rngs
        )
        shape = (36 * types, 8, num_classes, 16)
        self.transform = nnx.Param(_CAPSULE(rngs.params(), shape, jnp.float32))
        self.decoder: nnx.List[nnx.Linear] = nnx.List([])
        if decoder:
            sizes = (16 * num_classes, 512, 1024, 784)
            layers = [
                nnx.Linear(inputs, outputs, kernel_init=_CAPSULE, bias_init=_TENTH, rngs=rngs)
                for inputs, outputs in itertools.pairwise(sizes)
            ]
            self.decoder = nnx.List(layers)

    def capsules(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The class capsules float32 [B, num_classes, 16] of images as in a call."""
        check_images(images, 28, 28, 1)
        x = tap("conv1", nnx.relu(self.conv1(tap("input", images))))
        x = squash(self.primary(x).reshape(x.shape[0], -1, 8))
        votes = jnp.einsum("bia,iakc->bikc", tap("primary", x), self.transform[...])
        return tap("capsules", route(votes))

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, 28, 28, 1] in [0, 1]: the capsules' lengths."""
        return tap("penultimate", _length(self.capsules(images, tap)))

    def reconstruct(self, capsules: jax.Array, labels: jax.Array) -> jax.Array:
        """Images float32 [B, 28, 28, 1] in [0, 1] from the capsules [B, num_classes, 16] of the classes `labels`.

        Raises:
            ValueError: the network was made without a decoder.
        """
        if not self.decoder:
            raise ValueError("the network must be made with decoder=True to reconstruct images")
        chosen = jax.nn.one_hot(labels, capsules.shape[1], dtype=capsules.dtype)
        x = (capsules * chosen[:, :, None]).reshape(capsules.shape[0], -1)
        for layer in self.decoder[:-1]:
            x = nnx.relu(layer(x))
        return nnx.sigmoid(self.decoder[-1](x)).reshape(-1, 28, 28, 1)


def squash(s: jax.Array) -> jax.Array:
    """s |s| / (1 + |s|^2) along the last axis: the direction of s with a length in [0, 1) (eq. 1).

    >>> [round(float(x), 4) for x in squash(jnp.array([3.0, 4.0]))]
    [0.5769, 0.7692]
    """
    square = jnp.sum(s * s, -1, keepdims=True)
    return s * (jnp.sqrt(square + _TINY) / (1 + square))


def route(votes: jax.Array, iterations: int = 3) -> jax.Array:
    """Dynamic routing by agreement of votes [B, I, K, D] of I capsules for K (Procedure 1): capsules [B, K, D].

    From b = 0, `iterations` times: c = softmax over K of b, s_k = sum_i c_ik u_ik, v_k = squash(s_k), and
    b_ik <- b_ik + u_ik . v_k.

    >>> route(jnp.ones((1, 6, 2, 4))).shape
    (1, 2, 4)
    """
    agreement = jnp.zeros(votes.shape[:3], votes.dtype)
    for iteration in range(iterations):
        capsules = squash(jnp.einsum("bik,bikd->bkd", nnx.softmax(agreement), votes))
        if iteration < iterations - 1:
            agreement = agreement + jnp.einsum("bikd,bkd->bik", votes, capsules)
    return capsules


def margin_loss(lengths: jax.Array, labels: jax.Array) -> jax.Array:
    """Losses float32 [B] of lengths [B, K] and labels int32 [B] (eq. 4), with T the one-hot labels:

        sum_k  T_k max(0, 0.9 - |v_k|)^2 + 0.5 (1 - T_k) max(0, |v_k| - 0.1)^2.

    >>> margin_loss(jnp.array([[0.8, 0.3]]), jnp.array([0])).round(3).tolist()
    [0.03...]
    """
    present = jax.nn.one_hot(labels, lengths.shape[-1], dtype=lengths.dtype)
    missing, false = jnp.maximum(0.9 - lengths, 0.0), jnp.maximum(lengths - 0.1, 0.0)
    return jnp.sum(present * missing**2 + 0.5 * (1 - present) * false**2, -1)


def capsule_loss(model: CapsNet, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Losses [B] and logits [B, K] as `train_step` takes them: the margin loss and, if the network has a decoder,

        0.0005 * sum over pixels of (reconstruction of the true class - image)^2.

    >>> def loss():
    ...     return capsule_loss(CapsNet(rngs=nnx.Rngs(0)), jnp.zeros((3, 28, 28, 1)), jnp.zeros(3, jnp.int32))
    >>> losses, logits = nnx.eval_shape(loss)
    >>> losses.shape, logits.shape
    ((3,), (3, 10))
    """
    read: dict[str, jax.Array] = {}

    def tap(name: str, x: jax.Array) -> jax.Array:
        return read.setdefault(name, x)

    logits = model(images, tap)
    losses = margin_loss(logits, labels)
    if model.decoder:
        errors = model.reconstruct(read["capsules"], labels) - images
        losses = losses + 0.0005 * jnp.sum(errors**2, (1, 2, 3))
    return losses, logits


def _length(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x, -1) + _TINY)
