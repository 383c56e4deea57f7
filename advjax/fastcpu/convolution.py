"""Convolutions, and above all their input- and kernel-gradients, in the forms XLA's CPU backend runs fast."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import JaxprEqn

__all__ = ["convolution"]

# Up to this many output channels, one matrix product and shifted sums beat the convolution.
_FEW_CHANNELS = 4
# Up to this many groups (networks trained side by side by `vmap`) each is computed by itself.
_FEW_GROUPS = 16


class _Convolution(NamedTuple):
    """The parameters of `conv_general_dilated`: x [N,*space,I], kernel [*window,I,O] -> [N,*out,O]."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any
    preferred_element_type: Any


# A form computes a convolution in canonical dimension order: (parameters, x, kernel) -> y.
_Form = Callable[[_Convolution, jax.Array, jax.Array], jax.Array]


def convolution(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `conv_general_dilated`: canonical dimension order, and the fastest equal form of each group."""
    p = equation.params
    numbers, feature_groups, batch_groups = (
        p[name] for name in ("dimension_numbers", "feature_group_count", "batch_group_count")
    )
    conv = _Convolution(*(p[name] for name in _Convolution._fields))
    # JAX lists (batch, feature, *space) and (out, in, *window); a form wants the order stated above.
    x_order = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    k_order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    y_order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    x_shape, k_shape, y_shape = (
        [atom.aval.shape[i] for i in order]
        for atom, order in zip(
            [*equation.invars, *equation.outvars], (x_order, k_order, y_order), strict=True
        )
    )
    groups = feature_groups * batch_groups
    split = 1 < groups <= _FEW_GROUPS
    if batch_groups > 1 and not split:
        return None
    form = _direct(feature_groups)
    if groups == 1 or split:
        form = _fastest(conv, x_shape, k_shape, y_shape, groups)
    elif x_order == k_order == y_order == tuple(range(len(x_order))):
        return None

    def rewritten(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x, k = lax.transpose(lhs, x_order), lax.transpose(rhs, k_order)
        xs = _pieces(x, groups if split else 1, 0 if batch_groups > 1 else x.ndim - 1)
        ks = _pieces(k, groups if split else 1, k.ndim - 1)
        y = lax.concatenate([form(conv, *pair) for pair in zip(xs, ks, strict=True)], x.ndim - 1)
        return lax.transpose(y, [y_order.index(i) for i in range(len(y_order))])

    return rewritten


def _fastest(conv: _Convolution, x: Sequence[int], k: Sequence[int], y: Sequence[int], groups: int) -> _Form:
    """The form for these shapes, by the number of multiplications and by what was measured (benchmarks/)."""
    taps, places_in, places_out = (math.prod(shape) for shape in (k[:-2], x[1:-1], y[1:-1]))
    plain = conv.preferred_element_type is None or jax.numpy.issubdtype(
        conv.preferred_element_type, "float32"
    )
    if plain and taps > places_out and taps > 1:
        return _kernel_gradient
    if plain and taps > 1 and set(conv.window_strides) == {1}:
        if k[-1] // groups <= _FEW_CHANNELS or places_out >= 2 * places_in:
            return _scattered
    return _direct(1)


def _pieces(array: jax.Array, count: int, axis: int) -> list[jax.Array]:
    size = array.shape[axis] // count
    return [lax.slice_in_dim(array, i * size, (i + 1) * size, axis=axis) for i in range(count)]


def _direct(feature_groups: int) -> _Form:
    """The convolution itself; the canonical order is the whole gain."""

    def form(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
        n = x.ndim
        order = lax.ConvDimensionNumbers(
            (0, n - 1, *range(1, n - 1)), (n - 1, n - 2, *range(n - 2)), (0, n - 1, *range(1, n - 1))
        )
        return lax.conv_general_dilated(
            x, k, dimension_numbers=order, feature_group_count=feature_groups, **conv._asdict()
        )

    return form


def _scattered(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """Every pixel times every tap in one matrix product, then the sum of the products, each shifted to its place.

    y[p] = sum_t sum_i x[p + t] k[t, i] is done as z[t, q] = sum_i x[q] k[t, i], y[p] = sum_t z[t, p + t]: the
    multiplications are counted by the pixels of x instead of y, and few output channels do no harm.
    """
    space, window = range(1, x.ndim - 1), k.shape[:-2]
    taps, outputs = math.prod(window), k.shape[-1]
    kernels = lax.transpose(k, (*range(k.ndim - 2), k.ndim - 1, k.ndim - 2)).reshape(taps * outputs, -1)
    pixels = x.reshape(-1, x.shape[-1])
    z = lax.dot_general(
        kernels, pixels, (((1,), (1,)), ((), ())), conv.precision, conv.preferred_element_type
    )
    z = z.reshape(taps, outputs, *x.shape[:-1])
    zero = lax.full((), 0, z.dtype)

    def shifted(number: int, tap: tuple[int, ...]) -> jax.Array:
        widths = [
            (low - t * d, high - (size - 1 - t) * d, dilation - 1)
            for t, size, d, (low, high), dilation in zip(
                tap, window, conv.rhs_dilation, conv.padding, conv.lhs_dilation, strict=True
            )
        ]
        return lax.pad(z[number], zero, [(0, 0, 0), (0, 0, 0), *widths])

    terms = [shifted(number, tap) for number, tap in enumerate(itertools.product(*map(range, window)))]
    y = terms[0]
    for term in terms[1:]:
        y = y + term
    return lax.transpose(y, (1, *(i + 1 for i in space), 0))


def _kernel_gradient(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """One matrix product with the patches of x: for few results [N,*out] and a large window, as in a kernel gradient.

    There x is [channel, *space, image], k the cotangent [*space, image, output], and the sum runs over images and
    places.  Few channels are laid out plane after plane, many side by side in each pixel.
    """
    few = x.shape[0] <= _FEW_CHANNELS
    space = list(range(1, x.ndim - 1))
    # Image first, as the forward pass left it: these transposes cancel those of the canonical order.
    images = lax.transpose(x, [0, x.ndim - 1, *space] if few else [x.ndim - 1, *space, 0])
    cotangent = lax.transpose(k, [k.ndim - 2, *range(k.ndim - 2), k.ndim - 1]).reshape(-1, k.shape[-1])
    before, after = (2, 0) if few else (1, 1)
    widths = [(low, high, d - 1) for (low, high), d in zip(conv.padding, conv.lhs_dilation, strict=True)]
    keep = [(0, 0, 0)]
    images = lax.pad(images, lax.full((), 0, x.dtype), keep * before + widths + keep * after)
    spans = [(size - 1) * d + 1 for size, d in zip(k.shape[:-2], conv.rhs_dilation, strict=True)]
    padded = images.shape[before : before + len(spans)]
    out = [(n - s) // step + 1 for n, s, step in zip(padded, spans, conv.window_strides, strict=True)]

    def patch(place: tuple[int, ...]) -> jax.Array:
        start = [p * step for p, step in zip(place, conv.window_strides, strict=True)]
        stop = [b + span for b, span in zip(start, spans, strict=True)]
        first, last = [0] * before, [0] * after
        ends = images.shape[:before], images.shape[before + len(spans) :]
        return lax.slice(
            images,
            [*first, *start, *last],
            [*ends[0], *stop, *ends[1]],
            [1] * before + list(conv.rhs_dilation) + [1] * after,
        )

    axis = 0 if few else images.ndim - 1
    patches = lax.concatenate([patch(place) for place in itertools.product(*map(range, out))], axis)
    patches = patches.reshape((patches.shape[0], -1) if few else (-1, patches.shape[-1]))
    contract = (((1,), (0,)) if few else ((0,), (0,)), ((), ()))
    y = lax.dot_general(patches, cotangent, contract, conv.precision, conv.preferred_element_type)
    y = y.reshape(*out, x.shape[0], k.shape[-1])
    return lax.transpose(y, [len(out), *range(len(out)), len(out) + 1])
