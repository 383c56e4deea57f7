"""Structural similarity by dm-pix, with the border handled in either of the two ways in use."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from advjax.scores.norms import check_pair

__all__ = ["WINDOW", "check_window", "ssim"]

WINDOW = 11
"""Side of the Gaussian window, sigma 1.5 (Wang et al.)."""

_SIGMA = 1.5


def ssim(perturbed: jax.Array, original: jax.Array, *, padding: Literal["valid", "same"] = "valid") -> jax.Array:
    """Mean structural similarity of two images in [0, 1].

    With an 11 x 11 Gaussian window of sigma 1.5 giving local means, variances and covariance,

        SSIM = mean over windows of (2 mu_x mu_y + C1)(2 sigma_xy + C2)
                                    / ((mu_x^2 + mu_y^2 + C1)(sigma_x^2 + sigma_y^2 + C2)),

    C1 = 0.01^2, C2 = 0.03^2 (eqs. 2-3 of Rozsa et al. with alpha = beta = gamma = 1, C3 = C2 / 2). The
    formula is `dm_pix.ssim`'s; only its Gaussian filter is replaced, by two products with a banded matrix:
    equal to 1e-6, several times faster on CPU, and dense work on an accelerator.

    `padding` says over which windows the mean goes. Wang's program, scikit-image and dm-pix take windows
    that lie fully inside ("valid", the default); eq. 3 read literally takes one window per pixel, which
    needs values beyond the border ("same": mirrored about the edge, as SciPy and scikit-image filter). An
    attack whose noise lies in a flat border scores far lower under "same": always name the one used.

    The gradient is finite everywhere; dm-pix takes that of the covariance as 0 where the covariance is
    exactly 0, that is in windows that are flat in either image.

    Args:
      perturbed: floats [..., H, W, C] in [0, 1].
      original: of the same shape. The score is symmetric.
      padding: "valid" or "same".

    Returns:
      [...], at most 1; the mean over windows and channels.

    Raises:
      ValueError: bad shapes, an unknown padding, or a side shorter than the 11-pixel window.
      TypeError: images that are not floats.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", 2004; Rozsa, Rudd, Boult, "Adversarial Diversity and Hard Positive Generation", eqs. 2-3.

    >>> import jax
    >>> x = jax.random.uniform(jax.random.key(0), (16, 16, 1))
    >>> round(float(ssim(x, x)), 5), float(ssim(1 - x, x, padding="same")) < 0
    (1.0, True)
    """
    check_pair(perturbed, original, "perturbed", "original")
    check_window(jnp.shape(perturbed), padding)
    *batch, height, width, channels = perturbed.shape
    pair = [jnp.reshape(image, (-1, height, width, channels)) for image in (perturbed, original)]
    filtered = _gaussian_filter(height, width, padding, perturbed.dtype)
    scores = jax.vmap(lambda x, y: dm_pix.ssim(x, y, filter_fn=filtered))(*pair)
    return scores.reshape(batch)


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
    centres = np.arange(half, side - half) if padding == "valid" else np.arange(side)
    taps = centres[:, None] + np.arange(-half, half + 1)[None, :]
    taps = np.where(taps < 0, -taps - 1, taps)
    taps = np.where(taps >= side, 2 * side - 1 - taps, taps)
    band = np.zeros((len(centres), side))
    np.add.at(band, (np.arange(len(centres))[:, None], taps), window[None, :])
    return band
