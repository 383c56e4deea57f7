"""Picture files to pixels, upright: every mode and depth that Pillow opens is read rightly or refused by its name.

Pillow cuts 16-bit color to 8 bits, shows 16-bit gray as white when it is asked for RGB, and takes only the first of
several pictures in a file, all in silence. Here the file's header is looked at before. Pillow is imported by the first
call.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

__all__ = ["Picture", "peek", "read_picture"]

_ORIENTATION = 0x0112  # EXIF and TIFF have one number for it
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF
_WHITE_IS_ZERO, _SEPARATE_PLANES, _SIGNED = 0, 2, 2
_GRAY = ("1", "L", "LA", "La", "F")
_COLOR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
# What Pillow opens beside these has a depth that it does not tell (FITS, DDS), needs other programs, or is no picture.
_FORMATS: tuple[str, ...] = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD", "QOI")
_FORMATS += ("SGI", "TGA", "TIFF", "WEBP")

_Found = TypeVar("_Found")


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """The pixels of a picture file and what it was.

    Attributes:
        pixels: [H, W, C], upright, C = 1 (gray) or 3 (red, green, blue); uint8, uint16, or float32 in [0, 1].
        white: the value of white in `pixels`: 255, 65535 or 1; of 12-bit JPEG 2000 the largest that there is.
        mode: the mode of the file in Pillow's words, such as "RGB", "P" or "I;16".
        orientation: the EXIF orientation that the file had, 1 to 8; above 1 the pixels were turned or mirrored.
        cut: whether the file has 16-bit color of which Pillow gives only the upper 8 bits.
        transparent: whether some pixel is not opaque; `pixels` holds the color stored below, as it is.
        several: whether the file holds more pictures (animations, pages); this is the first.
    """

    pixels: np.ndarray
    white: int
    mode: str
    orientation: int = 1
    cut: bool = False
    transparent: bool = False
    several: bool = False

    def rgb8(self) -> np.ndarray:
        """The pixels as uint8 [H, W, 3], white 255, rounded to the nearest level: 16-bit gray is value * 255 / 65535.

        >>> Picture(np.full((1, 1, 1), 32768, np.uint16), 65535, "I;16").rgb8().tolist()
        [[[128, 128, 128]]]
        """
        pixels = self.pixels
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels * (255 / self.white)).astype(np.uint8)
        return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


class _Refused(ValueError):
    """A whole picture of a kind that has no right reading here."""


def read_picture(source: bytes | str | os.PathLike[str], name: str | None = None) -> Picture:
    """The first picture of a file, turned upright by its EXIF orientation.

    Gray files (modes 1, L, LA, I;16, F) have one channel, palettes, CMYK, YCbCr, LAB and HSV become RGB. 16-bit gray
    PNG, PGM and TIFF and 16-bit PPM files keep their depth; float TIFF and PFM files are taken to be in [0, 1].
    Color profiles are not applied.

    Args:
        source: the file, or its content.
        name: what errors call it; by default the path.

    Raises:
        ValueError: the file does not exist, is no whole picture, or is of a kind whose right values cannot be told:
            32-bit and signed integers, floats outside [0, 1], 12-bit gray TIFF, 16-bit color TIFF in separate planes.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 40000]], np.uint16)).save(file, "PNG")
    >>> picture = read_picture(file.getvalue(), "deep.png")
    >>> picture.pixels.ravel().tolist(), picture.white, picture.mode
    ([0, 40000], 65535, 'I;16')
    """
    content, name = _content(source, name)
    return _opened(content, name, _read)


def peek(source: bytes | str | os.PathLike[str], name: str | None = None) -> tuple[int, int, int]:
    """Height, width and channels that `read_picture` would give, from the file's header alone.

    Raises:
        ValueError: the file does not exist, or its header is that of no picture which `read_picture` reads.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("P", (30, 20)).save(file, "PNG")
    >>> peek(file.getvalue(), "palette.png")
    (20, 30, 3)
    """
    content, name = _content(source, name)
    return _opened(content, name, _shape)


def _content(source: bytes | str | os.PathLike[str], name: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "the picture"
    name = name or os.fspath(source)
    try:
        return pathlib.Path(source).read_bytes(), name
    except FileNotFoundError as error:
        raise ValueError(f"{name} does not exist") from error
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error


def _opened(content: bytes, name: str, use: Callable[[Any, bytes], _Found]) -> _Found:
    """`use(image, content)` of the opened image; every error becomes a ValueError with the file's name."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format not in _FORMATS:
                raise _Refused(f"is a {image.format} file; those that are read are {', '.join(_FORMATS)}")
            return use(image, content)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no readable image: cannot identify it as one") from error
    except _Refused as error:
        raise ValueError(f"{name} {error}") from error
    except Exception as error:
        # What Pillow raises for a damaged file depends on the format and on where the damage is: SyntaxError,
        # struct.error, EOFError, DecompressionBombError, ...
        raise ValueError(f"{name} is no readable image: {error or type(error).__name__}") from error


