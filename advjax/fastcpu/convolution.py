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
# The matrix products hold every tap of a small window at once: beyond this they would only take memory.
_MANY_TAPS = 128


class _Convolution(NamedTuple):
    """The parameters of `conv_general_dilated` for x [N,*space,I] and kernel [*window,I,O]; result [N,*out,O]."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    feature_group_count: int
    precision: Any
    preferred_element_type: Any


_Form = Callable[[_Convolution, jax.Array, jax.Array], jax.Array]


def convolution(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `conv_general_dilated`: canonical dimension order, and each group in its fastest form."""
    numbers, batch_groups = equation.params["dimension_numbers"], equation.params["batch_group_count"]
    conv = _Convolution(*(equation.params[name] for name in _Convolution._fields))
    # JAX lists (batch, feature, *space) and (out, in, *window).
    x_order = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    k_order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    y_order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    orders = zip(avals, (x_order, k_order, y_order), strict=True)
    x, k, y = ([aval.shape[i] for i in order] for aval, order in orders)
    groups = conv.feature_group_count * batch_groups
    if 0 in (*x, *k, *y):
        return None
    if groups <= _FEW_GROUPS and max(k[-2], k[-1] // groups) >= _WIDE_GROUP:
        pieces, conv = groups, conv._replace(feature_group_count=1)
    elif batch_groups == 1:
        pieces = 1
    else:
        return None
    form = _fastest(conv, x, [*k[:-1], k[-1] // pieces], y, {aval.dtype.name for aval in avals})
    canonical = x_order == k_order == y_order == tuple(range(len(x_order)))
    if form is _direct and pieces == 1 and canonical and not _cuts(conv):
        return None

    def rewritten(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = _pieces(lax.transpose(lhs, x_order), pieces, 0 if batch_groups > 1 else lhs.ndim - 1)
        k = _pieces(lax.transpose(rhs, k_order), pieces, rhs.ndim - 1)
        y = lax.concatenate([lax.expand_dims(form(conv, *pair), [0]) for pair in zip(x, k, strict=True)], 0)
        y = lax.transpose(y, [*range(1, y.ndim - 1), 0, y.ndim - 1])
        y = y.reshape(*y.shape[:-2], -1)
        return lax.transpose(y, [y_order.index(i) for i in range(len(y_order))])

    return rewritten


def _pieces(array: jax.Array, count: int, axis: int) -> list[jax.Array]:
    """The groups along `axis`.  Brought to the front first, as `vmap` had them, so that XLA drops both transposes."""
    array = array.reshape(*array.shape[:axis], count, -1, *array.shape[axis + 1 :])
    array = lax.transpose(array, [axis, *range(axis), *range(axis + 1, array.ndim)])
    return [lax.index_in_dim(array, i, keepdims=False) for i in range(count)]


def _fastest(conv: _Convolution, x: Sequence[int], k: Sequence[int], y: Sequence[int], dtypes: set[str]) -> _Form:
    """The form for these shapes: fewest multiplications first, then what was measured on LeNet and ResNet layers."""
    taps, pixels, places = (math.prod(shape) for shape in (k[:-2], x[1:-1], y[1:-1]))
    if dtypes != {"float32"} or conv.feature_group_count > 1:
        return _direct
    if taps > _MANY_TAPS or taps == 1 or {*conv.window_strides, *conv.lhs_dilation} != {1}:
        return _direct
    if k[-1] <= _FEW_CHANNELS:
        return _scattered_planes
    return _scattered_rows if places >= 2 * pixels else _direct


def _cuts(conv: _Convolution) -> bool:
    """Whether some padding is below 0."""
    return any(min(widths) < 0 for widths in conv.padding)


def _direct(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """The convolution itself; the canonical order is the whole gain."""
    last = x.ndim - 1
    if _cuts(conv):
        # In this order XLA's CPU backend reads beyond the image for padding below 0 (JAX 0.10.2): cut first, pad then.
        widths = zip(conv.padding, conv.lhs_dilation, strict=True)
        cuts = [(min(low, 0), min(high, 0), gap - 1) for (low, high), gap in widths]
        x = lax.pad(x, lax.full((), 0, x.dtype), [(0, 0, 0), *cuts, (0, 0, 0)])
        padding = tuple((max(low, 0), max(high, 0)) for low, high in conv.padding)
        conv = conv._replace(padding=padding, lhs_dilation=(1,) * (last - 1))
    image, kernel = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    order = lax.ConvDimensionNumbers(image, kernel, image)
    return lax.conv_general_dilated(x, k, dimension_numbers=order, **conv._asdict())


def _scattered_planes(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """For few output channels: every pixel times every tap in one matrix product, the products then summed in place.

    y[p] = sum_t sum_i x[p + t, i] k[t, i] becomes z[t, q] = sum_i x[q, i] k[t, i] and y[p] = sum_t z[t, p + t].
    The sum is a loop because XLA would otherwise compute it anew for each operation that reads y.
    """
    window, last = k.shape[:-2], x.ndim - 1
    kernels = lax.transpose(k, [*range(last - 1), last, last - 1]).reshape(-1, x.shape[-1])
    z = _product(conv, kernels, x.reshape(-1, x.shape[-1]), (1, 1)).reshape(-1, k.shape[-1], *x.shape[:-1])

    def add(t: jax.Array, y: jax.Array) -> jax.Array:
        taps = zip(_place(t, window), window, conv.rhs_dilation, strict=True)
        start = [(size - 1 - tap) * d for tap, size, d in taps]
        return _add_at(y, lax.dynamic_index_in_dim(z, t, keepdims=False), [0, 0, *start])

    y = lax.fori_loop(0, z.shape[0], add, lax.full((k.shape[-1], x.shape[0], *_full_size(conv, x, k)), 0, z.dtype))
    return _crop(conv, lax.transpose(y, [*range(1, last + 1), 0]), window)


def _scattered_rows(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """The same for many output channels: one matrix product for each row of the window, so that it stays in cache."""
    (height, *width), last = k.shape[:-2], x.ndim - 1
    (step, *steps) = conv.rhs_dilation
    kernels = lax.transpose(k, [*range(last - 1), last, last - 1]).reshape(height, -1, x.shape[-1])
    pixels, zero = x.reshape(-1, x.shape[-1]), lax.full((), 0, x.dtype)

    def add(t: jax.Array, y: jax.Array) -> jax.Array:
        z = _product(conv, pixels, lax.dynamic_index_in_dim(kernels, t, keepdims=False), (1, 1))
        z = z.reshape(*x.shape[:-1], -1, k.shape[-1])
        row = zero
        for number, taps in enumerate(itertools.product(*map(range, width))):
            sides = [((n - 1 - t) * d, t * d, 0) for t, n, d in zip(taps, width, steps, strict=True)]
            tap = lax.index_in_dim(z, number, axis=last, keepdims=False)
            row = row + lax.pad(tap, zero, [(0, 0, 0), (0, 0, 0), *sides, (0, 0, 0)])
        return _add_at(y, row, [0, (height - 1 - t) * step, *[0] * (last - 1)])

    y = lax.fori_loop(0, height, add, lax.full((x.shape[0], *_full_size(conv, x, k), k.shape[-1]), 0, x.dtype))
    return _crop(conv, y, k.shape[:-2])


def _add_at(y: jax.Array, piece: jax.Array, start: Sequence[Any]) -> jax.Array:
    return lax.dynamic_update_slice(y, lax.dynamic_slice(y, start, piece.shape) + piece, start)


def _full_size(conv: _Convolution, x: jax.Array, k: jax.Array) -> list[int]:
    return [n + (size - 1) * d for n, size, d in zip(x.shape[1:-1], k.shape[:-2], conv.rhs_dilation, strict=True)]


def _crop(conv: _Convolution, y: jax.Array, window: Sequence[int]) -> jax.Array:
    """From the result of full padding to that of the padding asked for."""
    full = [(size - 1) * d for size, d in zip(window, conv.rhs_dilation, strict=True)]
    widths = [(low - f, high - f, 0) for (low, high), f in zip(conv.padding, full, strict=True)]
    return lax.pad(y, lax.full((), 0, y.dtype), [(0, 0, 0), *widths, (0, 0, 0)])


def _product(conv: _Convolution, a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, conv.precision, conv.preferred_element_type)


def _place(number: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """The indices of entry `number` of an array of these sizes."""
    place = []
    for size in reversed(sizes):
        place.append(lax.rem(number, lax.full_like(number, size)))
        number = lax.div(number, lax.full_like(number, size))
    return place[::-1]
