"""Each disturbance against NumPy, Pillow and the standard library on its own draws, and the laws of the draws."""

import colorsys
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.disturb import (
    ColorDraw,
    ColorJitter,
    ErasingDraw,
    RandomCrop,
    RandomErasing,
    RandomFiveCrop,
    RandomFlip,
    RandomGrayscale,
)

LUMA = np.array([0.299, 0.587, 0.114])


def draws_of(disturbance, shape, count=400):
    """The draws for `count` images of a shape, on the host."""
    keys = jax.random.split(jax.random.key(1), count)
    return jax.device_get(jax.jit(jax.vmap(disturbance.draw, (0, None)))(keys, jnp.zeros(shape)))


def test_every_place_of_a_crop_is_drawn_and_cut(rng):
    image = rng.random((5, 4, 3), np.float32)
    corners = {tuple(int(x) for x in corner) for corner in draws_of(RandomCrop(3, padding=1), image.shape)}
    assert corners == {(top, left) for top in range(5) for left in range(4)}
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    cut = jax.jit(jax.vmap(RandomCrop(3, padding=1).apply, (None, 0)))(image, jnp.array(sorted(corners)))
    for (top, left), crop in zip(sorted(corners), cut, strict=True):
        np.testing.assert_array_equal(crop, padded[top : top + 3, left : left + 3])


def test_the_five_crops(rng):
    image = rng.random((6, 7, 3), np.float32)
    # The middle: half a pixel of doubt, at 1.5, goes to the even column.
    corners = [(0, 0), (0, 3), (2, 0), (2, 3), (1, 2)]
    crops = jax.jit(jax.vmap(RandomFiveCrop(4, resized=4).apply, (None, 0)))(image, jnp.arange(5))
    for (top, left), crop in zip(corners, crops, strict=True):
        np.testing.assert_allclose(crop, image[top : top + 4, left : left + 4], atol=1e-6)
    counts = np.bincount(draws_of(RandomFiveCrop(4), image.shape), minlength=5)
    assert (counts > 50).all()


@pytest.mark.parametrize(("disturbance", "p"), [(RandomFlip(), 0.5), (RandomGrayscale(), 0.1), (RandomFlip(0.8), 0.8)])
def test_the_share_that_is_changed_is_p(disturbance, p):
    share = draws_of(disturbance, (2, 2, 3), 2000).mean()
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / 2000)


def test_flip_and_gray(rng):
    image = rng.random((3, 4, 3), np.float32)
    np.testing.assert_array_equal(RandomFlip().apply(image, jnp.bool_(True)), image[:, ::-1])
    gray = RandomGrayscale().apply(image, jnp.bool_(True))
    np.testing.assert_allclose(gray, np.repeat((image @ LUMA)[..., None], 3, -1), atol=1e-6)
    for disturbance in (RandomFlip(), RandomGrayscale()):
        np.testing.assert_array_equal(disturbance.apply(image, jnp.bool_(False)), image)


def jittered(image, draw):
    """The four changes in the drawn order, in float64; the hue by the standard library."""
    image = image.astype(np.float64)
    for which in draw.order:
        other = (0.0, (image @ LUMA).mean(), (image @ LUMA)[..., None])
        if which < 3:
            factor = float(draw[1 + which])
            image = np.clip(factor * image + (1 - factor) * other[which], 0, 1)
        else:
            for place in np.ndindex(image.shape[:2]):
                hue, saturation, value = colorsys.rgb_to_hsv(*image[place])
                image[place] = colorsys.hsv_to_rgb((hue + float(draw.hue)) % 1.0, saturation, value)
    return image


def test_jitter_against_numpy_and_colorsys(rng):
    image = rng.random((4, 4, 3), np.float32)
    image[0] = image[0, :, :1]
    image[1, :2] = [[0, 0, 0], [1, 1, 1]]
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.5)
    draws = draws_of(jitter, image.shape, 100)
    assert len({tuple(order) for order in draws.order}) == 24
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.5, 0.5),
    ):
        drawn = getattr(draws, name)
        assert low <= drawn.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < drawn.max() <= high
    assert abs(np.corrcoef([draws.brightness, draws.contrast, draws.saturation, draws.hue]) - np.eye(4)).max() < 0.4
    ours = jax.jit(jax.vmap(jitter.apply, (None, 0)))(image, draws)
    for i, result in enumerate(ours):
        draw = ColorDraw(*(leaf[i] for leaf in draws))
        np.testing.assert_allclose(result, jittered(image, draw), atol=1e-5)


def test_strong_jitter_has_no_negative_factor_and_none_changes_nothing(rng):
    assert draws_of(ColorJitter(3.0, 0.0, 0.0, 0.0), (2, 2, 3)).brightness.min() >= 0
    images = rng.random((2, 3, 3, 3), np.float32)
    np.testing.assert_array_equal(ColorJitter(0, 0, 0, 0)(jax.random.key(0), images), images)


def test_erased_boxes_follow_the_algorithm(rng):
    """p, the area, the aspect and the place of boxes that fit, beside a loop over attempts in NumPy."""
    height, width, count = 12, 20, 4000
    boxes = draws_of(RandomErasing(), (height, width, 3), count)
    there = boxes.height > 0
    assert abs(there.mean() - 0.5) < 4 * 0.5 / math.sqrt(count)
    expected = []
    while len(expected) < count:
        size, shape = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        rows, columns = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
        if rows < height and columns < width:
            expected.append((rows, columns, rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)))
    ours = np.stack([boxes.height, boxes.width, boxes.top, boxes.left], 1)[there]
    for mine, loop in zip(ours.T, np.array(expected).T, strict=True):
        # Two samples of one law: their distribution functions differ by less than 1.95 sqrt(1/n + 1/m) in 999 of 1000.
        values = np.arange(20)
        apart = np.abs((mine[:, None] <= values).mean(0) - (loop[:, None] <= values).mean(0)).max()
        assert apart < 1.95 * math.sqrt(1 / len(mine) + 1 / count)
    assert (boxes.top + boxes.height <= height).all()
    assert (boxes.left + boxes.width <= width).all()


def test_an_image_in_which_no_box_fits_stays_whole():
    assert not draws_of(RandomErasing(1.0, area=(1.0, 1.0)), (4, 4, 1), 20).height.any()


def test_a_box_is_filled_by_channel(rng):
    image = rng.random((5, 6, 3), np.float32)
    box = ErasingDraw(*(jnp.int32(x) for x in (1, 2, 3, 2)))
    expected = image.copy()
    expected[1:4, 2:4] = [0.1, 0.2, 0.3]
    np.testing.assert_array_equal(RandomErasing(fill=(0.1, 0.2, 0.3)).apply(image, box), expected)
