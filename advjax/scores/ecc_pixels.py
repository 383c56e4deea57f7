"""What ECC compares: the two images smoothed, the derivatives of one, and how far each pixel can be trusted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.scores.masks import eroded
from advjax.scores.warp import Frame

__all__ = ["REACH", "halved", "halved_mask", "prepare", "validity"]

_BLUR = 2
"""Reach of the blur: so many pixels from the border, or from a masked pixel, it is made of the picture alone."""
_DERIVATIVE, _INTERPOLATION = 1, 1
"""What reading the image reaches further than its blur."""
REACH = _BLUR + _DERIVATIVE + _INTERPOLATION
"""Rows and columns around a masked pixel on which nothing is aligned."""
_FLAT = 0.03
"""Standard deviation of a flat neighborhood, relative to the whole image's."""
_LEAST_OVERLAP = 0.5
"""Of the valid pixels of either image. A warp that shows less is no better alignment, however well that correlates."""


class Pixels(NamedTuple):
    """A pair as the iteration reads it, P pixels row by row. The last column is there if there are masks."""

    values: jax.Array  # [P, 4 or 5]: image, its X and Y derivatives, its flatness, its validity
    template: jax.Array  # [P, 2 or 3]: template, its flatness, its validity
    least_overlap: jax.Array  # pixels that a warp must show


def prepare(
    frame: Frame,
    blur: bool,
    image: jax.Array,
    template: jax.Array,
    image_mask: jax.Array | None,
    template_mask: jax.Array | None,
) -> Pixels:
    """Blurred and centered, with all that says how far a pixel can be trusted, from grey [H, W].

    Flatness, in [0, 1]: a flat border, as around a digit, goes on beyond the picture as its mirror does. Validity:
    0 where a mask has hidden a part of what the value is made of.
    """
    masked = image_mask is not None or template_mask is not None
    reach = _BLUR if blur else 0
    image, image_flat, image_valid = _smooth(image, image_mask, blur, reach + _DERIVATIVE + _INTERPOLATION)
    template, template_flat, template_valid = _smooth(template, template_mask, blur, reach)
    mirrored = jnp.pad(image, 1, mode="reflect")
    d_x = (mirrored[1:-1, 2:] - mirrored[1:-1, :-2]) * (frame.scale / 2)
    d_y = (mirrored[2:, 1:-1] - mirrored[:-2, 1:-1]) * (frame.scale / 2)
    whole = jnp.asarray(unmirrored(frame, blur), image.dtype).reshape(image.shape)
    shares = [
        (jnp.maximum(whole, flat) * valid).sum()
        for flat, valid in ((image_flat, image_valid), (template_flat, template_valid))
    ]
    values = jnp.stack([image, d_x, d_y, image_flat, *[image_valid] * masked], -1)
    compared = jnp.stack([template, template_flat, *[template_valid] * masked], -1)
    least_overlap = jnp.maximum(_LEAST_OVERLAP * jnp.minimum(*shares), 1)
    return Pixels(values.reshape(-1, values.shape[-1]), compared.reshape(-1, compared.shape[-1]), least_overlap)


def unmirrored(frame: Frame, blur: bool) -> np.ndarray:
    """bool [P], where the blur is made of the picture alone."""
    inside = np.full((frame.height, frame.width), not blur)
    inside[_BLUR:-_BLUR, _BLUR:-_BLUR] = True
    return inside.ravel()


def validity(
    frame: Frame, blur: bool, column: jax.Array, row: jax.Array, warped: jax.Array, template: jax.Array
) -> jax.Array:
    """Weight [P], in [0, 1], of a template's pixels that the warp finds at `column` and `row` of the image.

    A mirror moves what it shows, on a slope by 3/4 of a pixel at the very border, and every warp with it: where the
    blur of either mirrors, only what is flat in one of the two counts, which says where the picture is.
    """

    def well_inside(inset: int) -> jax.Array:
        return _fade(column, frame.width, inset) * _fade(row, frame.height, inset)

    flat = jnp.maximum(warped[:, 3], template[:, 1])
    whole = jnp.asarray(unmirrored(frame, blur), flat.dtype)
    valid = well_inside(0) * jnp.maximum(well_inside(_BLUR if blur else 0), flat) * jnp.maximum(whole, flat)
    return valid if template.shape[1] == 2 else valid * warped[:, 4] * template[:, 2]


def _fade(position: jax.Array, side: int, inset: int) -> jax.Array:
    """1 from `inset` pixels inside the image on, falling to 0 over one pixel outwards."""
    return jnp.clip(1 - inset + jnp.minimum(position, side - 1 - position), 0, 1)


def _smooth(image: jax.Array, mask: jax.Array | None, blur: bool, reach: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Blurred at zero mean, its flatness and its validity: `reach` pixels from a masked one nothing is valid."""
    if mask is None:
        image = image - image.mean()
        valid = jnp.ones_like(image)
    else:
        mean = jnp.where(mask, image, 0).sum() / jnp.maximum(mask.sum(dtype=image.dtype), 1)
        image = jnp.where(mask, image - mean, 0)
        valid = eroded(mask, reach).astype(image.dtype)
    if not blur:
        return image, jnp.ones_like(image), valid
    blurred = _blurred(image)
    variance = _blurred(jnp.square(image)) - jnp.square(blurred)
    flat = jnp.clip(1 - variance / (_FLAT**2 * jnp.square(blurred).mean() + 1e-12), 0, 1)
    return blurred, flat, valid


def _blurred(image: jax.Array) -> jax.Array:
    """OpenCV's 5 x 5 Gaussian, [1, 4, 6, 4, 1] / 16 each way, mirrored about the border pixel."""
    for axis, side in enumerate(image.shape):
        mirrored = jnp.pad(image, [(2, 2) if a == axis else (0, 0) for a in range(2)], mode="reflect")
        tap = [jax.lax.slice_in_dim(mirrored, k, k + side, axis=axis) for k in range(5)]
        image = (tap[0] + tap[4]) / 16 + (tap[1] + tap[3]) / 4 + tap[2] * 0.375
    return image


def halved(images: jax.Array) -> jax.Array:
    """Means of 2 x 2 blocks of [N, H, W]; an odd side repeats its last line."""
    return _blocks(images).mean((2, 4))


def halved_mask(masks: jax.Array | None) -> jax.Array | None:
    """Blocks without an invalid pixel."""
    return None if masks is None else _blocks(masks).all((2, 4))


def _blocks(images: jax.Array) -> jax.Array:
    _, height, width = images.shape
    even = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return even.reshape(-1, (height + 1) // 2, 2, (width + 1) // 2, 2)
