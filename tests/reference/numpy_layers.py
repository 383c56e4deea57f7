"""The layers of the papers' networks in NumPy, float64, from their definitions: channels last, square windows."""

import numpy as np

__all__ = ["batch_norm", "conv", "dense", "max_pool", "relu", "response_norm"]


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0)


def conv(x, layer, stride=1, padding=0):
    """Correlation of x [B, H, W, C] with the kernel [k, k, C, O] of a layer, plus its bias if it has one."""
    kernel = np.float64(layer.kernel[...])
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    out = np.einsum("bijcuv,uvco->bijo", windows[:, ::stride, ::stride], kernel, optimize=True)
    return out if layer.bias is None else out + np.float64(layer.bias[...])


def dense(x, layer):
    """x [B, C] times the layer's weights, plus its bias."""
    return x @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...])


def max_pool(x, window, stride, padding=0, ceil=False):
    """The largest of each window; with `ceil` windows may reach beyond the image, but not begin there."""
    size = x.shape[1] + 2 * padding
    count = (size - window) // stride + 1
    if ceil and (size - window) % stride and count * stride < x.shape[1] + padding:
        count += 1
    after = max((count - 1) * stride + window - x.shape[1] - padding, 0)
    sides = (padding, after)
    padded = np.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(1, 2))
    return windows[:, ::stride, ::stride].max((-1, -2))[:, :count, :count]


def batch_norm(x, layer, epsilon):
    """(x - mean) / sqrt(var + epsilon) by the running statistics, scaled and shifted if the layer does."""
    out = (x - np.float64(layer.mean[...])) / np.sqrt(np.float64(layer.var[...]) + epsilon)
    return out if layer.scale is None else out * np.float64(layer.scale[...]) + np.float64(layer.bias[...])


def response_norm(x, size=5, alpha=1e-4, beta=0.75):
    """Each channel over (1 + alpha / size * the squares of the `size` channels around it)^beta."""
    around = size // 2
    squares = np.pad(x**2, ((0, 0), (0, 0), (0, 0), (around, around)))
    sums = np.lib.stride_tricks.sliding_window_view(squares, size, axis=-1).sum(-1)
    return x / (1 + alpha / size * sums) ** beta
