"""The common corruptions on their own draws against what the published code calls: OpenCV, scikit-image, Pillow."""

import io
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import color

from advjax.data import to_float, to_uint8
from advjax.disturb import (
    CORRUPTIONS,
    Brightness,
    Contrast,
    DefocusBlur,
    GaussianNoise,
    ImpulseNoise,
    Jpeg,
    MotionBlur,
    Pixelate,
    ShotNoise,
    corruption,
)
from advjax.disturb.blur import disk

KEY = jax.random.key(0)


def drawn_and_applied(disturbance, image):
    """The draw for an image and what becomes of it, on the host, by one program."""
    both = jax.jit(lambda d, x: (draw := d.draw(KEY, x), d.apply(x, draw)))
    return jax.device_get(both(disturbance, image))


@pytest.fixture
def image(rng):
    """A smooth part, a noisy part, gray, black and white pixels; on the grid."""
    pixels = rng.integers(0, 256, (24, 20, 3), np.uint8)
    pixels[:12] = cv2.resize(pixels[:4, :4], (20, 12))
    pixels[12, :, 1:] = pixels[12, :, :1]
    pixels[13], pixels[14] = 0, 255
    return np.asarray(to_float(pixels))


@pytest.mark.parametrize(
    ("name", "first", "last", "small_first", "small_last"),
    [
        ("gaussian_noise", GaussianNoise(0.08), GaussianNoise(0.38), GaussianNoise(0.04), GaussianNoise(0.1)),
        ("shot_noise", ShotNoise(60), ShotNoise(3), ShotNoise(500), ShotNoise(50)),
        ("impulse_noise", ImpulseNoise(0.03), ImpulseNoise(0.27), ImpulseNoise(0.01), ImpulseNoise(0.07)),
        ("defocus_blur", DefocusBlur(3, 0.1), DefocusBlur(10, 0.5), DefocusBlur(0.3, 0.4), DefocusBlur(1.5, 0.1)),
        ("motion_blur", MotionBlur(10, 3), MotionBlur(20, 15), MotionBlur(6, 1), MotionBlur(9, 2.5)),
        ("brightness", Brightness(0.1), Brightness(0.5), Brightness(0.05), Brightness(0.3)),
        ("contrast", Contrast(0.4), Contrast(0.05), Contrast(0.75), Contrast(0.15)),
        ("pixelate", Pixelate(0.6), Pixelate(0.25), Pixelate(0.95), Pixelate(0.65)),
        ("jpeg", Jpeg(25), Jpeg(7), Jpeg(80), Jpeg(40)),
    ],
)
def test_the_severities_are_the_published_ones(name, first, last, small_first, small_last):
    assert (corruption(name, 1), corruption(name, 5)) == (first, last)
    assert (corruption(name, 1, "cifar"), corruption(name, 5, "cifar")) == (small_first, small_last)
    assert len({corruption(name, severity) for severity in range(1, 6)}) in (1, 4, 5)  # two share a radius


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_a_batch_and_stays_in_the_box(name, image):
    images = jnp.stack([image[:16, :16], image[8:, 4:]])
    result = corruption(name, 3, "cifar")(KEY, images)
    assert result.shape == images.shape
    assert result.dtype == jnp.float32
    assert bool((result >= 0).all() & (result <= 1).all())
    assert float(jnp.abs(result - images).mean()) > 0.003


def test_gaussian_noise(image):
    draw, result = drawn_and_applied(GaussianNoise(0.2), image)
    np.testing.assert_allclose(result, np.clip(image + 0.2 * draw, 0, 1), atol=1e-6)
    assert abs(draw.mean()) < 4 / math.sqrt(draw.size)
    assert abs(draw.var() - 1) < 4 * math.sqrt(2 / draw.size)


@pytest.mark.parametrize("photons", [3.0, 500.0])
def test_shot_noise_is_of_a_poisson_law(photons):
    """Rates around 1 and around 250, for which the generator has two ways; mean and variance are the rate."""
    rate = photons * 0.5
    draw, result = drawn_and_applied(ShotNoise(photons), np.full((40, 40, 3), 0.5, np.float32))
    np.testing.assert_allclose(result, np.clip(draw / photons, 0, 1), atol=1e-6)
    assert (draw == np.round(draw)).all()
    assert abs(draw.mean() - rate) < 4 * math.sqrt(rate / draw.size)
    assert abs(draw.var() / rate - 1) < 4 * math.sqrt((2 + 1 / rate) / draw.size)


def test_black_has_no_shot_noise():
    assert not ShotNoise(3.0)(KEY, jnp.zeros((1, 4, 4, 3))).any()


def test_impulse_noise(image):
    draw, result = drawn_and_applied(ImpulseNoise(0.2), image)
    np.testing.assert_array_equal(result, np.where(draw.hit, draw.white, image))
    size = draw.hit.size
    assert abs(draw.hit.mean() - 0.2) < 4 * math.sqrt(0.16 / size)
    assert abs(draw.white.mean() - 0.5) < 4 * math.sqrt(0.25 / size)
    assert abs(draw.white[draw.hit].mean() - 0.5) < 4 * math.sqrt(0.25 / draw.hit.sum())


RADII = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]


def opencv_disk(radius, softening):
    half, taps = (8, 3) if radius <= 8 else (radius, 5)
    across = np.arange(-half, half + 1) ** 2
    weights = (across[:, None] + across <= radius**2).astype(np.float32)
    return cv2.GaussianBlur(weights / weights.sum(), (taps, taps), sigmaX=softening)


@pytest.mark.parametrize(("radius", "softening"), RADII)
def test_the_disk_is_that_of_opencv(radius, softening):
    ours, whole = disk(radius, softening), opencv_disk(radius, softening)
    rest = (len(whole) - len(ours)) // 2
    np.testing.assert_allclose(np.pad(ours, rest), whole, atol=1e-7)


