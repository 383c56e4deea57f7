"""Alignment of one image to another by the enhanced correlation coefficient, batched on static shapes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from advjax.scores import ecc_iteration as iteration
from advjax.scores.ecc_iteration import Settings
from advjax.scores.norms import check_pair
from advjax.scores.warp import INTERPOLATIONS, MOTIONS, Interpolation, Motion, frame_of, motion_matrix, warp_image

__all__ = ["Alignment", "align", "check_settings", "ecc_align"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SMALLEST_SIDE = 8
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
    """

    warp: jax.Array
    image: jax.Array
    correlation: jax.Array
    iterations: jax.Array
    converged: jax.Array


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
) -> Alignment:
    """Finds the warp that makes `image` correlate best with `template`: forward-additive ECC.

    With i(p) the image seen through the warp p and t the template, both of zero mean over the pixels that
    the warp finds inside the image, maximises rho(p) = <i(p), t> / (||i(p)|| ||t||). One iteration, with J
    the Jacobian of i (zero mean as well), Q = J^T J, a = J^T i, b = J^T t:

        lambda = (||i||^2 - a^T Q^-1 a) / (<t, i> - b^T Q^-1 a),    p <- p + Q^-1 (lambda b - a).

    Where the denominator is not positive, lambda is the bound of the paper's eq. 21. Differences from
    OpenCV's `findTransformECC`: a step that lowers rho by more than 0.01 is halved instead of failing; the
    best warp seen is kept, from the identity on, so nothing raises and rho never ends below that of no
    alignment; a warp must show half of the template; the validity mask fades over one pixel instead of
    jumping, which makes the result continuous in the images; coordinates are normalised, and Q has a
    Tikhonov term (1e-6 of its mean eigenvalue), which float32 needs.

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

    Returns:
      An `Alignment`; finite for every finite input.

    Raises:
      ValueError: shapes that differ or are not [..., H, W, 1 or 3], sides under 8 pixels (on the coarsest
        level too), or an unknown option.
      TypeError: images that are not floats.

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
    return _jitted_align(image, template, iterations, tolerance, settings)


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
    if min(height, width) < _SMALLEST_SIDE << (settings.levels - 1):
        raise ValueError(
            f"image: {settings.levels} pyramid levels need sides of at least "
            f"{_SMALLEST_SIDE << (settings.levels - 1)} pixels, got {height} x {width}"
        )


def align(
    image: jax.Array, template: jax.Array, iterations: ArrayLike, tolerance: ArrayLike, settings: Settings
) -> Alignment:
    """`ecc_align` on checked arguments, to be called from a compiled function."""
    *batch, height, width, channels = image.shape
    images, templates = (pixels.reshape(-1, height, width, channels) for pixels in (image, template))
    if not images.shape[0]:
        raise ValueError(f"image: expected at least one image, got shape {image.shape}")
    tolerance = jnp.asarray(tolerance, image.dtype)
    parameters, correlation, count, converged = _estimate(
        settings, _luma(images), _luma(templates), jnp.asarray(iterations, jnp.int32), tolerance
    )
    to_pixels = jnp.asarray(frame_of(height, width).to_pixels(), image.dtype)
    to_frame = jnp.linalg.inv(to_pixels)

    def in_pixels(parameters: jax.Array) -> jax.Array:
        matrix = motion_matrix(parameters, settings.motion)
        return jnp.linalg.multi_dot([to_pixels, matrix, to_frame], precision=jax.lax.Precision.HIGHEST)

    warp = jax.vmap(in_pixels)(parameters)
    warped = jax.vmap(partial(warp_image, interpolation=settings.interpolation))(images, warp)
    corner = warp[:, 2:, 2:]
    warp = warp / jnp.where(jnp.abs(corner) > 1e-6, corner, 1)
    return Alignment(
        warp.reshape(*batch, 3, 3),
        warped.reshape(image.shape),
        correlation.reshape(batch),
        count.reshape(batch),
        converged.reshape(batch),
    )


_jitted_align = jax.jit(align, static_argnames=("settings",))


def _luma(images: jax.Array) -> jax.Array:
    if images.shape[-1] == 1:
        return images[..., 0]
    return sum(weight * images[..., c] for c, weight in enumerate(_LUMA))  # type: ignore[return-value]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _estimate(
    settings: Settings, images: jax.Array, templates: jax.Array, iterations: jax.Array, tolerance: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Parameters [N, k], correlation, iterations and convergence [N] for grey images [N, H, W]."""
    pyramid = [(images, templates, frame_of(*images.shape[1:]))]
    for _ in range(settings.levels - 1):
        images, templates, frame = pyramid[-1]
        pyramid.append((_halved(images), _halved(templates), frame.halved()))
    parameters = jnp.zeros((images.shape[0], MOTIONS[settings.motion]), images.dtype)
    for depth, (images, templates, frame) in reversed(list(enumerate(pyramid))):
        values, template = jax.vmap(partial(iteration.prepare, settings, frame))(images, templates)
        level = iteration.Level(values.reshape(-1, 3), template, parameters)
        # Only the finest level must beat the identity; the coarser ones just look for a start.
        from_identity = depth == 0 and settings.levels > 1
        result = iteration.solve(settings, frame, level, from_identity, iterations, tolerance)
        parameters = result[0]
    return result


@_estimate.defjvp
def _estimate_jvp(settings: Settings, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """Implicit function theorem: dp = -(dF/dp)^-1 dF, F the optimality condition at the full resolution."""
    images, templates, *_ = primals
    result = _estimate(settings, *primals)
    parameters, _, count, converged = result
    frame = frame_of(*images.shape[1:])

    def condition(parameters: jax.Array, image: jax.Array, template: jax.Array) -> tuple:
        values, template = iteration.prepare(settings, frame, image, template)
        warped = iteration.read(settings, frame, parameters, values, 0)
        gram = iteration.gram_matrix(settings, frame, parameters, warped, template)
        return iteration.optimality(gram)

    def one(parameters: jax.Array, pair: tuple, tangent: tuple, converged: jax.Array) -> tuple:
        (residual, _), (moved, _) = jax.jvp(partial(condition, parameters), pair, tangent)
        slope = jax.jacfwd(lambda p: condition(p, *pair)[0])(parameters)
        newton = jnp.linalg.solve(slope, residual)
        stationary = converged & jnp.isfinite(newton).all() & (jnp.abs(newton).max() < _NEAR)
        slope = jnp.where(stationary, slope, jnp.eye(len(slope), dtype=slope.dtype))
        d_parameters = jnp.where(stationary, -jnp.linalg.solve(slope, moved), 0)
        _, (_, d_correlation) = jax.jvp(condition, (parameters, *pair), (d_parameters, *tangent))
        return d_parameters, d_correlation

    d_parameters, d_correlation = jax.vmap(one)(parameters, (images, templates), tangents[:2], converged)
    no_tangent = [jnp.zeros(leaf.shape, jax.dtypes.float0) for leaf in (count, converged)]
    return result, (d_parameters, d_correlation, *no_tangent)


def _halved(images: jax.Array) -> jax.Array:
    """Means of 2 x 2 blocks of [N, H, W]; an odd side repeats its last line."""
    _, height, width = images.shape
    even = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return even.reshape(-1, (height + 1) // 2, 2, (width + 1) // 2, 2).mean((2, 4))
