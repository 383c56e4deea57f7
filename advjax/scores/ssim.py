"""Structural similarity by dm-pix, with the border handled in either of the two ways in use."""

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from advjax.scores.masks import Mask, check_mask, eroded, known_overlap, stacked
from advjax.scores.norms import check_pair, widened

__all__ = ["WINDOW", "check_window", "check_window_masks", "ssim", "ssim_of_sizes"]

WINDOW = 11
"""Side of the Gaussian window, sigma 1.5 (Wang et al.)."""

_SIGMA = 1.5
_C1 = 0.01**2
_NO_LUMINANCE = 1e9
"""As dm-pix's k1: its luminance term is then 1 to the last bit."""


def ssim(
    perturbed: jax.Array,
    original: jax.Array,
    *,
    padding: Literal["valid", "same"] = "valid",
    mask: jax.Array | None = None,
) -> jax.Array:
    """Mean structural similarity of two images in [0, 1].

    With an 11 x 11 Gaussian window of sigma 1.5 giving local means, variances and covariance,

        SSIM = mean over windows of (2 mu_x mu_y + C1)(2 sigma_xy + C2)
                                    / ((mu_x^2 + mu_y^2 + C1)(sigma_x^2 + sigma_y^2 + C2)),

    C1 = 0.01^2, C2 = 0.03^2 (eqs. 2-3 of Rozsa et al. with alpha = beta = gamma = 1, C3 = C2 / 2). The second factor,
    contrast and structure, is `dm_pix.ssim`'s of the images less their means: squares of bright images would hide
    small variances in float32. The first is put back to it. Equal to `dm_pix.ssim` and to scikit-image within 1e-6
    where float32 serves them. dm-pix's Gaussian filter is replaced by a product with a banded matrix from either
    side: several times faster on CPU than convolutions, dense work on an accelerator.

    `padding` says over which windows the mean goes. Wang's program, scikit-image and dm-pix take windows
    that lie fully inside ("valid", the default); eq. 3 read literally takes one window per pixel, which
    needs values beyond the border ("same": mirrored about the edge, as SciPy and scikit-image filter). An
    attack whose noise lies in a flat border scores far lower under "same": always name the one used.

    The gradient is finite everywhere; dm-pix takes that of the covariance as 0 where the covariance is exactly 0.

    Args:
      perturbed: floats [..., H, W, C] in [0, 1].
      original: of the same shape. The score is symmetric.
      padding: "valid" or "same".
      mask: bool [H, W] or [..., H, W], True on the picture: only windows that lie wholly inside count. What is False
        may hold anything, NaN too.

    Returns:
      float32 or float64 [...], at most 1; the mean over windows and channels. NaN where the mask leaves no window,
      which is an error if it can be seen at the call.

    Raises:
      ValueError: bad shapes, an unknown padding, a side shorter than the 11-pixel window, or a mask without a window.
      TypeError: images that are not floats, a mask that is not bool.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", 2004; Rozsa, Rudd, Boult, "Adversarial Diversity and Hard Positive Generation", eqs. 2-3.

    >>> import jax
    >>> x = jax.random.uniform(jax.random.key(0), (16, 16, 1))
    >>> round(float(ssim(x, x)), 5), float(ssim(1 - x, x, padding="same")) < 0
    (1.0, True)
    """
    check_pair(perturbed, original, "perturbed", "original")
    check_window(jnp.shape(perturbed), padding)
    check_mask("mask", mask, jnp.shape(perturbed))
    check_window_masks("mask", padding, mask)
    *batch, height, width, channels = perturbed.shape
    pair = [widened(image).reshape(-1, height, width, channels) for image in (perturbed, original)]
    similarity = partial(_similarity, _gaussian_filter(height, width, padding, pair[0].dtype))
    masks, windows = stacked(mask, perturbed.shape), None
    if masks is not None:
        pair = [_filled(images, masks) for images in pair]
        windows = _whole_windows(masks, padding)
    scores = _mean(jax.vmap(similarity)(*pair), windows)
    return jnp.minimum(scores, 1).reshape(batch)  # 1 is exceeded by rounding alone.


def ssim_of_sizes(
    perturbed: jax.Array, original: jax.Array, padding: str, mask: jax.Array | None, sizes: jax.Array
) -> jax.Array:
    """`ssim` of pictures in the upper left corners of their arrays; `sizes` [..., 2] are their rows and columns."""
    *batch, height, width, channels = perturbed.shape
    sizes = jnp.reshape(sizes, (-1, 2))
    inside = jax.vmap(lambda size: _below(height, size[0])[:, None] & _below(width, size[1])[None])(sizes)
    inside = inside.reshape(*batch, height, width)
    if padding == "valid":
        return ssim(perturbed, original, mask=inside if mask is None else inside & mask)
    half = WINDOW // 2
    pair = [widened(image).reshape(-1, height, width, channels) for image in (perturbed, original)]
    similarity = partial(_similarity, _gaussian_filter(height + half, width + half, "same", pair[0].dtype))
    windows = inside if mask is None else inside & eroded(mask | ~inside, half)

    def one(x: jax.Array, y: jax.Array, size: jax.Array, windows: jax.Array) -> jax.Array:
        # As the filter does at the end of an array: mirrored about the edge, as far as a window reaches.
        row, column = _mirrored(height + half, size[0]), _mirrored(width + half, size[1])
        scores = similarity(x[row[:, None], column[None]], y[row[:, None], column[None]])[:height, :width]
        count = windows.sum(dtype=x.dtype) * channels
        return jnp.where(windows[..., None], scores, 0).sum() / jnp.where(count > 0, count, jnp.nan)

    scores = jax.vmap(one)(pair[0], pair[1], sizes, windows.reshape(-1, height, width))
    return jnp.minimum(scores, 1).reshape(batch)


