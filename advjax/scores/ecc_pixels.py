"""What ECC compares: the two images smoothed, the derivatives of one, and how far each pixel can be trusted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

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
    """A pair as the iteration reads it, P pixels row by row. The validities are there if there are masks."""

    values: jax.Array  # [P, 3 or 4]: image, its X and Y derivatives, its validity
    template: jax.Array  # [2 or 3, P]: template, its flatness, its validity
    least_overlap: jax.Array  # pixels that a warp must show


def prepare(
    frame: Frame,
    blur: bool,
    image: jax.Array,
    template: jax.Array,
    image_mask: jax.Array | None,
    template_mask: jax.Array | None,
) -> Pixels:
    """Blurred and centered, with all that says how far a pixel can be trusted, from gray [H, W].

    Flatness, in [0, 1]: a flat border, as around a digit, goes on beyond the picture as its mirror does. Validity:
    0 where a mask has hidden a part of what the value is made of.
    """
    image, template = _centered(frame, image, image_mask), _centered(frame, template, template_mask)
    flat = jnp.ones_like(template)
    if blur:
        image, template, squares = _blurred(frame, jnp.stack([image, template, jnp.square(template)]))
        variance = squares - jnp.square(template)
        flat = jnp.clip(1 - variance / (_FLAT**2 * _mean(frame, jnp.square(template)) + 1e-12), 0, 1)
    across, down = _mirrored(image, 1, 1, frame.columns), _mirrored(image, 1, 0, frame.rows)
    d_x = (across[:, 2:] - across[:, :-2]) * (frame.scale / 2)
    d_y = (down[2:] - down[:-2]) * (frame.scale / 2)
    values, compared = [image, d_x, d_y], [template, flat]
    counted = jnp.maximum(flat, jnp.asarray(frame.inside(_BLUR), flat.dtype))
    shared = (counted if frame.filled else jnp.where(frame.inside(), counted, 0)).sum()
    if image_mask is not None or template_mask is not None:
        reach = _BLUR if blur else 0
        values.append(_valid(frame, image_mask, image, reach + _DERIVATIVE + _INTERPOLATION))
        compared.append(_valid(frame, template_mask, template, reach))
        shared = jnp.minimum(shared, jnp.minimum(values[-1].sum(), compared[-1].sum()))
    return Pixels(
        jnp.stack(values, -1).reshape(-1, len(values)),
        jnp.stack(compared).reshape(len(compared), -1),
        jnp.maximum(_LEAST_OVERLAP * shared, 1),
    )


def validity(frame: Frame, column: jax.Array, row: jax.Array, warped: jax.Array, template: jax.Array) -> jax.Array:
    """Weight [P], in [0, 1], of the template's pixels, which the warp finds at `column` and `row` of the image.

    A mirror moves what it shows, on a slope by 3/4 of a pixel at the very border, and every warp with it: where the
    blur of either image mirrors, a pixel counts only if the template is flat, and says where the picture is. Fades
    over one pixel.
    """
    last_column, last_row = (jnp.asarray(lines - 1, column.dtype) for lines in (frame.columns, frame.rows))
    inside = jnp.minimum(jnp.minimum(column, last_column - column), jnp.minimum(row, last_row - row))
    whole = jnp.clip(1 - _BLUR + inside, 0, 1) * jnp.asarray(frame.inside(_BLUR).ravel(), inside.dtype)
    valid = jnp.maximum(whole, jnp.clip(1 + inside, 0, 1) * template[1])
    if not frame.filled:
        valid = jnp.where(frame.inside().ravel(), valid, 0)
    return valid if len(template) == 2 else valid * warped[:, 3] * template[2]


def _mean(frame: Frame, image: jax.Array) -> jax.Array:
    if frame.filled:
        return image.mean()
    inside = frame.inside()
    return jnp.where(inside, image, 0).sum() / inside.sum(dtype=image.dtype)


def _centered(frame: Frame, image: jax.Array, mask: jax.Array | None) -> jax.Array:
    """At zero mean, and 0 where it is masked or beyond the picture."""
    if mask is None:
        if frame.filled:
            return image - image.mean()
        mask = jnp.asarray(frame.inside())
    mean = jnp.where(mask, image, 0).sum() / jnp.maximum(mask.sum(dtype=image.dtype), 1)
    return jnp.where(mask, image - mean, 0)


def _valid(frame: Frame, mask: jax.Array | None, image: jax.Array, reach: int) -> jax.Array:
    """1 more than `reach` pixels from what is masked; the border is no mask."""
    if mask is None:
        return jnp.asarray(frame.inside(), image.dtype)
    inside = frame.inside()
    whole = eroded(mask if frame.filled else mask | ~inside, reach)
    return (whole if frame.filled else whole & inside).astype(image.dtype)


def _blurred(frame: Frame, images: jax.Array) -> jax.Array:
    """OpenCV's 5 x 5 Gaussian of [N, H, W], [1, 4, 6, 4, 1] / 16 each way, mirrored about the border pixel."""
    for axis, lines in ((1, frame.rows), (2, frame.columns)):
        side = images.shape[axis]
        mirrored = _mirrored(images, 2, axis, lines)
        tap = [jax.lax.slice_in_dim(mirrored, k, k + side, axis=axis) for k in range(5)]
        images = (tap[0] + tap[4]) / 16 + (tap[1] + tap[3]) / 4 + tap[2] * 0.375
    return images


def _mirrored(image: jax.Array, reach: int, axis: int, lines: int | jax.Array) -> jax.Array:
    """`reach` lines more at both ends of an axis, mirrored about the first and the last of the picture's `lines`."""
    if isinstance(lines, int):
        return jnp.pad(image, [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)], mode="reflect")
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
