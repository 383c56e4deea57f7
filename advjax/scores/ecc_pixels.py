"""What ECC compares: the two images smoothed, the derivatives of one, and how far each pixel can be trusted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.scores.masks import eroded
from advjax.scores.warp import Frame

__all__ = ["REACH", "Pixels", "halved", "halved_mask", "prepare", "validity"]

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
    image, image_flat, image_valid = _smooth(frame, image, image_mask, blur, reach + _DERIVATIVE + _INTERPOLATION)
    template, template_flat, template_valid = _smooth(frame, template, template_mask, blur, reach)
    across, down = _mirrored(image, 1, 1, frame.columns), _mirrored(image, 1, 0, frame.rows)
    d_x = (across[:, 2:] - across[:, :-2]) * (frame.scale / 2)
    d_y = (down[2:] - down[:-2]) * (frame.scale / 2)
    whole = jnp.asarray(unmirrored(frame, blur), image.dtype).reshape(image.shape)
    shares = [
        (jnp.maximum(whole, flat) * valid).sum()
        for flat, valid in ((image_flat, image_valid), (template_flat, template_valid))
    ]
    values = jnp.stack([image, d_x, d_y, image_flat, *[image_valid] * masked], -1)
    compared = jnp.stack([template, template_flat, *[template_valid] * masked], -1)
    least_overlap = jnp.maximum(_LEAST_OVERLAP * jnp.minimum(*shares), 1)
    return Pixels(values.reshape(-1, values.shape[-1]), compared.reshape(-1, compared.shape[-1]), least_overlap)


def unmirrored(frame: Frame, blur: bool) -> np.ndarray | jax.Array:
    """bool [P], where the blur is made of the picture alone."""
    return frame.inside(_BLUR if blur else 0).ravel()


def validity(
    frame: Frame, blur: bool, column: jax.Array, row: jax.Array, warped: jax.Array, template: jax.Array
) -> jax.Array:
    """Weight [P], in [0, 1], of a template's pixels that the warp finds at `column` and `row` of the image.

    A mirror moves what it shows, on a slope by 3/4 of a pixel at the very border, and every warp with it: where the
    blur of either mirrors, only what is flat in one of the two counts, which says where the picture is.
    """

    def well_inside(inset: int) -> jax.Array:
        return _fade(column, frame.columns, inset) * _fade(row, frame.rows, inset)

    flat = jnp.maximum(warped[:, 3], template[:, 1])
    whole = jnp.asarray(unmirrored(frame, blur), flat.dtype)
    valid = well_inside(0) * jnp.maximum(well_inside(_BLUR if blur else 0), flat) * jnp.maximum(whole, flat)
    if not frame.filled:
        valid = jnp.where(frame.inside().ravel(), valid, 0)
    return valid if template.shape[1] == 2 else valid * warped[:, 4] * template[:, 2]


def _fade(position: jax.Array, side: int | jax.Array, inset: int) -> jax.Array:
    """1 from `inset` pixels inside the image on, falling to 0 over one pixel outwards."""
    last = jnp.asarray(side - 1, position.dtype)
    return jnp.clip(1 - inset + jnp.minimum(position, last - position), 0, 1)


def _smooth(
    frame: Frame, image: jax.Array, mask: jax.Array | None, blur: bool, reach: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Blurred at zero mean, its flatness and its validity: `reach` pixels from a masked one nothing is valid."""
    inside = frame.inside()
    if mask is None and not frame.filled:
        mask = jnp.asarray(inside)
    if mask is None:
        image = image - image.mean()
        valid = jnp.ones_like(image)
    else:
        mean = jnp.where(mask, image, 0).sum() / jnp.maximum(mask.sum(dtype=image.dtype), 1)
        image = jnp.where(mask, image - mean, 0)
        whole = eroded(mask if frame.filled else mask | ~inside, reach)  # The border is no mask.
        valid = (whole if frame.filled else whole & inside).astype(image.dtype)
    if not blur:
        return image, jnp.ones_like(image), valid
    blurred = _blurred(frame, image)
    variance = _blurred(frame, jnp.square(image)) - jnp.square(blurred)
    squared = jnp.square(blurred)
    power = squared.mean() if frame.filled else jnp.where(inside, squared, 0).sum() / inside.sum(dtype=image.dtype)
    return blurred, jnp.clip(1 - variance / (_FLAT**2 * power + 1e-12), 0, 1), valid


def _blurred(frame: Frame, image: jax.Array) -> jax.Array:
    """OpenCV's 5 x 5 Gaussian, [1, 4, 6, 4, 1] / 16 each way, mirrored about the border pixel."""
    for axis, (side, lines) in enumerate(zip(image.shape, (frame.rows, frame.columns), strict=True)):
        mirrored = _mirrored(image, 2, axis, lines)
        tap = [jax.lax.slice_in_dim(mirrored, k, k + side, axis=axis) for k in range(5)]
        image = (tap[0] + tap[4]) / 16 + (tap[1] + tap[3]) / 4 + tap[2] * 0.375
    return image


def _mirrored(image: jax.Array, reach: int, axis: int, lines: int | jax.Array) -> jax.Array:
    """`reach` lines more at both ends of an axis, mirrored about the first and the last of the picture's `lines`."""
    if isinstance(lines, int):
        return jnp.pad(image, [(reach, reach) if a == axis else (0, 0) for a in range(2)], mode="reflect")
    line = jnp.abs(jnp.arange(-reach, image.shape[axis] + reach, dtype=jnp.int32))
    return jnp.take(image, jnp.where(line < lines, line, 2 * (lines - 1) - line), axis, mode="clip")


def halved(frame: Frame, images: jax.Array) -> jax.Array:
    """Means of 2 x 2 blocks of [N, H, W]; an odd side of the picture repeats its last line."""
    return _blocks(frame, images).mean((2, 4))


def halved_mask(frame: Frame, masks: jax.Array | None) -> jax.Array | None:
    """Blocks without an invalid pixel."""
    return None if masks is None else _blocks(frame, masks).all((2, 4))


def _blocks(frame: Frame, images: jax.Array) -> jax.Array:
    height, width = (frame.height + 1) // 2, (frame.width + 1) // 2
    if isinstance(frame.rows, int):
        even = jnp.pad(images, ((0, 0), (0, frame.height % 2), (0, frame.width % 2)), mode="edge")
    else:
        y = jnp.minimum(jnp.arange(2 * height, dtype=jnp.int32)[None], frame.rows[:, None] - 1)
        x = jnp.minimum(jnp.arange(2 * width, dtype=jnp.int32)[None], jnp.asarray(frame.columns)[:, None] - 1)
        even = jax.vmap(lambda image, y, x: image[y[:, None], x[None]])(images, y, x)
    return even.reshape(-1, height, 2, width, 2)
