"""Alignment of one image to another by the enhanced correlation coefficient, batched on static shapes."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from advjax.scores import ecc_iteration as iteration
from advjax.scores.ecc_iteration import Settings
from advjax.scores.ecc_pixels import REACH, Pixels, halved, halved_mask, prepare
from advjax.scores.masks import Masks, check_mask, eroded, known_overlap, stacked
from advjax.scores.norms import check_pair, widened
from advjax.scores.warp import (
    INTERPOLATIONS,
    MOTIONS,
    Frame,
    Interpolation,
    Motion,
    frame_of,
    motion_matrix,
    warp_image,
)

__all__ = ["SMALLEST_SIDE", "Alignment", "align", "check_overlap", "check_settings", "ecc_align"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SMALLEST_SIDE = 8
_LEAST_PIXELS = SMALLEST_SIDE**2
_NEAR = 0.02
"""Distance to the optimum, in half sides, up to which the optimality condition is trusted for a derivative."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alignment:
    """What `ecc_align` found, for leading axes [...].

    Attributes:
      warp: [..., 3, 3], template to input pixel coordinates (x, y, 1), as OpenCV reports it.
      image: [..., H, W, C], the unblurred input seen through `warp`; 0 outside it.
      correlation: [...], ECC of the blurred template and the blurred warped input over the valid pixels,
        in [-1, 1]; never below that of the identity. 0 where either has no contrast.
      iterations: int32 [...], warps evaluated at full resolution, the identity included.
      converged: bool [...], whether the correlation settled to `tolerance` within `iterations`.
      mask: bool [..., H, W], where `image` shows valid pixels of the input and the template is valid too; None
        if no mask was given.
    """

    warp: jax.Array
    image: jax.Array
    correlation: jax.Array
    iterations: jax.Array
    converged: jax.Array
    mask: jax.Array | None = None


def ecc_align(
    image: jax.Array,
    template: jax.Array,
    motion: Motion = "homography",
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
    levels: int = 1,
    blur: bool = True,
    interpolation: Interpolation = "gather",
    image_mask: jax.Array | None = None,
    template_mask: jax.Array | None = None,
) -> Alignment:
    """Finds the warp that makes `image` correlate best with `template`: forward-additive ECC.

    With i(p) the image seen through the warp p and t the template, both of zero mean over the valid pixels,
    maximizes rho(p) = <i(p), t> / (||i(p)|| ||t||). One iteration, with J the Jacobian of i (zero mean as
    well), Q = J^T J, a = J^T i, b = J^T t:

        lambda = (||i||^2 - a^T Q^-1 a) / (<t, i> - b^T Q^-1 a),    p <- p + Q^-1 (lambda b - a).

    Where the denominator is not positive, lambda is the bound of the paper's eq. 21. Differences from
    OpenCV's `findTransformECC`: a step that lowers rho by more than 0.01 is halved instead of failing; the
    best warp seen is kept, from the identity on, so nothing raises and rho never ends below that of no
    alignment; a warp must show half of the valid pixels, and not read them from a tenth of their area; the
    validity fades over one pixel instead of jumping, which makes the result continuous in the images;
    coordinates are normalized, and Q has a Tikhonov term (1e-6 of its mean eigenvalue), which float32 needs.

    A pixel is valid where the warp finds the image and where both blurs are made of the picture. In the two
    outermost rows and columns of either image they are made of mirrored pixels too, which biases a warp by as
    much as 0.4 pixels at the corners of a 28 x 28 image (and OpenCV's): there a pixel counts only where one of
    the two is flat, as around a digit, so that its mirror is what would follow. Masks name more pixels that
    belong to no picture, such as black corners left by a rotation; nothing within 4 pixels of one in the image
    is aligned on, nothing within 2 in the template.

    A batch works through a queue on static shapes: a pair that has settled makes room for the next, so it
    costs nothing more, and all ends when the last has settled. Under `jax.vmap` the pairs go in step.

    Differentiable once (both modes): the warp by the implicit function theorem on its optimality condition
    b / <t, i> = a / ||i||^2; where the iteration has not converged to such a point the warp counts as a
    constant.

    Args:
      image: floats [..., H, W, C] in [0, 1], the input to be warped; C = 1, or 3 (aligned on BT.601 luma).
      template: of the same shape.
      motion: "homography", "affine", "euclidean" or "translation".
      iterations: warps to evaluate at most, on each level.
      tolerance: a pair has settled when its correlation changes by no more than this.
      levels: of the coarse-to-fine pyramid; 1 is full resolution alone, each more halves the sides. For
        motions of more than a few pixels on photographs.
      blur: whether both images pass a 5 x 5 Gaussian first, as in OpenCV. It helps the alignment alone:
        `Alignment.image` is not blurred.
      interpolation: "gather", or "matmul" for accelerators on which a gather is slow.
      image_mask, template_mask: bool [H, W] for all pairs or [..., H, W], True on the picture; what is False may
        hold anything, NaN too. See `border_mask`.

    Returns:
      An `Alignment` in float32 or float64; finite for every finite input. Where masks leave nothing to align, which
      is an error if it can be seen at the call, the identity with correlation 0, not converged.

    Raises:
      ValueError: shapes that differ or are not [..., H, W, 1 or 3], sides under 8 pixels (on the coarsest
        level too), an unknown option, or masks that leave a pair less than 64 pixels.
      TypeError: images that are not floats, masks that are not bool.

    Source: Evangelidis, Psarakis, "Parametric Image Alignment Using Enhanced Correlation Coefficient
    Maximization", 2008; OpenCV, modules/video/src/ecc.cpp.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.meshgrid(jnp.arange(-12.0, 12), jnp.arange(-12.0, 12))
    >>> blob = lambda x, y: jnp.exp(-(x**2 + 2 * y**2) / 18)[..., None]
    >>> found = ecc_align(blob(x - 1.5, y), blob(x, y), "translation")
    >>> [round(float(v), 2) for v in found.warp[0]], bool(found.converged)
    ([1.0, 0.0, 1.5], True)
    """
    check_pair(image, template, "image", "template")
    settings = Settings(motion, levels, blur, interpolation)
    check_settings(settings, jnp.shape(image))
    masks = (image_mask, template_mask)
    check_overlap(masks, jnp.shape(image))
    return _jitted_align(image, template, masks, iterations, tolerance, settings)


