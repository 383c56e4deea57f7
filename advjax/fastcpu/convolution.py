"""Convolutions, and above all their input- and kernel-gradients, in the forms XLA's CPU backend runs fast."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import JaxprEqn

from advjax.fastcpu.depthwise import depthwise, depthwise_kernel_gradient

__all__ = ["convolution"]

# Up to this many channels in a pixel, what XLA multiplies is too narrow for the machine's vectors.
_FEW_CHANNELS = 4
# Neighbours become one pixel where the result's pixels are no wider than this then.
_WIDE_PIXEL = 128
# Pairs of neighbours pay if they take at most this many times the multiplications.
_PAIRED = 1.25
# So many float32 are multiplied at once.
_VECTOR = 16
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
    pairs = zip(avals, (x_order, k_order, y_order), strict=True)
    x, k, y = ([aval.shape[i] for i in order] for aval, order in pairs)
    groups = conv.feature_group_count * batch_groups
    if 0 in (*x, *k, *y):
        return None
    dtypes = {aval.dtype.name for aval in avals}
    if dtypes == {"float32"} and groups == k[-1] > 1 and (form := _of_channels(conv, batch_groups, x, k, y)):
        return _canonical(form, x_order, k_order, y_order)
    if groups <= _FEW_GROUPS and max(k[-2], k[-1] // groups) >= _WIDE_GROUP:
        pieces, conv = groups, conv._replace(feature_group_count=1)
    elif batch_groups == 1:
        pieces = 1
    else:
        return None
    # Kernel gradients sum over the images, the first dimension of both.
    over_images = x_order[-1] == 0 == k_order[-2] and groups == 1 and avals[2].dtype == "float32"
    one_place = over_images and math.prod(y[1:-1]) == 1 and {*conv.lhs_dilation} == {1}
    form = _one_place if one_place else _fastest(conv, x, [*k[:-1], k[-1] // pieces], y, dtypes)
    canonical = x_order == k_order == y_order == tuple(range(len(x_order)))
    if form is _direct and pieces == 1 and canonical and not _cuts(conv) and not _window_is_larger(conv, x, k, dtypes):
        return None

    def rewritten(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = _pieces(lax.transpose(lhs, x_order), pieces, 0 if batch_groups > 1 else lhs.ndim - 1)
        k = _pieces(lax.transpose(rhs, k_order), pieces, rhs.ndim - 1)
        y = lax.concatenate([lax.expand_dims(form(conv, *pair), [0]) for pair in zip(x, k, strict=True)], 0)
        y = lax.transpose(y, [*range(1, y.ndim - 1), 0, y.ndim - 1])
        y = y.reshape(*y.shape[:-2], -1)
        return lax.transpose(y, [y_order.index(i) for i in range(len(y_order))])

    return _in_halves(rewritten) if over_images and not one_place and k[-2] % 2 == 0 else rewritten


def _of_channels(
    conv: _Convolution, batch_groups: int, x: Sequence[int], k: Sequence[int], y: Sequence[int]
) -> Callable[..., jax.Array] | None:
    """A depthwise convolution, or the kernel gradient of one, in canonical order; None for other groups."""
    if batch_groups == 1 and x[-1] == k[-1] and math.prod(k[:-2]) <= _MANY_TAPS:
        steps = conv.window_strides, conv.padding, conv.lhs_dilation, conv.rhs_dilation
        return lambda x, k: depthwise(x, lax.squeeze(k, [k.ndim - 2]), *steps)
    window, plain = y[1:-1], {*conv.window_strides, *conv.lhs_dilation} == {1}
    if batch_groups == x[0] == k[-1] and plain and math.prod(window) <= _MANY_TAPS:
        last = len(x) - 1

        def gradient(x: jax.Array, k: jax.Array) -> jax.Array:
            image = lax.transpose(x, [last, *range(1, last), 0])
            made = lax.transpose(k, [last - 1, *range(last - 1), last])
            found = depthwise_kernel_gradient(image, made, window, conv.padding, conv.rhs_dilation)
            return lax.expand_dims(found, [0])

        return gradient
    return None


def _canonical(
    form: Callable[..., jax.Array], x_order: Sequence[int], k_order: Sequence[int], y_order: Sequence[int]
) -> Callable[..., jax.Array]:
    """The form for operands in whatever order of dimensions."""

    def ordered(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        y = form(lax.transpose(lhs, x_order), lax.transpose(rhs, k_order))
        return lax.transpose(y, [y_order.index(i) for i in range(len(y_order))])

    return ordered


def _in_halves(convolution: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The sum over each half of the images: a loop, because XLA would fuse the transposes with what makes the arrays.

    A pool, its gradient or a ReLU would then be computed a second time, along the transposed order.
    """

    def summed(*arrays: jax.Array) -> jax.Array:
        size = arrays[0].shape[0] // 2
        halves = [jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype) for array in arrays]
        result = jax.eval_shape(convolution, *halves)

        def add(half: jax.Array, total: jax.Array) -> jax.Array:
            return total + convolution(*(lax.dynamic_slice_in_dim(array, half * size, size) for array in arrays))

        return lax.fori_loop(0, 2, add, lax.full(result.shape, 0, result.dtype))

    return summed


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
    scattered = k[-1] <= _FEW_CHANNELS or places >= 2 * pixels
    form = _scattered if scattered else _direct
    size, low, plain = k[-3], conv.padding[-1][0], {*conv.rhs_dilation} == {1}

    def fit(g: int) -> bool:
        return plain and x[-2] % g == y[-2] % g == 0 and (scattered or g * k[-1] <= _WIDE_PIXEL)

    if not scattered and x[-1] <= _FEW_CHANNELS and fit(4):
        return _neighbours(4, form)
    # Pairs cost multiplications; they pay where there are few, and the channels alone would not fill whole vectors.
    pairs = fit(2) and 2 * _window(2, size, low) <= _PAIRED * size and k[-1] % _VECTOR
    return _neighbours(2, form) if pairs else form