def _shape(image: Any, content: bytes) -> tuple[int, int, int]:
    width, height = image.size
    # Of a TIFF file Pillow gives the size after turning, of all others before.
    if image.format != "TIFF" and _orientation(image, content) >= 5:
        width, height = height, width
    gray = image.mode in _GRAY or image.mode.startswith("I")
    return height, width, 1 if gray else 3


def _read(image: Any, content: bytes) -> Picture:
    mode, several = image.mode, bool(getattr(image, "is_animated", False))
    white, cut = _depth(image, content)
    if cut and image.format == "PPM" and image.tile[0].codec_name == "ppm":
        return _deep_ppm(image, content)
    inverted = image.format == "TIFF" and mode[0] in "IF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    orientation = _orientation(image, content)
    if orientation > 1:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
    pixels, transparent = _pixels(image)
    if mode == "F" and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise _Refused(f"holds floats (mode F) in [{pixels.min():g}, {pixels.max():g}]; expected [0, 1]")
    pixels = white - pixels if inverted else pixels
    return Picture(pixels, white, f"{mode};16" if cut else mode, orientation, cut, transparent, several)


def _orientation(image: Any, content: bytes) -> int:
    # Pillow decodes a PNG file to its end to look for them.
    if image.format == "PNG" and not any(key in content for key in _PNG_ORIENTATION):
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1  # damaged metadata of any kind: the pixels are whole
    return found if found in range(1, 9) else 1


def _depth(image: Any, content: bytes) -> tuple[int, bool]:
    """The value of white, and whether Pillow cuts the file's 16 bits to 8."""
    mode, bits = image.mode, _bits(image, content)
    if mode not in _GRAY + _COLOR and not mode.startswith("I"):
        raise _Refused(f"has mode {mode}, which is not read")
    if image.format == "TIFF":
        _check_tiff(image, bits)
    if mode == "F":
        return 1, False
    if not mode.startswith("I"):
        return 255, bits > 8
    if bits > 16:
        raise _Refused(f"holds {bits}-bit integers (mode {mode}), whose white is unknown")
    if image.format == "JPEG2000":
        return ((1 << bits) - 1) << (16 - bits), False  # Pillow shifts them up
    return 65535, False


def _check_tiff(image: Any, bits: int) -> None:
    if _SIGNED in np.ravel(image.tag_v2.get(_SAMPLE_FORMAT, 1)):
        raise _Refused(f"holds signed {bits}-bit integers (mode {image.mode}), whose white is unknown")
    if 8 < bits < 16:
        raise _Refused(f"has {bits} bits a channel (mode {image.mode}); of TIFF files 8 and 16 are read")
    if bits > 8 and image.tag_v2.get(_PLANAR) == _SEPARATE_PLANES:
        raise _Refused(f"holds {bits}-bit color in separate planes (mode {image.mode}), which Pillow misreads")


def _bits(image: Any, content: bytes) -> int:
    """Bits a channel by the file's header, 8 for all up to 8."""
    if image.format == "TIFF":
        return max(8, *np.ravel(image.tag_v2.get(_BITS, 1)).tolist())
    if image.format == "JPEG2000":
        size = content.index(b"\xff\x4f\xff\x51") + 40
        channels = int.from_bytes(content[size : size + 2])
        return max(8, *((depth & 0x7F) + 1 for depth in content[size + 2 : size + 2 + 3 * channels : 3]))
    if image.format == "AVIF":
        flags = content[content.index(b"av1C") + 6]
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    if image.format not in ("PNG", "PPM", "SGI"):
        return 8
    # What the decoder is told: PPM's value of white, or the layout of a pixel.
    codec, told = image.tile[0].codec_name, image.tile[0].args
    deep_ppm = isinstance(told, tuple) and codec.startswith("ppm") and told[-1] > 255
    return 16 if deep_ppm or codec == "SGI16" or ";16" in str(told) else 8


def _deep_ppm(image: Any, content: bytes) -> Picture:
    """A binary 16-bit PPM file: the one deep color that is as easily read without Pillow."""
    (width, height), tile = image.size, image.tile[0]
    white = tile.args[-1]
    values = np.frombuffer(content, ">u2", width * height * 3, tile.offset)
    return Picture(np.minimum(values.astype(np.uint16), white).reshape(height, width, 3), white, "RGB;16")


def _pixels(image: Any) -> tuple[np.ndarray, bool]:
    """Gray or RGB pixels [H, W, 1 or 3], and whether some are transparent."""
    mode = image.mode
    if mode.startswith("I"):
        pixels = np.asarray(image).astype(np.uint16)
        return pixels[..., None], bool((pixels == image.info.get("transparency", -1)).any())
    if mode == "F":
        return np.asarray(image)[..., None], False
    gray = mode in _GRAY
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("LA" if gray else "RGBA"))
        return pixels[..., :-1], bool(pixels[..., -1].min() < 255)
    pixels = np.asarray(image.convert("L" if gray else "RGB"))
    return (pixels[..., None] if gray else pixels), False
