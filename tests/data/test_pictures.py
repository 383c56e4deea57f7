"""Every mode and depth that Pillow opens: read rightly, beside the values that were stored, or refused by name."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from advjax.data.crops import decode
from advjax.data.pictures import peek, read_picture

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 8), np.uint8)
COLOR = RNG.integers(0, 256, (6, 8, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 8), np.uint16)
DEEP_COLOR = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
FLOATS = RNG.random((6, 8), np.float32)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def tiff(values, bits, sample_format=1, photometric=None, planar=1):
    """A TIFF file by hand, for kinds that Pillow does not write: values in their own byte order, little-endian."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else 3
    if photometric is None:
        photometric = 1 if channels == 1 else 2
    planes = np.moveaxis(values, -1, 0) if planar == 2 else values[None]
    data = planes.tobytes()
    entries = [
        (256, width), (257, height), (258, [bits] * channels), (259, 1), (262, photometric), (273, None),
        (277, channels), (278, height), (279, [len(data) // len(planes)] * len(planes)), (284, planar),
        (339, [sample_format] * channels),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    extra, offsets = b"", None
    fields = []
    total_extra = sum(4 * len(v) for _, v in entries if isinstance(v, list) and len(v) > 1) + 4 * len(planes)
    offsets = [start + total_extra + i * (len(data) // len(planes)) for i in range(len(planes))]
    for tag, value in entries:
        items = offsets if tag == 273 else value if isinstance(value, list) else [value]
        if len(items) == 1:
            fields.append(struct.pack("<HHII", tag, 4, 1, items[0]))
        else:
            fields.append(struct.pack("<HHII", tag, 4, len(items), start + len(extra)))
            extra += struct.pack(f"<{len(items)}I", *items)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(fields) + bytes(4)
    return head + extra.ljust(total_extra, b"\0") + data


def rgb(picture):
    return np.asarray(picture.convert("RGB"))


def in_lab():
    smooth = np.linspace(60, 190, 6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return smooth, ImageCms.applyTransform(Image.fromarray(smooth), to_lab)


def ppm(values, white, magic=b"P6"):
    return magic + b" 8 6 %d\n" % white + values.astype(">u2").tobytes()


PALETTE = Image.fromarray(COLOR).quantize(16)
CMYK = Image.fromarray(COLOR).convert("CMYK")
YCBCR = Image.fromarray(COLOR).convert("YCbCr")
OPAQUE = np.full((6, 8, 1), 255, np.uint8)

READ = {
    "1": (encoded(Image.fromarray(GRAY > 99), "PNG"), (GRAY > 99) * 255, 255),
    "L": (encoded(Image.fromarray(GRAY), "PNG"), GRAY, 255),
    "L, WhiteIsZero": (tiff(GRAY, 8, photometric=0), 255 - GRAY, 255),
    "P": (encoded(PALETTE, "GIF"), rgb(PALETTE), 255),
    "RGB": (encoded(Image.fromarray(COLOR), "PNG"), COLOR, 255),
    "WebP": (encoded(Image.fromarray(COLOR), "WEBP", lossless=True), COLOR, 255),
    "16-bit BMP": (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 62, 0, 54, 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0) + b"\xff\x7f\0\0",
        np.array([[[255] * 3, [0] * 3]]),
        255,
    ),
    "opaque RGBA": (encoded(Image.fromarray(np.concatenate([COLOR, OPAQUE], -1)), "PNG"), COLOR, 255),
    "opaque LA": (encoded(Image.fromarray(GRAY).convert("LA"), "PNG"), GRAY, 255),
    "CMYK": (encoded(CMYK, "TIFF"), rgb(CMYK), 255),
    "YCbCr": (encoded(YCBCR, "TIFF"), rgb(YCBCR), 255),
    "I;16 PNG": (encoded(Image.fromarray(DEEP), "PNG"), DEEP, 65535),
    "I;16 TIFF": (encoded(Image.fromarray(DEEP), "TIFF"), DEEP, 65535),
    "I;16B TIFF": (encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"), DEEP, 65535),
    "I;16 TIFF, WhiteIsZero": (tiff(DEEP, 16, photometric=0), 65535 - DEEP, 65535),
    "I;16 JPEG 2000": (encoded(Image.fromarray(DEEP), "JPEG2000"), DEEP, 65535),
    "I PGM": (ppm(DEEP, 65535, b"P5"), DEEP, 65535),
    "I PGM of 12 bits": (ppm(DEEP // 16, 4095, b"P5"), np.rint(DEEP // 16 / 4095 * 65535), 65535),
    "RGB PPM of 16 bits": (ppm(DEEP_COLOR, 65535), DEEP_COLOR, 65535),
    "RGB PPM of 12 bits": (ppm(DEEP_COLOR // 16, 4095), DEEP_COLOR // 16, 4095),
    "F TIFF": (encoded(Image.fromarray(FLOATS), "TIFF"), FLOATS, 1),
    "F TIFF, WhiteIsZero": (tiff(FLOATS, 32, 3, photometric=0), 1 - FLOATS, 1),
    "F PFM": (encoded(Image.fromarray(FLOATS), "PPM"), FLOATS, 1),
}


@pytest.mark.parametrize("kind", READ)
def test_pixels_are_those_stored(kind):
    content, expected, white = READ[kind]
    picture = read_picture(content)
    pixels = picture.pixels if expected.ndim == 3 else picture.pixels[..., 0]
    np.testing.assert_array_equal(pixels, expected)
    assert (picture.white, picture.cut, picture.transparent, picture.several) == (white, False, False, False)
    assert peek(content) == picture.pixels.shape
    # Training gets 8 bits of it: the nearest level.
    eight = decode(content, "picture")
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert (eight.dtype, eight.shape) == (np.uint8, (*expected.shape[:2], 3))
    assert np.abs(eight - expected * (255 / white)).max() <= 0.5 + 1e-4


def test_a_gray_ramp_of_16_bits_is_no_white_field():
    ramp = np.linspace(0, 57200, 48).reshape(6, 8).astype(np.uint16)
    found = decode(encoded(Image.fromarray(ramp), "PNG"), "ramp")
    assert found.mean() == pytest.approx(111.3, abs=0.1)
    black = decode(encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"), "ramp")
    np.testing.assert_array_equal(black, found)


def test_lab_is_color():
    smooth, lab = in_lab()
    picture = read_picture(encoded(lab, "TIFF"))
    assert picture.mode == "LAB"
    assert np.abs(picture.pixels.astype(int) - smooth).max() <= 4


def sgi(values):
    planes = np.moveaxis(values, -1, 0)[:, ::-1].astype(">u2")
    return struct.pack(">HBBHHHH", 474, 0, 2, 3, 8, 6, 3).ljust(512, b"\0") + planes.tobytes()


def deep_png():
    import cv2  # which Pillow's own writer cannot do

    return cv2.imencode(".png", DEEP_COLOR[..., ::-1])[1].tobytes()


def deep_avif():
    import cv2

    pixels = np.full((16, 16, 3), 500, np.uint16)
    return cv2.imencode(".avif", pixels, [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (deep_png, True),
        (lambda: tiff(DEEP_COLOR, 16), True),
        (lambda: sgi(DEEP_COLOR), True),
        (lambda: b"P3 8 6 65535\n" + b" ".join(b"%d" % v for v in DEEP_COLOR.ravel()) + b"\n", False),
        (deep_avif, None),
    ],
    ids=["PNG", "TIFF", "SGI", "plain PPM", "AVIF"],
)
def test_color_that_pillow_cuts_is_known_as_cut(make, exact):
    picture = read_picture(make())
    assert (picture.cut, picture.mode, picture.white) == (True, "RGB;16", 255)
    if exact is not None:
        assert np.abs(picture.pixels - DEEP_COLOR / 257).max() <= (1 if exact else 0.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "signed 32-bit integers (mode I)"),
        (tiff(DEEP.astype(np.uint32), 32), "32-bit integers (mode I)"),
        (tiff(DEEP.astype(np.int16), 16, 2), "signed 16-bit integers"),
        (tiff(GRAY.astype(np.int8), 8, 2), "signed 8-bit integers (mode L)"),
        (tiff(GRAY[:, :6], 12), "12 bits a channel (mode I;16)"),
        (tiff(DEEP_COLOR, 16, planar=2), "16-bit color in separate planes"),
        (encoded(Image.fromarray(255 * FLOATS), "TIFF"), "floats (mode F) in ["),
        (encoded(Image.fromarray(FLOATS - np.float32(0.5)), "TIFF"), "floats (mode F) in [-0."),
        (encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "floats (mode F) in [nan"),
        (encoded(Image.fromarray(COLOR), "ICO", sizes=[(8, 6)]), "is a ICO file"),
    ],
)
def test_what_has_no_right_reading_is_refused_by_name(content, words):
    for read in (lambda: read_picture(content, "a.tif"), lambda: decode(content, "a.tif")):
        with pytest.raises(ValueError, match=r"a\.tif (holds|has|is)") as refused:
            read()
        assert words in str(refused.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind, orientation):
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)  # red in the upper left corner, green beside it
    upright[:8, 8:] = (0, 255, 0)
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif)
    picture = read_picture(content)
    assert picture.orientation == orientation
    assert picture.pixels.shape == peek(content) == upright.shape
    assert np.abs(picture.pixels.astype(int) - upright)[2:6, 2:6].max() < 32
    assert np.abs(picture.pixels.astype(int) - upright)[2:6, 10:14].max() < 32


def test_16_bit_gray_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read_picture(encoded(Image.fromarray(np.rot90(DEEP)), "PNG", exif=exif))
    np.testing.assert_array_equal(picture.pixels[..., 0], DEEP)


def test_damaged_metadata_does_not_cost_the_picture():
    whole = encoded(Image.fromarray(COLOR), "JPEG", quality=95, exif=b"Exif\0\0no TIFF header at all")
    assert read_picture(whole).orientation == 1


def with_alpha(alpha):
    return Image.fromarray(np.concatenate([COLOR, np.full((6, 8, 1), alpha, np.uint8)], -1))


@pytest.mark.parametrize(
    ("content", "transparent"),
    [
        (encoded(with_alpha(255), "PNG"), False),
        (encoded(with_alpha(254), "PNG"), True),
        (encoded(PALETTE, "PNG", transparency=b"\xff\x80"), True),
        (encoded(Image.fromarray(GRAY), "PNG", transparency=int(GRAY[0, 0])), True),
        (encoded(Image.fromarray(DEEP), "PNG", transparency=int(DEEP[0, 0])), True),
        (encoded(Image.fromarray(np.zeros_like(GRAY)), "PNG", transparency=1), False),
    ],
)
def test_transparent_pixels_are_known_and_keep_their_color(content, transparent):
    picture = read_picture(content)
    assert picture.transparent == transparent
    if picture.pixels.shape[-1] == 3:
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGBA"))[..., :3])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_pictures_is_taken_and_said(kind):
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    content = encoded(first, kind, save_all=True, append_images=[second])
    assert read_picture(content).several
    with pytest.warns(UserWarning, match="several pictures"):
        pixels = decode(content, "film")
    assert np.abs(pixels.astype(int) - [200, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "JPEG"])
def test_every_damage_is_one_error_with_the_name(kind):
    whole = encoded(Image.fromarray(COLOR), kind)
    rng = np.random.default_rng(1)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 1 << 30, 1 << 30, 8, 2, 0, 0, 0)
    bomb += b"\xf7\xb0\x13\x1c"  # not the checksum
    damaged = [b"", whole[: len(whole) // 2], bomb]
    for _ in range(40):
        content = bytearray(whole)
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
        damaged.append(bytes(content))
    errors = [error_of(content) for content in damaged]
    assert all(error is None or error.startswith("folder/7.png ") for error in errors)
    assert None not in errors[:3]


def error_of(content):
    try:
        read_picture(content, "folder/7.png")
    except ValueError as error:
        return str(error)
    return None


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.png does not exist"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        peek(tmp_path)
