"""JPEG, there and back: what libjpeg makes of an image at a quality, in whole numbers, so that it is the same."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.transforms import to_float
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.settings import check_channels
from advjax.value import static, value

__all__ = ["Jpeg", "quantization"]

# The standard's tables for luminance and color (ITU-T T.81, Annex K), of quality 50.
_LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_COLOR = np.full((8, 8), 99)
_COLOR[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# The cosine transform, sqrt(8) times orthogonal, with 13 bits behind the point: the constants of libjpeg's accurate
# integer transform multiplied out, which are not everywhere nearest to the cosines.
_LEFT = np.array([
    [8192, 8192, 8192, 8192],
    [11363, 9633, 6437, 2260],
    [10703, 4433, -4433, -10703],
    [9633, -2259, -11362, -6436],
    [8192, -8192, -8192, 8192],
    [6437, -11362, 2261, 9633],
    [4433, -10704, 10704, -4433],
    [2260, -6436, 9633, -11363],
], np.int32)  # fmt: skip
_COSINES = np.concatenate([_LEFT, _LEFT[:, ::-1] * np.array([[1], [-1]] * 4, np.int32)], 1)


@value
class Jpeg(Disturbance):
    """The image saved as a JPEG file of a quality, with Pillow's settings, and read again.

    To luminance and two colors, these at half the height and width; in blocks of 8x8 the cosine transform, divided by
    a table of the quality and rounded; and back, the colors interpolated. All in the whole numbers of libjpeg (its
    "islow" transform and "fancy" upsampling, which Pillow uses), so that the result is the one of the file. The coding
    in between loses nothing and is left out. Images are rounded to k/255 first. Gray images have luminance alone.

    Attributes:
        quality: 1 to 100.

    It draws nothing. Source: Hendrycks and Dietterich 2019; libjpeg.

    >>> gray = jnp.full((16, 16, 3), 102 / 255)
    >>> (Jpeg(10).apply(gray, ()) * 255).round()[0, 0].tolist()
    [98.0, 98.0, 98.0]
    """

    quality: int = static()

    def __post_init__(self) -> None:
        if not isinstance(self.quality, int) or isinstance(self.quality, bool) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be an integer from 1 to 100, got {self.quality!r}")

    def apply(self, image: jax.Array, draw: tuple[()]) -> jax.Array:
        """The image [H, W, C] after coding, its values k/255."""
        check_channels(image)
        luminance, color = quantization(self.quality)
        levels = jnp.round(image * 255.0).astype(jnp.int32)
        if image.shape[-1] == 1:
            levels = _coded(levels[..., 0], luminance)[..., None]
        else:
            planes = _to_ycc(levels)
            doubled = [_doubled(_coded(_halved(plane), color), plane.shape) for plane in planes[1:]]
            levels = _to_rgb(_coded(planes[0], luminance), *doubled)
        return to_float(levels.astype(jnp.uint8))


def quantization(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """What libjpeg divides the coefficients of luminance and color by at a quality, int32 [8, 8] each.

    >>> [table[0, :3].tolist() for table in quantization(25)]
    [[32, 22, 20], [34, 36, 48]]
    """
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = (np.clip((table * percent + 50) // 100, 1, 255) for table in (_LUMINANCE, _COLOR))
    luminance, color = (table.astype(np.int32) for table in tables)
    return luminance, color


def _to_ycc(rgb: jax.Array) -> list[jax.Array]:
    """Luminance, blue and red difference [H, W] of levels [H, W, 3]; 16 bits behind the point, color rounds down."""
    red, green, blue = jnp.moveaxis(rgb, -1, 0)
    shift, half = 128 << 16, 1 << 15
    return [
        (19595 * red + 38470 * green + 7471 * blue + half) >> 16,
        (-11059 * red - 21709 * green + 32768 * blue + shift + half - 1) >> 16,
        (32768 * red - 27439 * green - 5329 * blue + shift + half - 1) >> 16,
    ]


def _to_rgb(luminance: jax.Array, blue: jax.Array, red: jax.Array) -> jax.Array:
    blue, red, half = blue - 128, red - 128, 1 << 15
    channels = [
        luminance + ((91881 * red + half) >> 16),
        luminance + ((-22554 * blue - 46802 * red + half) >> 16),
        luminance + ((116130 * blue + half) >> 16),
    ]
    return jnp.clip(jnp.stack(channels, -1), 0, 255)


def _halved(plane: jax.Array) -> jax.Array:
    """Means of 2x2; halves go down and up in turn. The width is filled up to whole blocks, the height to be even."""
    height, width = plane.shape
    plane = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), "edge")
    total = plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).sum((1, 3))
    return (total + 1 + jnp.arange(total.shape[1])[None] % 2) >> 2


def _doubled(plane: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The plane at twice the height and width, cut to `shape`: 3/4 of the near pixel, 1/4 of the far one, each way."""
    height, width = shape
    plane = plane[: (height + 1) // 2, : (width + 1) // 2]
    if plane.shape[1] <= 2:  # libjpeg's rule
        return jnp.repeat(jnp.repeat(plane, 2, 0), 2, 1)[:height, :width]
    above, below = (jnp.pad(plane, around, "edge") for around in (((1, 0), (0, 0)), ((0, 1), (0, 0))))
    rows = jnp.stack([3 * plane + above[:-1], 3 * plane + below[1:]], 1).reshape(-1, plane.shape[1])
    left, right = (jnp.pad(rows, around, "edge") for around in (((0, 0), (1, 0)), ((0, 0), (0, 1))))
    both = jnp.stack([(3 * rows + left[:, :-1] + 8) >> 4, (3 * rows + right[:, 1:] + 7) >> 4], 2)
    return both.reshape(rows.shape[0], -1)[:height, :width]


def _coded(plane: jax.Array, table: np.ndarray) -> jax.Array:
    """The plane [H, W] after transform, rounding to multiples of the table, and transform back."""
    height, width = plane.shape
    table, cosines = table[None, None], jnp.asarray(_COSINES)
    filled = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), "edge")
    rows, columns = (length // 8 for length in filled.shape)
    blocks = filled.reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128
    coefficients = _scaled(cosines @ _scaled(blocks @ cosines.T, 11), 15)
    size = jnp.abs(coefficients)
    # The transform is 8 times the standard's.
    rounded = jnp.sign(coefficients) * ((size + 4 * table) // (8 * table))
    back = _scaled(_scaled(cosines.T @ (rounded * table), 11) @ cosines, 18)
    pixels = jnp.clip(back + 128, 0, 255).swapaxes(1, 2).reshape(filled.shape)
    return pixels[:height, :width]


def _scaled(total: jax.Array, bits: int) -> jax.Array:
    return (total + (1 << (bits - 1))) >> bits
