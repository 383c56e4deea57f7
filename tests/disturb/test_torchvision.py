"""Each disturbance of Di et al., Table 1, applied to our draws by us and by torchvision's own functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.disturb import ColorJitter, RandomCrop, RandomFiveCrop, RandomFlip, RandomGrayscale
from tests.models.torchvision_models import torchvision_models

pytestmark = pytest.mark.peers
KEYS = jax.random.split(jax.random.key(0), 20)


@pytest.fixture(scope="module")
def functional():
    """torchvision's functions; the luminance has Pillow's 0.299, for which its tensors have 0.2989."""
    torchvision_models()  # under a PyTorch without operators, importing it takes more than an import
    from torchvision.transforms import _functional_tensor, functional

    def luminance(image, num_output_channels=1):
        return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).expand(num_output_channels, *image.shape[1:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_functional_tensor, "rgb_to_grayscale", luminance)
        yield functional


def compare(disturbance, theirs, images):
    """Our images against `theirs(image of torch [C, H, W], draw)`, one draw for each of `KEYS`; the draws."""
    import torch

    def one(key, image):
        draw = disturbance.draw(key, image)
        return draw, disturbance.apply(image, draw)

    draws, ours = jax.jit(jax.vmap(one))(KEYS, images)
    draws = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], draws) for i in range(len(KEYS))]
    for image, draw, result in zip(images, draws, ours, strict=True):
        expected = theirs(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), draw)
        np.testing.assert_allclose(result, np.asarray(expected).transpose(1, 2, 0), atol=1e-5)
    return draws


@pytest.fixture
def images(rng):
    return rng.random((len(KEYS), 18, 16, 3), np.float32)


@pytest.mark.parametrize("padding", [0, 4])
def test_crop(functional, images, padding):
    def theirs(image, draw):
        return functional.crop(functional.pad(image, padding), *draw, 13, 13)

    assert len({tuple(draw) for draw in compare(RandomCrop(13, padding), theirs, images)}) > 5


def test_flip(functional, images):
    draws = compare(RandomFlip(), lambda image, draw: functional.hflip(image) if draw else image, images)
    assert 0 < sum(draws) < len(KEYS)


def test_grayscale(functional, images):
    def theirs(image, draw):
        return functional.rgb_to_grayscale(image, 3) if draw else image

    assert 0 < sum(compare(RandomGrayscale(0.5), theirs, images)) < len(KEYS)


def test_color_jitter(functional, images):
    adjust = (
        functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue,
    )  # fmt: skip

    def theirs(image, draw):
        factors = (draw.brightness, draw.contrast, draw.saturation, draw.hue)
        for which in draw.order:
            image = adjust[which](image, float(factors[which]))
        return image

    images[0, :2] = images[0, :2, :, :1]  # gray pixels, black and white ones
    images[0, 2], images[0, 3] = 0, 1
    draws = compare(ColorJitter(0.4, 0.4, 0.4, 0.5), theirs, images)
    assert len({tuple(draw.order) for draw in draws}) > 6


def test_jitter_of_gray_images(functional, images):
    def theirs(image, draw):
        both = {0: (functional.adjust_brightness, draw.brightness), 1: (functional.adjust_contrast, draw.contrast)}
        for which in draw.order:
            if which in both:
                image = both[which][0](image, float(both[which][1]))
        return image

    compare(ColorJitter(0.4, 0.4, 0.4, 0.5), theirs, images[..., :1])


@pytest.mark.parametrize("resized", [10, 20])
def test_five_crop(functional, images, resized):
    def theirs(image, draw):
        return functional.resize(functional.five_crop(image, 13)[draw], [resized, resized], antialias=True)

    draws = compare(RandomFiveCrop(13, resized), theirs, images)
    assert {int(draw) for draw in draws} == {0, 1, 2, 3, 4}


def test_the_luminance_that_was_put_into_torchvision_is_pillows(functional, images):
    from PIL import Image

    pixels = (images[0] * 255).round().astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    gray = RandomGrayscale().apply(jnp.asarray(pixels, jnp.float32) / 255, jnp.bool_(True))[..., 0]
    assert np.abs(np.asarray(gray) * 255 - expected).max() <= 0.5 + 1e-2  # it rounds
