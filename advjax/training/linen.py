"""Flax Linen in training: a module and its variables as the NNX module that all of `advjax.training` works with."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from advjax.classifier import check_linen, linen_in_mode
from advjax.content import Content

__all__ = ["LinenModel"]


class _Collected(nnx.Variable):
    """A variable that training moves and no optimizer descends, such as batch statistics."""


class LinenModel(nnx.Module):
    """A Linen module and its variables, for `Trainer.fit`, `create` and `ensemble`.

    The switches between training and evaluation are found as `from_linen` finds them. In training mode everything that
    draws (dropout) draws from one stream, and all variables but "params" are what a call leaves them at.

    Attributes:
        variables: Linen's own mapping (`{"params": ..., "batch_stats": ...}`), as it is now.

    Raises:
        TypeError, ValueError: as `from_linen`.

    >>> net = linen.Dense(3)
    >>> model = LinenModel(net, net.init(jax.random.key(0), jnp.ones((1, 4))))
    >>> model(jnp.ones((2, 4))).shape, model.variables["params"]["kernel"].shape
    ((2, 3), (4, 3))
    """

    def __init__(self, module: linen.Module, variables: Mapping[str, Any]) -> None:
        check_linen(module, variables)
        others = {name: _as_dict(held) for name, held in variables.items()}
        self.params = nnx.data(jax.tree.map(lambda leaf: nnx.Param(jnp.asarray(leaf)), others.pop("params")))
        self.others = nnx.data(jax.tree.map(lambda leaf: _Collected(jnp.asarray(leaf)), others))
        self.module = Content(module)
        self.rngs = nnx.Rngs(0)
        self.deterministic = False  # what `train` and `eval` set

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": _values(self.params), **_values(self.others)}

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, K] of images [B, H, W, C]."""
        module, switches = linen_in_mode(self.module.held, training=not self.deterministic)
        logits: Any
        if self.deterministic:
            logits = module.apply(self.variables, images, **switches)
            return logits
        # Streams of other names fall back on this one.
        rngs, moving = {"params": self.rngs()}, list(self.others)
        logits, moved = module.apply(self.variables, images, rngs=rngs, mutable=moving, **switches)
        jax.tree.map(lambda variable, now: variable.set_value(now), self.others, _as_dict(moved), is_leaf=_is_variable)
        return logits


def _values(tree: Any) -> Any:
    return jax.tree.map(lambda variable: variable[...], tree, is_leaf=_is_variable)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _as_dict(tree: Any) -> Any:
    """Without Linen's frozen mappings."""
    return {name: _as_dict(part) for name, part in tree.items()} if isinstance(tree, Mapping) else tree
