"""Convolutions, and above all their input- and kernel-gradients, in the forms XLA's CPU backend runs fast."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import JaxprEqn

__all__ = ["convolution"]

# Up to this many channels in a pixel, a matrix product over whole planes beats the convolution.
_FEW_CHANNELS = 4
# Up to this many groups, each at least so wide, are computed one by one: networks stacked by `vmap`, ResNeXt.
_FEW_GROUPS, _WIDE_GROUP = 32, 4
# The forms below are unrolled over the taps of a small window: beyond this the program would only grow.
_MANY_TAPS = 128


class _Convolution(NamedTuple):
    """The parameters of `conv_general_dilated`: x [N,*space,I], kernel [*window,I,O] -> [N,*out,O]."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any
    preferred_element_type: Any


# A form computes one convolution in that dimension order.
_Form = Callable[[_Convolution, jax.Array, jax.Array], jax.Array]


def convolution(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `conv_general_dilated`: canonical dimension order, and each group in its fastest form."""
    p = equation.params
    numbers, feature_groups, batch_groups = (
        p[name] for name in ("dimension_numbers", "feature_group_count", "batch_group_count")
    )
    conv = _Convolution(*(p[name] for name in _Convolution._fields))
    # JAX lists (batch, feature, *space) and (out, in, *window); a form wants the order stated above.
    x_order = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    k_order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    y_order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    avals = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    x_shape, k_shape, y_shape = (
        [aval.shape[i] for i in order] for aval, order in zip(avals, (x_order, k_order, y_order), strict=True)
    )
    groups = feature_groups * batch_groups
    split = 1 < groups <= _FEW_GROUPS and max(k_shape[-2], k_shape[-1] // groups) >= _WIDE_GROUP
    form = _direct(feature_groups)
    if (groups == 1 or split) and {aval.dtype.name for aval in avals} == {"float32"}:
        form = _fastest(conv, x_shape, [*k_shape[:-1], k_shape[-1] // groups], y_shape)
    elif split:
        form = _direct(1)
    elif batch_groups > 1:
        return None
    in_order = x_order == k_order == y_order == tuple(range(len(x_order)))
    if in_order and form is _direct(feature_groups):
        return None

    def rewritten(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x, k = lax.transpose(lhs, x_order), lax.transpose(rhs, k_order)
        pieces = groups if split else 1
        xs = _pieces(x, pieces, 0 if batch_groups > 1 else x.ndim - 1)
        ks = _pieces(k, pieces, k.ndim - 1)
        y = lax.concatenate([form(conv, *pair) for pair in zip(xs, ks, strict=True)], x.ndim - 1)
        return lax.transpose(y, [y_order.index(i) for i in range(len(y_order))])

    return rewritten
