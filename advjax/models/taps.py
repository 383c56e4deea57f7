"""Taps: reading and perturbing the hidden features of a network by the names of its blocks."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import jax
from flax import nnx

__all__ = ["Tap", "Tapped", "untapped", "features"]

Tap: TypeAlias = Callable[[str, jax.Array], jax.Array]
"""`tap(name, x) -> x'`: a network calls it with the output of each named block and goes on with the result."""


@runtime_checkable
class Tapped(Protocol):
    """A network whose call takes a tap: all of `advjax.models`."""

    def __call__(self, images: jax.Array, tap: Tap = ...) -> jax.Array:
        """Logits float32 [B, K] of images float32 [B, H, W, C] in [0, 1]."""

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """The taps that are hidden space to random-sign training, in the order of the forward pass.

        They are what the blocks of the network read, after the activation if a block begins with one: neither "input"
        nor "pool" or "penultimate", where the last block has done its work. In networks of a few layers they are what
        the layers read.
        """


def untapped(name: str, x: jax.Array) -> jax.Array:
    """The tap that changes nothing.

    >>> import jax.numpy as jnp
    >>> float(untapped("input", jnp.float32(2.0)))
    2.0
    """
    return x


def features(model: nnx.Module, images: jax.Array) -> dict[str, jax.Array]:
    """What the network's taps see, by name, in the order of the forward pass.

    The first is "input", the images as the network normalizes them; the last is "penultimate", the logits. The one
    before these is what the last dense layer reads, [B, F], in all networks but SqueezeNet (its last convolution's
    input) and CapsNet (its capsules). It may be called inside `jit`, `vmap` and `eval_shape`, which return dictionaries
    sorted by name. The model is used in the mode that it is in.

    Args:
        model: a network of `advjax.models`.
        images: float32 [B, H, W, C] in [0, 1].

    Raises:
        ValueError: two blocks of the network have one name.

    >>> import jax.numpy as jnp
    >>> from advjax.models import LeNet
    >>> read = nnx.eval_shape(lambda: features(LeNet(rngs=nnx.Rngs(0)), jnp.zeros((2, 28, 28, 1))))
    >>> {name: x.shape for name, x in read.items()}
    {'dense1': (2, 500), 'input': (2, 28, 28, 1), 'penultimate': (2, 10), 'pool1': (2, 12, 12, 20),
    'pool2': (2, 4, 4, 50)}
    """
    read: dict[str, jax.Array] = {}

    def tap(name: str, x: jax.Array) -> jax.Array:
        if name in read:
            raise ValueError(f"model must give each tap a name of its own, but {name!r} came twice")
        read[name] = x
        return x

    model(images, tap=tap)
    return read