@pytest.mark.parametrize(("radius", "softening"), [(10, 0.5), (1, 0.2)])
def test_defocus_blur(image, radius, softening):
    expected = cv2.filter2D(image.astype(np.float64), -1, opencv_disk(radius, softening))
    _, result = drawn_and_applied(DefocusBlur(radius, softening), image)
    np.testing.assert_allclose(result, np.clip(expected, 0, 1), atol=1e-5)


def test_motion_blur_against_its_definition(image):
    height, width, _ = image.shape
    row, column = np.mgrid[:height, :width]
    for radius, sigma, seed in ((3, 2.0, 0), (3, 5.0, 1), (12, 8.0, 2)):  # the last one's line leaves the image
        blur = MotionBlur(radius, sigma)
        angle = float(blur.draw(jax.random.key(seed), image))
        weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
        expected = np.zeros(image.shape)
        for i, weight in enumerate(weights):
            down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
            right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
            seen = image[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)]
            expected += weight / sum(weights) * seen
        np.testing.assert_allclose(blur.apply(image, jnp.float32(angle)), expected, atol=1e-5)
    angles = jax.vmap(MotionBlur(3, 1.0).draw, (0, None))(jax.random.split(KEY, 500), image)
    assert -45 <= angles.min() < -43
    assert 43 < angles.max() <= 45


def test_motion_blur_is_imagemagicks():
    """What MagickMotionBlurImage of ImageMagick 6.9.11-60 (Q16) makes of an image: radius 2, sigma 1.5, 30 degrees."""
    before = [[244, 185, 104, 83, 35], [147, 78, 55, 165, 204], [248, 172, 115, 163, 172], [24, 34, 153, 235, 189]]
    after = [[185, 155, 120, 95, 75], [120, 91, 120, 180, 196], [205, 164, 149, 172, 176], [64, 119, 189, 208, 189]]
    image = to_float(np.array(before, np.uint8))[..., None]
    result = MotionBlur(2, 1.5).apply(image, jnp.float32(30.0))[..., 0]
    np.testing.assert_array_equal(np.floor(np.asarray(result) * 255 + 1e-3), after)


def test_brightness_and_contrast(image):
    hsv = color.rgb2hsv(image.astype(np.float64))
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.3, 0, 1)
    np.testing.assert_allclose(drawn_and_applied(Brightness(0.3), image)[1], color.hsv2rgb(hsv), atol=1e-5)
    mean = image.mean((0, 1), dtype=np.float64)
    expected = np.clip((image - mean) * 0.4 + mean, 0, 1)
    np.testing.assert_allclose(drawn_and_applied(Contrast(0.4), image)[1], expected, atol=1e-5)


@pytest.mark.parametrize("share", [0.6, 0.3])
def test_pixelate_is_pillows(image, share):
    height, width, _ = image.shape
    small = Image.fromarray(to_uint8(image)).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    _, result = drawn_and_applied(Pixelate(share), image)
    np.testing.assert_array_equal(result, to_float(np.asarray(small.resize((width, height), Image.Resampling.BOX))))


@pytest.mark.parametrize(("size", "quality"), [((24, 20), 25), ((24, 20), 80), ((21, 17), 7), ((9, 4), 50)])
def test_jpeg_is_that_of_the_codec(image, size, quality):
    """To the bit: whole blocks and broken ones, even and odd sizes, and a width at which the colors stay coarse."""
    pixels = to_uint8(image[: size[0], : size[1]])
    _, result = drawn_and_applied(Jpeg(quality), to_float(pixels))
    np.testing.assert_array_equal(result, to_float(coded(pixels, quality)))


def test_jpeg_of_gray_images(image):
    pixels = to_uint8(image[..., 0])
    _, result = drawn_and_applied(Jpeg(10), to_float(pixels)[..., None])
    np.testing.assert_array_equal(result[..., 0], to_float(coded(pixels, 10)))


def coded(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: corruption("fog", 1), "name must be one of gaussian_noise, .* got 'fog'"),
        (lambda: corruption("jpeg", 6), "severity must be an integer from 1 to 5, got 6"),
        (lambda: corruption("jpeg", 1, "mnist"), "scale must be one of imagenet, cifar, got 'mnist'"),
        (lambda: GaussianNoise(-0.1), "deviation must be a finite number of 0 or more"),
        (lambda: ShotNoise(0.0), "photons must be a number above 0"),
        (lambda: ImpulseNoise(1.1), r"amount must be a number in \[0, 1\]"),
        (lambda: DefocusBlur(0, 0.1), "radius must be a number above 0, got 0"),
        (lambda: DefocusBlur(1, -1.0), "softening must be a number above 0"),
        (lambda: MotionBlur(0.5, 1.0), "radius must be an integer of 1 or more"),
        (lambda: MotionBlur(1, 0.0), "sigma must be a number above 0"),
        (lambda: MotionBlur(1, 1.0, angle=200), r"angle must be a number in \[0, 180\]"),
        (lambda: Brightness(-0.1), "shift must be a finite number of 0 or more"),
        (lambda: Contrast(-0.1), "factor must be a finite number of 0 or more"),
        (lambda: Pixelate(0.0), r"share must be a number in \(0, 1\]"),
        (lambda: Pixelate(0.1)(KEY, np.zeros((1, 8, 8, 3), np.float32)), "share must leave a pixel of images of 8x8"),
        (lambda: Jpeg(0), "quality must be an integer from 1 to 100, got 0"),
        (lambda: Jpeg(50)(KEY, np.zeros((1, 8, 8, 2), np.float32)), r"1 channel \(gray\) or 3"),
    ],
)
def test_bad_settings_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()
