"""The gradient of a max pool over windows that do not overlap, as comparisons of strided slices."""

import itertools
import math
from collections.abc import Callable

import jax
from jax import lax
from jax.extend.core import JaxprEqn

__all__ = ["pool_gradient"]

# The comparisons are unrolled: beyond this many elements in a window the program would only grow.
_LARGEST_WINDOW = 16


def pool_gradient(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `select_and_scatter_add`: each window's cotangent goes to its first extreme element.

    XLA runs through a window in row-major order, keeps the selected element s while `s >= x` (`<=` for a min
    pool) and otherwise moves on to x.  The same comparisons in the same order give the same bits, with ties
    and NaN.  Windows that overlap or are padded are left alone.
    """
    p = equation.params
    window, select = p["window_dimensions"], {"ge": lax.ge, "le": lax.le}.get(p["select_prim"].name)
    if select is None or window != p["window_strides"] or any(lo or hi for lo, hi in p["padding"]):
        return None
    if math.prod(window) > _LARGEST_WINDOW:
        return None

    def gradient(cotangent: jax.Array, operand: jax.Array) -> jax.Array:
        counts = cotangent.shape
        covered = [n * w for n, w in zip(counts, window, strict=True)]
        # [n0, w0, n1, w1, ...]: position of the window, place within it, for each dimension.
        split = [size for pair in zip(counts, window, strict=True) for size in pair]
        elements = lax.slice(operand, [0] * operand.ndim, covered).reshape(split)
        places = list(itertools.product(*map(range, window)))

        def element(place: tuple[int, ...]) -> jax.Array:
            start = [i for at in place for i in (0, at)]
            stop = [i for n, at in zip(counts, place, strict=True) for i in (n, at + 1)]
            return lax.slice(elements, start, stop).reshape(counts)

        selected, chosen = element(places[0]), lax.full(counts, 0, "int32")
        for number, place in enumerate(places[1:], start=1):
            candidate = element(place)
            keep = select(selected, candidate)
            selected = lax.select(keep, selected, candidate)
            chosen = lax.select(keep, chosen, lax.full_like(chosen, number))

        def spread(values: jax.Array) -> jax.Array:
            return lax.broadcast_in_dim(values, split, range(0, 2 * len(counts), 2))

        numbers = lax.broadcasted_iota("int32", [math.prod(window)], 0).reshape(window)
        numbers = lax.broadcast_in_dim(numbers, split, range(1, 2 * len(counts), 2))
        spread_out = lax.select(spread(chosen) == numbers, spread(cotangent), lax.full(split, 0, cotangent.dtype))
        rest = [(0, n - c, 0) for n, c in zip(operand.shape, covered, strict=True)]
        return lax.pad(spread_out.reshape(covered), lax.full((), 0, cotangent.dtype), rest)

    return gradient
