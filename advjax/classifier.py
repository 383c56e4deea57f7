"""Classifier: any Flax model or plain function as a pytree of variables and one static apply function.

The only file that knows Flax Linen from NNX.  Always in evaluation mode: batch statistics are the stored ones,
dropout is off.  New weights are new leaves of the same structure, so they never cause a new trace.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen, nnx

from advjax.value import static, value

__all__ = ["Classifier", "from_function", "from_linen", "from_nnx"]

# What Flax models call the switch between training and evaluation, and its setting for evaluation.
_EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


@value
class Classifier:
    """A model as the attacks see it: `classifier(images) -> logits`.

    Attributes:
      variables: pytree of arrays, traced.
      apply: static `(variables, images [B, H, W, C]) -> logits [B, K]`; logits are what comes before the softmax.
    """

    variables: Any
    apply: Callable[[Any, jax.Array], jax.Array] = static()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, K] of images [B, H, W, C], float32 in [0, 1]."""
        return self.apply(self.variables, images)


def from_function(function: Callable[[Any, jax.Array], jax.Array], variables: Any) -> Classifier:
    """A classifier from a plain function `(variables, images [B, H, W, C]) -> logits [B, K]`.

    Pass the same function object again (not a new lambda) with other variables and nothing is traced anew.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.classifier import from_function
      >>> def linear(weights, images):
      ...     return images.reshape(images.shape[0], -1) @ weights
      >>> from_function(linear, jnp.ones((4, 3)))(jnp.ones((2, 2, 2, 1))).shape
      (2, 3)
    """
    if not callable(function):
        raise TypeError(f"function must be callable as function(variables, images), got {function!r}")
    return Classifier(variables, function)


@value
class _NnxApply:
    graphdef: Any = static()
    options: tuple[tuple[str, Any], ...] = static()

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        # A copy: the variables may belong to another trace level, where NNX refuses to touch them.
        return nnx.merge(self.graphdef, variables, copy=True)(images, **dict(self.options))


def from_nnx(model: nnx.Module, **call_options: Any) -> Classifier:
    """A classifier from a Flax NNX module; the module itself is left as it was, training mode included.

    Evaluation mode is that of `model.eval()`, and of the usual switches of `__call__` where it has them (`train`,
    `training`, `is_training`, `deterministic`, `use_running_average`). `call_options` are passed to every call and go
    before these.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from advjax.classifier import from_nnx
      >>> model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), lambda x: x.mean((1, 2)))
      >>> from_nnx(model)(jnp.ones((2, 8, 8, 3))).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a flax.nnx.Module, got {type(model).__name__}")
    evaluated = nnx.clone(model)
    evaluated.eval()
    graphdef, variables = nnx.split(evaluated)
    return Classifier(variables, _NnxApply(graphdef, _options(model, call_options)))


@value
class _LinenApply:
    module: linen.Module = static()
    options: tuple[tuple[str, Any], ...] = static()

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        logits: Any = self.module.apply(variables, images, **dict(self.options))
        return logits


def from_linen(module: linen.Module, variables: Mapping[str, Any], **call_options: Any) -> Classifier:
    """A classifier from a Flax Linen module and its variables (`{"params": ..., "batch_stats": ...}`).

    The usual switches of `__call__` (`train`, `training`, `is_training`, `deterministic`, `use_running_average`)
    are set to evaluation; `call_options` are passed to every call and go before them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen
      >>> from advjax.classifier import from_linen
      >>> class Net(linen.Module):
      ...     @linen.compact
      ...     def __call__(self, x, train=True):
      ...         x = linen.Dense(3)(x.reshape(x.shape[0], -1))
      ...         return linen.Dropout(0.5, deterministic=not train)(x)
      >>> net, images = Net(), jnp.ones((2, 4, 4, 1))
      >>> from_linen(net, net.init(jax.random.key(0), images, train=False))(images).shape
      (2, 3)
    """
    if not isinstance(module, linen.Module):
        raise TypeError(f"module must be a flax.linen.Module, got {type(module).__name__}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError('variables must be the whole mapping that init returns, with a "params" entry')
    return Classifier(variables, _LinenApply(module, _options(module, call_options)))


def _options(module: Any, call_options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    accepted = inspect.signature(module.__call__).parameters
    options = {name: setting for name, setting in _EVALUATION.items() if name in accepted} | call_options
    return tuple(sorted(options.items()))
