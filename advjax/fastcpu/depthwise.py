"""Depthwise convolutions and their gradients, channel by channel, as sums of shifted images."""

import itertools
from collections.abc import Iterator, Sequence

import jax
from jax import lax

__all__ = ["depthwise", "depthwise_kernel_gradient"]

Padding = Sequence[tuple[int, int]]


def depthwise(
    x: jax.Array, k: jax.Array, strides: Sequence[int], padding: Padding, gaps: Sequence[int], spread: Sequence[int]
) -> jax.Array:
    """y[p, c] = sum_t x[stride p + spread t - low, c] k[t, c] of x [N, *space, C] and a kernel [*window, C].

    One pass over the image for all taps: XLA's CPU backend has no such convolution, and takes 30 to 90 times as long.

    Args:
        x, k: image and kernel.
        strides: window strides.
        padding: zeros before and after each axis; below 0 they cut.
        gaps: lhs_dilation, the pixels of x are so far apart.
        spread: rhs_dilation, the taps are so far apart.
    """
    padded = _padded(x, padding, gaps)
    lengths = [
        (size - (window - 1) * far - 1) // stride + 1
        for size, window, far, stride in zip(padded.shape[1:-1], k.shape, spread, strides, strict=False)
    ]
    result = lax.full((x.shape[0], *lengths, x.shape[-1]), 0, x.dtype)
    for tap, part in _shifted(padded, k.shape[:-1], lengths, strides, spread):
        result = result + part * lax.broadcast_in_dim(k[tap], part.shape, [part.ndim - 1])
    return result


def depthwise_kernel_gradient(
    x: jax.Array, g: jax.Array, window: Sequence[int], padding: Padding, spread: Sequence[int]
) -> jax.Array:
    """k[t, c] = sum_{n, p} x[n, t + spread p - low, c] g[n, p, c] of x [N, *space, C] and g [N, *out, C]: [*window, C].

    Args:
        x, g: the image, and the gradient of what was made of it.
        window: of the kernel.
        padding: as for `depthwise`.
        spread: the strides of the convolution, by which pixels of g are apart on the image.
    """
    padded, ones = _padded(x, padding, [1] * (x.ndim - 2)), [1] * (x.ndim - 2)
    sums = [
        (part * g).sum(tuple(range(g.ndim - 1))) for _, part in _shifted(padded, window, g.shape[1:-1], spread, ones)
    ]
    return lax.concatenate([lax.expand_dims(each, [0]) for each in sums], 0).reshape(*window, -1)


def _padded(x: jax.Array, padding: Padding, gaps: Sequence[int]) -> jax.Array:
    none = (0, 0, 0)
    widths = [(low, high, gap - 1) for (low, high), gap in zip(padding, gaps, strict=True)]
    return lax.pad(x, lax.full((), 0, x.dtype), [none, *widths, none])


def _shifted(
    padded: jax.Array, window: Sequence[int], lengths: Sequence[int], strides: Sequence[int], spread: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each tap of a window, what it sees at all places."""
    batch, channels = padded.shape[0], padded.shape[-1]
    for tap in itertools.product(*map(range, window)):
        starts = [at * far for at, far in zip(tap, spread, strict=True)]
        ends = [start + (n - 1) * stride + 1 for start, n, stride in zip(starts, lengths, strides, strict=True)]
        yield tap, lax.slice(padded, (0, *starts, 0), (batch, *ends, channels), (1, *strides, 1))