def _below(count: int, size: jax.Array) -> jax.Array:
    return jnp.arange(count, dtype=jnp.int32) < size.astype(jnp.int32)


def _mirrored(count: int, size: jax.Array) -> jax.Array:
    """The first `count` indices of a side of `size`, mirrored beyond its edge."""
    index, size = jnp.arange(count, dtype=jnp.int32), size.astype(jnp.int32)
    return jnp.where(index < size, index, jnp.maximum(2 * size - 1 - index, 0))


def _similarity(filtered: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """SSIM of every window, [H', W', C] from [H, W, C]."""
    # Contrast and structure do not change with a constant; the luminance does, and gets its own factor.
    mean_x, mean_y = (image.mean((0, 1), keepdims=True) for image in (x, y))
    x, y = x - mean_x, y - mean_y
    # dm-pix holds float64 beside a float32 number, which strict promotion (a user's setting) would refuse.
    with jax.numpy_dtype_promotion("standard"):
        structure = dm_pix.ssim(x, y, k1=_NO_LUMINANCE, return_map=True, filter_fn=filtered)
    x_at, y_at = filtered(x) + mean_x, filtered(y) + mean_y
    luminance = (2 * x_at * y_at + _C1) / (x_at * x_at + y_at * y_at + _C1)
    return luminance * structure


def _filled(images: jax.Array, masks: jax.Array) -> jax.Array:
    """The mean of the rest where it is masked: that must not decide what the moments are taken about."""
    inside = masks[..., None]
    count = jnp.maximum(inside.sum((1, 2), keepdims=True, dtype=images.dtype), 1)
    mean = jnp.where(inside, images, 0).sum((1, 2), keepdims=True) / count
    return jnp.where(inside, images, mean)


def _mean(maps: jax.Array, windows: jax.Array | None) -> jax.Array:
    """The means of [N, H', W', C] over the windows [N, H', W'], all without; NaN where there is none."""
    if windows is not None:
        maps = jnp.where(windows[..., None], maps, 0)
    flat = maps.reshape(len(maps), -1)
    # A product: XLA's CPU backend would compute the maps inside the loop of a reduction, five times slower.
    sums = jnp.matmul(flat, jnp.ones(flat.shape[1], flat.dtype), precision=jax.lax.Precision.HIGHEST)
    if windows is None:
        return sums / flat.shape[1]
    count = windows.sum((1, 2), dtype=flat.dtype) * maps.shape[-1]
    return jnp.where(count > 0, sums / jnp.maximum(count, 1), jnp.nan)


def _whole_windows(mask: Mask, padding: str) -> Mask:
    """Which windows hold no masked pixel: [..., H', W']."""
    half = WINDOW // 2
    whole = eroded(mask, half)
    return whole[..., half:-half, half:-half] if padding == "valid" else whole


def check_window_masks(name: str, padding: str, *masks: jax.Array | None) -> None:
    """Raises unless the masks, where known, leave every pair a window."""
    mask = known_overlap(*masks)
    if mask is None:
        return
    missing = ~_whole_windows(mask, padding).any((-2, -1)).reshape(-1)
    if missing.any():
        raise ValueError(
            f"{name}: expected a window of {WINDOW} x {WINDOW} pixels without a masked one, got none in pair "
            f"{missing.argmax()}"
        )


def check_window(shape: tuple[int, ...], padding: str) -> None:
    """Raises ValueError unless images of `shape` [..., H, W, C] hold an SSIM window and `padding` is known."""
    if padding not in ("valid", "same"):
        raise ValueError(f'padding: expected "valid" or "same", got {padding!r}')
    height, width = shape[-3:-1]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"perturbed: SSIM needs sides of at least {WINDOW} pixels (its window), got {height} x {width}"
        )


def _gaussian_filter(height: int, width: int, padding: str, dtype: np.dtype) -> Callable[[jax.Array], jax.Array]:
    """The window mean [H, W, C] -> [H', W', C] as a product from either side."""
    rows = jnp.asarray(_band(height, padding), dtype)
    columns = jnp.asarray(_band(width, padding), dtype)

    def apply(image: jax.Array) -> jax.Array:
        return jnp.einsum("ih,jw,hwc->ijc", rows, columns, image, precision=jax.lax.Precision.HIGHEST)

    return apply


@cache
def _band(side: int, padding: str) -> np.ndarray:
    """[side', side] matrix whose rows are the shifted window, folded back at the border for "same"."""
    half = WINDOW // 2
    window = np.exp(-0.5 * (np.arange(-half, half + 1) / _SIGMA) ** 2)
    window /= window.sum()
    centers = np.arange(half, side - half) if padding == "valid" else np.arange(side)
    taps = centers[:, None] + np.arange(-half, half + 1)[None, :]
    taps = np.where(taps < 0, -taps - 1, taps)
    taps = np.where(taps >= side, 2 * side - 1 - taps, taps)
    band = np.zeros((len(centers), side))
    np.add.at(band, (np.arange(len(centers))[:, None], taps), window[None, :])
    return band
