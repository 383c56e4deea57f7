"""The few layers that the published networks share and NNX lacks: pools, batch normalization, uniform weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["max_pool", "avg_pool", "batch_norm", "fan_in_uniform", "check_images"]


def max_pool(x: jax.Array, window: int, stride: int, padding: int | str = 0, *, ceil: bool = False) -> jax.Array:
    """Maximum over square windows of x [B, H, W, C]; the padding is -inf.

    With `padding` pixels on each side the output has floor((H + 2 padding - window) / stride) + 1 rows, or with
    `ceil` ceil(...) + 1, less the windows that would start beyond the image and its left padding, as in Caffe and
    PyTorch. "SAME" is TensorFlow's padding: ceil(H / stride) rows.

    >>> max_pool(jnp.zeros((1, 8, 8, 1)), 3, 2, ceil=True).shape
    (1, 4, 4, 1)
    """
    pads = [(0, 0), *(_pads(size, window, stride, padding, ceil) for size in x.shape[1:3]), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), pads)


def avg_pool(
    x: jax.Array, window: int, stride: int, padding: int | str = 0, *, ceil: bool = False, count_padding: bool = True
) -> jax.Array:
    """Mean over square windows of x [B, H, W, C]; sizes as in `max_pool`.

    The padding's zeros count as pixels of the mean unless `count_padding` is False; pixels that only `ceil` adds
    beyond the padding never count.

    >>> avg_pool(jnp.ones((1, 4, 4, 1)), 2, 2).shape
    (1, 2, 2, 1)
    """
    pads = [(0, 0), *(_pads(size, window, stride, padding, ceil) for size in x.shape[1:3]), (0, 0)]
    sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, sizes, strides, pads)
    if all(pad == (0, 0) for pad in pads):
        return total * jnp.asarray(1 / window**2, x.dtype)
    inside = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    if count_padding:
        counted = [(0, 0), *(_pads(size, window, stride, padding, False) for size in x.shape[1:3]), (0, 0)]
        inside = jnp.pad(inside, counted, constant_values=1)
        pads = [(low - left, high - right) for (low, high), (left, right) in zip(pads, counted, strict=True)]
    count = jax.lax.reduce_window(inside, 0.0, jax.lax.add, sizes, strides, pads)
    return total / jnp.broadcast_to(count, total.shape)


def _pads(size: int, window: int, stride: int, padding: int | str, ceil: bool) -> tuple[int, int]:
    if isinstance(padding, str):
        if padding != "SAME" or ceil:
            raise ValueError(f'padding must be a number of pixels or, without ceil, "SAME", got {padding!r}')
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
        return total // 2, total - total // 2
    if not ceil:
        return padding, padding
    windows = -(-(size + 2 * padding - window) // stride) + 1
    if (windows - 1) * stride >= size + padding:
        windows -= 1
    return padding, max((windows - 1) * stride + window - size - padding, padding)


class _Statistic(nnx.BatchStat):
    # Flax compares the shardings of an array's old and new value. A traced array has none, and says so in an error
    # that walks over all that has been traced: to trace a training pass of NASNet-A took 66 s, without it 2 s.
    def __setitem__(self, key: Any, value: jax.Array) -> None:
        if key is Ellipsis and value.shape == self.shape and value.dtype == self.dtype:
            self.set_value(value)
        else:
            super().__setitem__(key, value)


def batch_norm(
    features: int, *, epsilon: float = 1e-5, momentum: float = 0.9, rngs: nnx.Rngs, **options: Any
) -> nnx.BatchNorm:
    """Batch normalization with PyTorch's constants: momentum 0.1 for the new batch, which Flax calls 0.9.

    The running variance averages the batches' variances as they are (divided by n); PyTorch's divides by n - 1.

    >>> batch_norm(3, rngs=nnx.Rngs(0)).momentum
    0.9
    """
    norm = nnx.BatchNorm(features, momentum=momentum, epsilon=epsilon, rngs=rngs, **options)
    norm.mean, norm.var = _Statistic(norm.mean[...]), _Statistic(norm.var[...])
    return norm


@functools.cache
def fan_in_uniform(fan_in: int) -> Callable[..., jax.Array]:
    """The initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's and torch7's default for weights and biases.

    One object for each `fan_in`, because graph definitions compare their initializers by identity.

    >>> w = fan_in_uniform(4)(jax.random.key(0), (1000,), jnp.float32)
    >>> bool(jnp.all(jnp.abs(w) <= 0.5))
    True
    """
    limit = fan_in**-0.5

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw


def check_images(images: jax.Array, height: int | None, width: int | None, channels: int) -> None:
    """Refuses images that are not [B, height, width, channels]; None leaves a side open.

    >>> check_images(jnp.zeros((2, 28, 28, 3)), 28, 28, 1)
    Traceback (most recent call last):
    ValueError: images must have shape [B, 28, 28, 1], got (2, 28, 28, 3)
    """
    wanted = (height, width, channels)
    if images.ndim != 4 or any(size not in (None, got) for size, got in zip(wanted, images.shape[1:], strict=True)):
        text = ", ".join(name if size is None else str(size) for name, size in zip("HWC", wanted, strict=True))
        raise ValueError(f"images must have shape [B, {text}], got {images.shape}")