def _pixels(conv: _Convolution, x: jax.Array, k: jax.Array) -> tuple[int, ...]:
    """The shape of x in pixels as wide as the kernel's: those of `_neighbours` hold several of x."""
    channels = k.shape[-2] * conv.feature_group_count
    return (*x.shape[:-2], x.shape[-2] * x.shape[-1] // channels, channels)


def _window_is_larger(conv: _Convolution, x: Sequence[int], k: Sequence[int], dtypes: set[str]) -> bool:
    """Whether the window has more pixels than the image: these XLA multiplies in plain loops, 20 times as long."""
    larger = math.prod(k[:-2]) > math.prod(x[1:-1]) > 0
    return larger and conv.feature_group_count == 1 and dtypes == {"float32"}


def _cuts(conv: _Convolution) -> bool:
    """Whether some padding is below 0."""
    return any(min(widths) < 0 for widths in conv.padding)


def _direct(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """The convolution itself, or exchanged where the window is the larger; the canonical order is the whole gain."""
    x, last = x.reshape(_pixels(conv, x, k)), x.ndim - 1
    if _cuts(conv):
        # In this order XLA's CPU backend reads beyond the image for padding below 0 (JAX 0.10.2): cut first, pad then.
        widths = zip(conv.padding, conv.lhs_dilation, strict=True)
        cuts = [(min(low, 0), min(high, 0), gap - 1) for (low, high), gap in widths]
        x = lax.pad(x, lax.full((), 0, x.dtype), [(0, 0, 0), *cuts, (0, 0, 0)])
        padding = tuple((max(low, 0), max(high, 0)) for low, high in conv.padding)
        conv = conv._replace(padding=padding, lhs_dilation=(1,) * (last - 1))
    if _window_is_larger(conv, x.shape, k.shape, {x.dtype.name, k.dtype.name}):
        return _exchanged(conv, x, k)
    image, kernel = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    order = lax.ConvDimensionNumbers(image, kernel, image)
    return lax.conv_general_dilated(x, k, dimension_numbers=order, **conv._asdict())


def _one_place(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """For kernel gradients of 1x1 windows, whatever their steps: one matrix product over images and pixels.

    Both have the images last here and had them first, so that what is multiplied is theirs as it lies in memory.
    """
    last = x.ndim - 1
    x = lax.pad(x, lax.full((), 0, x.dtype), [(0, 0, 0), *((*widths, 0) for widths in conv.padding), (0, 0, 0)])
    ends = [(size - 1) * step + 1 for size, step in zip(k.shape[:-2], conv.rhs_dilation, strict=True)]
    x = lax.slice(x, [0] * x.ndim, [x.shape[0], *ends, x.shape[last]], [1, *conv.rhs_dilation, 1])
    rows = lax.transpose(x, [last, *range(1, last), 0]).reshape(-1, x.shape[0])
    columns = lax.transpose(k, [last - 1, *range(last - 1), last]).reshape(-1, k.shape[-1])
    y = lax.dot_general(rows, columns, (((0,), (0,)), ((), ())), conv.precision, conv.preferred_element_type)
    return y.reshape(x.shape[0], *(1 for _ in ends), k.shape[-1])


def _exchanged(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """For small images, and kernel gradients of transposed convolutions: image and window exchanged.

    y[n, p, o] = sum_q sum_i x[n, q, i] k[q s + low - p, i, o] spreads x by s below a window k of more pixels. That took
    XLA 20 to 50 times as long (measured on 2 cores) as the same sum read as an image k below a window x with steps of
    s, over which p runs backwards. Where k is padded, a pixel of x that is infinite or NaN makes more of its image NaN.
    """
    last, padding = x.ndim - 1, []
    sizes = zip(x.shape[1:last], k.shape[:-2], conv.lhs_dilation, conv.rhs_dilation, strict=True)
    for (size, taps, gap, spread), (low, high), step in zip(sizes, conv.padding, conv.window_strides, strict=True):
        covered, reach = (size - 1) * gap + 1, (taps - 1) * spread + 1
        back = (covered + low + high - reach) // step * step
        padding.append((back - low, covered - reach + low))
    exchanged = conv._replace(padding=tuple(padding), lhs_dilation=conv.rhs_dilation, rhs_dilation=conv.lhs_dilation)
    image = lax.transpose(k, [last, *range(last - 1), last - 1])
    y = _direct(exchanged, image, lax.transpose(x, [*range(1, last), last, 0]))
    return lax.transpose(lax.rev(y, range(1, last)), [last, *range(1, last), 0])


def _scattered(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
    """For input gradients: every pixel times every tap in matrix products, the products then summed in place.

    y[p] = sum_t sum_i x[p + t - low, i] k[t, i] is y[p] = sum_t z[p + t - low, t] of z[q, t] = sum_i x[q, i] k[t, i].
    One product for each row t of the window, so that it stays in cache. A loop, and in it nothing but whole arrays:
    what makes x or reads y would otherwise be fused with its parts, and XLA updates an array in place on one core.
    """
    (height, *width), channels, last, pixels = k.shape[:-2], k.shape[-1], x.ndim - 1, _pixels(conv, x, k)
    (step, *steps), (rows, *sides) = conv.rhs_dilation, conv.padding
    kernels = lax.transpose(k, [0, last - 1, *range(1, last - 1), last]).reshape(height, k.shape[-2], -1)
    zero = lax.full((), 0, x.dtype)

    def add(t: jax.Array, y: jax.Array) -> jax.Array:
        # Within the loop, because XLA would fuse a reshape with what makes x, then divide the index of each element.
        kernel, lines = lax.dynamic_index_in_dim(kernels, t, keepdims=False), x.reshape(-1, k.shape[-2])
        z = lax.dot_general(lines, kernel, (((1,), (0,)), ((), ())), conv.precision, conv.preferred_element_type)
        z = z.reshape(*pixels[:-1], -1)
        row = zero
        for number, taps in enumerate(itertools.product(*map(range, width))):
            pads = [
                (low - tap * d, high - (n - 1 - tap) * d, 0)
                for tap, n, d, (low, high) in zip(taps, width, steps, sides, strict=True)
            ]
            tap = lax.slice_in_dim(z, number * channels, (number + 1) * channels, axis=last)
            row = row + lax.pad(tap, zero, [(0, 0, 0), (0, 0, 0), *pads, (0, 0, 0)])
        row = lax.pad(row, zero, [(0, 0, 0), (*rows, 0), *[(0, 0, 0)] * (last - 1)])
        return y + lax.dynamic_slice(row, [0, t * step, *[0] * (last - 1)], y.shape)

    out = [
        n + sum(pad) - (size - 1) * d
        for n, pad, size, d in zip(pixels[1:-1], conv.padding, k.shape[:-2], conv.rhs_dilation, strict=True)
    ]
    return lax.fori_loop(0, height, add, lax.full((x.shape[0], *out, channels), 0, x.dtype))


def _neighbours(g: int, form: _Form) -> _Form:
    """The form for pixels of g neighbours along the width, whose channels become those of one: no byte moves for it.

    y[g p + a] = sum_t x[g p + a + t - low] k[t] is a convolution of the wide pixels x[g q .. g q + g - 1] with a kernel
    for each a: k moved by a within a window of whole wide pixels, which starts at pixel g p - g ceil(low / g).
    The rest of that window is multiplied by 0: there a pixel that is infinite or NaN makes more of its row NaN.
    """

    def wide(conv: _Convolution, x: jax.Array, k: jax.Array) -> jax.Array:
        (*others, (low, high)), size, axis = conv.padding, k.shape[-3], k.ndim - 3
        width, before, window = x.shape[-2], -(-low // g), _window(g, size, low)
        out = width + low + high - size + 1
        zero, none, moved = lax.full((), 0, k.dtype), (0, 0, 0), []
        for start in range(before * g - low, before * g - low + g):
            moved.append(lax.pad(k, zero, [*[none] * axis, (start, window * g - size - start, 0), none, none]))
        kernel = lax.concatenate(moved, k.ndim - 1).reshape(*k.shape[:axis], window, g * k.shape[-2], -1)
        padding = (*others, (before, out // g + window - 1 - width // g - before))
        y = form(conv._replace(padding=padding), x, kernel)
        return y.reshape(*y.shape[:-2], out, -1)

    return wide


def _window(g: int, size: int, low: int) -> int:
    """The width of a window of `size` pixels in pixels of g neighbours."""
    return -(-(-low % g + size + g - 1) // g)
