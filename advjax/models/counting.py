"""Sizes of networks without arithmetic: abstract construction, parameters, multiply-adds."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxprs_in_params

__all__ = ["abstract", "count_parameters", "count_macs"]


class _OneKey(nnx.RngStream):
    # Shapes do not depend on keys, and each step of Flax's counter costs a walk over all that has been traced.
    def __call__(self) -> jax.Array:
        return self.key[...]

    def fork(self, **_: Any) -> nnx.RngStream:
        # A stream that stays in the network must be one that moves on when the network is used.
        return nnx.RngStream(self.key[...], tag=self.tag)


def abstract(make: Callable[..., nnx.Module]) -> nnx.Module:
    """`make(rngs=...)` with shapes in place of arrays: nothing is drawn, nothing is stored.

    >>> abstract(lambda rngs: nnx.Linear(3, 2, rngs=rngs)).kernel.shape
    (3, 2)
    """

    def construct() -> nnx.Module:
        rngs: Any = nnx.Rngs(0)
        rngs.default = _OneKey(0, tag="default")
        return make(rngs=rngs)

    return nnx.eval_shape(construct)


def count_parameters(model: nnx.Module) -> int:
    """The number of trained numbers: batch normalization's scales and biases count, its running averages do not.

    >>> count_parameters(abstract(lambda rngs: nnx.Linear(3, 2, rngs=rngs)))
    8
    """
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def count_macs(model: nnx.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of the convolutions and matrix products that the evaluation of one image of `shape` takes.

    They are read off the traced program (the jaxpr), which is not run; the model may be abstract. Additions of
    biases, normalization, ReLU and pools do not count.

    Raises:
        ValueError: the program holds a loop whose length cannot be known.

    >>> from advjax.models import LeNet
    >>> count_macs(abstract(LeNet), (28, 28, 1))
    2293000
    """
    graphdef, state = nnx.split(model)

    def logits(state: Any, images: jax.Array) -> jax.Array:
        network = nnx.merge(graphdef, state, copy=True)
        network.eval()
        return network(images)

    return _macs(jax.make_jaxpr(logits)(state, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).jaxpr)


def _macs(jaxpr: Any) -> int:
    return sum(_equation_macs(equation) for equation in jaxpr.eqns)


def _equation_macs(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return equation.outvars[0].aval.size * (math.prod(kernel) // outputs)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lengths = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(lengths[axis] for axis in contracted)
    inner = [_macs(sub) for sub in jaxprs_in_params(params)]
    if name == "while" and any(inner):
        raise ValueError("model must not multiply inside a loop of unknown length")
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * (params["length"] if name == "scan" else 1)
