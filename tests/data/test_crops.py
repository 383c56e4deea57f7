"""Crops of photographs, beside Pillow, torchvision's arithmetic and (marked `peers`) torchvision itself."""

import importlib.util
import io
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from advjax.data import CenterCrop, RandomCrop
from advjax.data.crops import center_crop, decode, flip, random_box, resize, resize_shorter
from advjax.models.registry import NETWORKS

sides = st.integers(1, 60)


def photograph(height, width, channels=3, seed=0):
    """Smooth colors with noise, uint8."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 200, height * width * channels).reshape(height, width, channels)
    return (smooth + rng.integers(0, 56, smooth.shape)).astype(np.uint8)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@given(height=sides, width=sides, rows=sides, columns=sides)
def test_resize_is_pillows_antialiased_bilinear(height, width, rows, columns):
    image = photograph(height, width)
    expected = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(image, (rows, columns)), np.asarray(expected))


def test_shrinking_averages_what_plain_bilinear_would_skip():
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 1))
    assert abs(resize(stripes, (8, 8))[:, 1:-1].astype(int) - 127).max() <= 2


def test_gray_images_keep_their_channel():
    assert resize(photograph(10, 12, 1), (5, 6)).shape == (5, 6, 1)
    assert CenterCrop((4, 4), 5)({"image": photograph(10, 12, 1)})["image"].shape == (4, 4, 1)


@given(height=st.integers(2, 70), width=st.integers(2, 70), length=st.integers(1, 40))
def test_the_shorter_side_gets_the_length_and_the_other_is_rounded_down(height, width, length):
    result = resize_shorter(photograph(height, width), length)
    assert min(result.shape[:2]) == length
    assert max(result.shape[:2]) == int(length * max(height, width) / min(height, width) + 1e-9)
    assert (result.shape[0] <= result.shape[1]) == (height <= width) or result.shape[0] == result.shape[1]


@given(height=st.integers(3, 20), width=st.integers(3, 20))
def test_center_crop_leaves_equal_margins(height, width):
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    cut = center_crop(image, (3, 2))
    top, left = cut[0, 0, :2].astype(int)
    assert abs(top - (height - 3 - top)) <= 1
    assert abs(left - (width - 2 - left)) <= 1


@given(seed=st.integers(0, 1000), height=sides, width=sides)
def test_random_boxes_are_inside_and_of_the_asked_share_and_shape(seed, height, width):
    scale, ratio = (0.2, 0.6), (0.5, 2.0)
    top, left, rows, columns = random_box(np.random.default_rng(seed), (height, width), scale, ratio)
    assert 0 <= top <= height - rows
    assert 0 <= left <= width - columns
    if min(height, width) > 20 and 0.7 < height / width < 1.4:
        # Each side is rounded by half a pixel at most.
        assert (rows - 0.5) * (columns - 0.5) <= 0.6 * height * width
        assert (rows + 0.5) * (columns + 0.5) >= 0.2 * height * width
        assert (columns - 0.5) / (rows + 0.5) <= 2.0
        assert (columns + 0.5) / (rows - 0.5) >= 0.5


def test_a_box_that_never_fits_is_the_middle_one():
    assert random_box(np.random.default_rng(0), (100, 10), (1.0, 1.0), (1.0, 1.0)) == (45, 0, 10, 10)


def test_half_of_the_random_crops_are_mirrored():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 255
    crop = RandomCrop((8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    left = [crop({"image": image}, np.random.default_rng(seed))["image"][0, 0, 0] for seed in range(200)]
    assert 70 < np.count_nonzero(left) < 130
    never = RandomCrop((8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0), mirror=False)
    np.testing.assert_array_equal(never({"image": image}, np.random.default_rng(0))["image"], resize(image, (8, 8)))
    np.testing.assert_array_equal(flip(flip(image)), image)


def test_the_same_generator_gives_the_same_crop():
    crop, image = RandomCrop((20, 30)), photograph(80, 90)
    one, again, other = (crop({"image": image}, np.random.default_rng(seed))["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_every_kind_of_picture_becomes_rgb(mode):
    picture = Image.fromarray(photograph(12, 16)).convert(mode)
    content = encoded(picture, "TIFF" if mode == "CMYK" else "PNG")
    pixels = decode(content, "picture")
    np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")))
    assert (pixels.shape, pixels.dtype) == ((12, 16, 3), np.uint8)


def test_a_cmyk_jpeg_keeps_its_colors():
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    assert abs(decode(encoded(red, "JPEG", quality=95), "red").astype(int) - [200, 30, 40]).max() <= 6


@pytest.mark.parametrize("damage", ["empty", "text", "half", "head"])
def test_a_damaged_file_is_named(damage):
    whole = encoded(Image.fromarray(photograph(64, 64)), "JPEG")
    content = {"empty": b"", "text": b"no image", "half": whole[: len(whole) // 2], "head": whole[:30]}[damage]
    with pytest.raises(ValueError, match=r"cats/7\.jpg is no readable image"):
        CenterCrop((32, 32), 40)({"image": content, "label": 0, "name": "cats/7.jpg"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CenterCrop((224, 224), 200), "crop must fit into the resized image"),
        (lambda: CenterCrop((0, 2), None), "at least 1"),
        (lambda: CenterCrop((8, 8), None)({"image": photograph(7, 9)}), "at least 8x8 to be cropped to it, got 7x9"),
        (lambda: CenterCrop((8, 8), None)({"image": np.zeros((9, 9, 3))}), "got float64 of shape"),
        (lambda: CenterCrop((8, 8), None)({"image": np.zeros((9, 9), np.uint8)}), r"got uint8 of shape \(9, 9\)"),
        (lambda: RandomCrop((8, 0)), "size must be at least 1"),
        (lambda: RandomCrop((8, 8), scale=(0.0, 1.0)), "scale must be rising"),
        (lambda: RandomCrop((8, 8), ratio=(2.0, 1.0)), "ratio must be rising"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_preprocessing_travels_with_the_network():
    assert NETWORKS["resnet152"].crop == CenterCrop((224, 224), 256)
    assert NETWORKS["inception-v3"].crop == CenterCrop((299, 299), 342)
    assert NETWORKS["googlenet"].crop == CenterCrop((224, 224), (256, 256))  # BVLC's: squashed to a square
    assert NETWORKS["lenet"].crop is None
    for network in NETWORKS.values():
        if network.crop is not None:
            cut = network.crop({"image": photograph(260, 300)})["image"]
            assert cut.shape == network.shape


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(300, 401), (401, 300), (256, 257), (90, 100)])
def test_the_crops_are_torchvisions(shape, rng):
    path = pathlib.Path(__file__).parents[1] / "models" / "torchvision_models.py"
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("declared", path))
    spec.loader.exec_module(module)
    module.torchvision_models()  # declares torchvision's operators where PyTorch lacks them
    from torchvision.transforms import functional

    image = photograph(*shape)
    theirs = functional.center_crop(functional.resize(Image.fromarray(image), 256), [224, 224])
    np.testing.assert_array_equal(CenterCrop((224, 224), 256)({"image": image})["image"], np.asarray(theirs))
    top, left, height, width = random_box(rng, shape, (0.08, 1.0), (3 / 4, 4 / 3))
    theirs = functional.resized_crop(Image.fromarray(image), top, left, height, width, [224, 224])
    ours = resize(image[top : top + height, left : left + width], (224, 224))
    np.testing.assert_array_equal(ours, np.asarray(theirs))
