"""Pictures of many sizes in arrays of one shape: each is scored as if it were alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from advjax.scores import pass_score

SHAPE = (21, 24, 1)


def pair_of(height, width, seed):
    """Smooth spots and a noisy copy of them, moved by a pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: height + 2, : width + 2]
    spots = rng.uniform(0, 1, (5, 3)) * [width, height, 1]
    light = sum(a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 14) for cx, cy, a in spots)[..., None]
    light = (0.1 + 0.5 * light / light.max()).astype(np.float32)
    noise = rng.uniform(-0.02, 0.02, (height, width, 1)).astype(np.float32)
    return light[1:-1, 2:] + noise, light[1:-1, 1:-1]


def in_corner(images, fill):
    arrays = np.full((len(images), *SHAPE), fill, np.float32)
    for array, image in zip(arrays, images, strict=True):
        array[: image.shape[0], : image.shape[1]] = image
    return jnp.asarray(arrays)


def assert_alike(result, row, alone, size):
    height, width = size
    for name in ("score", "ssim"):
        assert float(getattr(result, name)[row]) == pytest.approx(float(getattr(alone, name)), abs=1e-6)
    assert int(result.alignment.iterations[row]) == int(alone.alignment.iterations)
    np.testing.assert_allclose(result.alignment.warp[row], alone.alignment.warp, atol=2e-5)
    image = np.asarray(result.alignment.image[row])[:height, :width]
    np.testing.assert_allclose(image, alone.alignment.image, atol=1e-5)


def test_scores_are_those_of_each_picture_alone():
    # The second ends a row before the arrays: what is mirrored about its edge does not fit into them.
    sizes = [(16, 19), (20, 15)]
    pairs = [pair_of(*size, seed) for seed, size in enumerate(sizes)]
    changed, originals = (in_corner(each, np.nan) for each in zip(*pairs, strict=True))
    result = pass_score(changed, originals, sizes=jnp.asarray(sizes, jnp.int32))
    assert_alike(result, 1, pass_score(*pairs[1]), sizes[1])
    assert 0.5 < float(result.score[0]) < 0.999


@pytest.mark.parametrize(("levels", "masked"), [pytest.param(2, False, marks=pytest.mark.slow), (1, True)])
def test_pyramids_masks_and_mirrored_windows_end_at_the_picture_too(levels, masked):
    size = (19, 17)
    pair = pair_of(*size, 3)
    mask, masks = np.ones(size, bool), np.zeros((1, *SHAPE[:2]), bool)
    mask[:2] = False
    masks[0, : size[0], : size[1]] = mask
    alone, among = ({"image_mask": each, "template_mask": each} if masked else {} for each in (mask, masks))
    arrays = [in_corner([image], 0.5) for image in pair]
    result = pass_score(*arrays, padding="same", levels=levels, sizes=jnp.asarray([size], jnp.int32), **among)
    assert_alike(result, 0, pass_score(*pair, padding="same", levels=levels, **alone), size)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        (jnp.ones((2, 2)), TypeError, "sizes: expected integers, got float32"),
        (jnp.full((3, 2), 20, jnp.int32), ValueError, r"sizes: expected shape \(2, 2\), got \(3, 2\)"),
        (jnp.asarray([[20, 20], [20, 25]], jnp.int32), ValueError, r"at most \(21, 24\), got \(20, 25\) in pair 1"),
        (jnp.asarray([[10, 20], [20, 20]], jnp.int32), ValueError, r"expected 11 rows and columns or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, error, message):
    images = jnp.zeros((2, *SHAPE))
    with pytest.raises(error, match=message):
        pass_score(images, images, sizes=sizes)
