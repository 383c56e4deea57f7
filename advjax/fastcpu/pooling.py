"""A max pool over windows that do not overlap, and its gradient, as comparisons of strided slices."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import JaxprEqn

__all__ = ["max_pool", "pool_gradient"]

# The comparisons are unrolled: beyond this many elements in a window the program would only grow.
_LARGEST_WINDOW = 16


def max_pool(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `reduce_window_max`: the maximum of one slice for each place in the window.

    Those XLA fuses with what makes the operand (a bias, a ReLU) and with what reads the result; its own pool it
    fuses with nothing, so that the operand is written and read once more. Same order, same bits, NaN included.
    """
    p = equation.params
    window = p["window_dimensions"]
    if not _separate(p) or {*p["base_dilation"], *p["window_dilation"]} != {1}:
        return None

    def pooled(operand: jax.Array) -> jax.Array:
        counts = [n // w for n, w in zip(operand.shape, window, strict=True)]
        return functools.reduce(lax.max, _elements(operand, counts, window))

    return pooled


def pool_gradient(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `select_and_scatter_add`: each window's cotangent goes to its first extreme element.

    XLA runs through a window in row-major order, keeps the selected element s while `s >= x` (`<=` for a min
    pool) and otherwise moves on to x.  The same comparisons in the same order give the same bits, with ties
    and NaN.  Windows that overlap or are padded are left alone.
    """
    p = equation.params
    window, select = p["window_dimensions"], {"ge": lax.ge, "le": lax.le}.get(p["select_prim"].name)
    if select is None or not _separate(p):
        return None

    def gradient(cotangent: jax.Array, operand: jax.Array) -> jax.Array:
        counts = cotangent.shape
        first, *others = _elements(operand, counts, window)
        selected, chosen = first, lax.full(counts, 0, "int32")
        for number, candidate in enumerate(others, start=1):
            keep = select(selected, candidate)
            selected = lax.select(keep, selected, candidate)
            chosen = lax.select(keep, chosen, lax.full_like(chosen, number))
        split = _split(counts, window)

        def spread(values: jax.Array) -> jax.Array:
            return lax.broadcast_in_dim(values, split, range(0, 2 * len(counts), 2))

        numbers = lax.broadcasted_iota("int32", [math.prod(window)], 0).reshape(window)
        numbers = lax.broadcast_in_dim(numbers, split, range(1, 2 * len(counts), 2))
        spread_out = lax.select(spread(chosen) == numbers, spread(cotangent), lax.full(split, 0, cotangent.dtype))
        covered = [n * w for n, w in zip(counts, window, strict=True)]
        rest = [(0, n - c, 0) for n, c in zip(operand.shape, covered, strict=True)]
        return lax.pad(spread_out.reshape(covered), lax.full((), 0, cotangent.dtype), rest)

    return gradient


def _separate(parameters: dict[str, Any]) -> bool:
    """Whether the windows lie side by side without padding, and are small enough to be written out."""
    window = parameters["window_dimensions"]
    side_by_side = window == parameters["window_strides"] and not any(lo or hi for lo, hi in parameters["padding"])
    return bool(side_by_side and math.prod(window) <= _LARGEST_WINDOW)


def _split(counts: Sequence[int], window: Sequence[int]) -> list[int]:
    """[n0, w0, n1, w1, ...]: the position of the window, then the place within it, for each dimension."""
    return [size for pair in zip(counts, window, strict=True) for size in pair]


def _elements(operand: jax.Array, counts: Sequence[int], window: Sequence[int]) -> list[jax.Array]:
    """For each place in the window, in row-major order, the elements [*counts] that all windows have there."""
    covered = [n * w for n, w in zip(counts, window, strict=True)]
    elements = lax.slice(operand, [0] * operand.ndim, covered).reshape(_split(counts, window))

    def at(place: tuple[int, ...]) -> jax.Array:
        start = [i for offset in place for i in (0, offset)]
        stop = [i for n, offset in zip(counts, place, strict=True) for i in (n, offset + 1)]
        return lax.slice(elements, start, stop).reshape(counts)

    return [at(place) for place in itertools.product(*map(range, window))]