def check_settings(settings: Settings, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless images of `shape` [..., H, W, C] can be aligned under `settings`."""
    *_, height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"image: expected 1 channel or 3 (red, green, blue), got {channels}")
    if settings.motion not in MOTIONS:
        raise ValueError(f"motion: expected one of {tuple(MOTIONS)}, got {settings.motion!r}")
    if settings.interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected one of {INTERPOLATIONS}, got {settings.interpolation!r}")
    if settings.levels < 1:
        raise ValueError(f"levels: expected at least 1, got {settings.levels}")
    if min(height, width) < SMALLEST_SIDE << (settings.levels - 1):
        raise ValueError(
            f"image: {settings.levels} pyramid levels need sides of at least "
            f"{SMALLEST_SIDE << (settings.levels - 1)} pixels, got {height} x {width}"
        )


def check_overlap(masks: Masks, shape: tuple[int, ...]) -> None:
    """Raises unless the masks fit images of `shape` [..., H, W, C] and, where known, leave something to align."""
    for name, mask in zip(("image_mask", "template_mask"), masks, strict=True):
        check_mask(name, mask, shape)
    both = known_overlap(*masks)
    if both is None or not both.size:
        return
    left = eroded(both, REACH).sum((-2, -1)).reshape(-1)
    if left.min() < _LEAST_PIXELS:
        raise ValueError(
            f"image_mask, template_mask: expected {_LEAST_PIXELS} pixels or more that are valid in both images and "
            f"more than {REACH} from a masked one, got {left.min()} in pair {left.argmin()}"
        )


def align(
    image: jax.Array,
    template: jax.Array,
    masks: Masks,
    iterations: ArrayLike,
    tolerance: ArrayLike,
    settings: Settings,
    sizes: jax.Array | None = None,
) -> Alignment:
    """`ecc_align` on checked arguments, to be called from a compiled function.

    With `sizes`, int32 [..., 2], as if each array ended after so many rows and columns.
    """
    *batch, height, width, channels = image.shape
    image, template = widened(image), widened(template)
    images, templates = (pixels.reshape(-1, height, width, channels) for pixels in (image, template))
    if not images.shape[0]:
        raise ValueError(f"image: expected at least one image, got shape {image.shape}")
    masks = (stacked(masks[0], image.shape), stacked(masks[1], image.shape))
    sizes = None if sizes is None else jnp.asarray(sizes, jnp.int32).reshape(-1, 2)
    frame, pair = frame_of(height, width, sizes, image.dtype), jnp.arange(len(images))
    if not frame.filled:
        inside = jax.vmap(lambda pair: frame.of(pair).inside())(pair)
        images, templates = (jnp.where(inside[..., None], pixels, 0) for pixels in (images, templates))
        image_mask, template_mask = (None if mask is None else mask & inside for mask in masks)
        masks = (image_mask, template_mask)
    tolerance = jnp.asarray(tolerance, image.dtype)
    parameters, correlation, count, converged = _estimate(
        settings, _luma(images), _luma(templates), masks, sizes, jnp.asarray(iterations, jnp.int32), tolerance
    )

    def in_pixels(pair: jax.Array, parameters: jax.Array) -> jax.Array:
        to_pixels = jnp.asarray(frame.of(pair).to_pixels(), image.dtype)
        chain = [to_pixels, motion_matrix(parameters, settings.motion), jnp.linalg.inv(to_pixels)]
        return jnp.linalg.multi_dot(chain, precision=jax.lax.Precision.HIGHEST)

    warp = jax.vmap(in_pixels)(pair, parameters)
    warped, mask = _see(images, warp, masks, settings.interpolation)
    corner = warp[:, 2:, 2:]
    warp = warp / jnp.where(jnp.abs(corner) > 1e-6, corner, 1)
    return Alignment(
        warp.reshape(*batch, 3, 3),
        warped.reshape(image.shape),
        correlation.reshape(batch),
        count.reshape(batch),
        converged.reshape(batch),
        None if mask is None else mask.reshape(*batch, height, width),
    )


def _see(
    images: jax.Array, warp: jax.Array, masks: Masks, interpolation: Interpolation
) -> tuple[jax.Array, jax.Array | None]:
    """The images [N, H, W, C] through their warps, and which of those pixels are valid if there are masks."""
    through = jax.vmap(partial(warp_image, interpolation=interpolation))
    image_mask, template_mask = masks
    if image_mask is None and template_mask is None:
        return through(images, warp), None
    if image_mask is None:
        image_mask = jnp.ones(images.shape[:-1], bool)
    images = jnp.where(image_mask[..., None], images, 0)
    # All of a pixel, but for the rounding of its coordinates.
    shown = through(image_mask[..., None].astype(images.dtype), warp)[..., 0] > 0.999
    return through(images, warp), shown if template_mask is None else shown & template_mask


_jitted_align = jax.jit(align, static_argnames=("settings",))


def _luma(images: jax.Array) -> jax.Array:
    if images.shape[-1] == 1:
        return images[..., 0]
    return sum(weight * images[..., c] for c, weight in enumerate(_LUMA))  # type: ignore[return-value]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _estimate(
    settings: Settings,
    images: jax.Array,
    templates: jax.Array,
    masks: Masks,
    sizes: jax.Array | None,
    iterations: jax.Array,
    tolerance: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Parameters [N, k], correlation, iterations and convergence [N] for gray images [N, H, W]."""
    frame = frame_of(images.shape[1], images.shape[2], sizes, images.dtype)
    pyramid = [((images, templates, *masks), frame)]
    for _ in range(settings.levels - 1):
        (images, templates, *larger), frame = pyramid[-1]
        smaller = (halved_mask(frame, larger[0]), halved_mask(frame, larger[1]))
        pyramid.append(((halved(frame, images), halved(frame, templates), *smaller), frame.halved()))
    parameters = jnp.zeros((images.shape[0], MOTIONS[settings.motion]), images.dtype)
    for depth, (pair, frame) in reversed(list(enumerate(pyramid))):
        pixels = jax.vmap(partial(_prepare, settings, frame))(jnp.arange(len(images)), *pair)
        values = pixels.values.reshape(-1, pixels.values.shape[-1])
        level = iteration.Level(values, pixels.template, pixels.least_overlap, parameters)
        # Only the finest level must beat the identity; the coarser ones just look for a start.
        from_identity = depth == 0 and settings.levels > 1
        result = iteration.solve(settings, frame, level, from_identity, iterations, tolerance)
        parameters = result[0]
    return result


@_estimate.defjvp
def _estimate_jvp(settings: Settings, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """Implicit function theorem: dp = -(dF/dp)^-1 dF, F the optimality condition at the full resolution."""
    images, templates, masks, sizes, *_ = primals
    result = _estimate(settings, *primals)
    parameters, _, count, converged = result
    frame = frame_of(images.shape[1], images.shape[2], sizes, images.dtype)

    def one(
        number: jax.Array, parameters: jax.Array, pair: tuple, tangent: tuple, masks: Masks, converged: jax.Array
    ) -> tuple:
        condition = partial(_condition, settings, frame.of(number), masks)
        (residual, _), (moved, _) = jax.jvp(partial(condition, parameters), pair, tangent)
        slope = jax.jacfwd(lambda p: condition(p, *pair)[0])(parameters)
        newton = jnp.linalg.solve(slope, residual)
        stationary = converged & jnp.isfinite(newton).all() & (jnp.abs(newton).max() < _NEAR)
        slope = jnp.where(stationary, slope, jnp.eye(len(slope), dtype=slope.dtype))
        d_parameters = jnp.where(stationary, -jnp.linalg.solve(slope, moved), 0)
        along = (d_parameters, *tangent)
        _, (_, d_correlation) = jax.jvp(condition, (parameters, *pair), along)
        return d_parameters, d_correlation

    each = (jnp.arange(len(images)), parameters, (images, templates), tangents[:2], masks, converged)
    d_parameters, d_correlation = jax.vmap(one)(*each)
    no_tangent = [jnp.zeros(leaf.shape, jax.dtypes.float0) for leaf in (count, converged)]
    return result, (d_parameters, d_correlation, *no_tangent)


def _prepare(settings: Settings, frame: Frame, number: jax.Array, *pair: Any) -> Pixels:
    return prepare(frame.of(number), settings.blur, *pair)


def _condition(
    settings: Settings, frame: Frame, masks: Masks, parameters: jax.Array, image: jax.Array, template: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """0 where the iteration rests, and the correlation there."""
    pixels = prepare(frame, settings.blur, image, template, *masks)
    warped = iteration.read(settings, frame, parameters, pixels.values, 0)
    return iteration.optimality(iteration.gram_matrix(settings, frame, parameters, warped, pixels.template))
