"""Masks: borders found exactly, what is masked never shows in a result, OpenCV's mask, and what is refused."""

import cv2
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from advjax.scores import border_mask, ecc_align, pass_score, pass_scores, ssim
from advjax.scores.masks import eroded
from tests.reference import pass_opencv, photographs
from tests.scores.test_ecc import scene


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.3, 0.9))
def test_border_is_what_a_flood_from_the_edge_reaches(seed, height, width, share):
    """Against SciPy's labels, on noise in which the border winds far inside."""
    image = (np.random.default_rng(seed).uniform(size=(height, width)) > share).astype(np.uint8)
    labels, _ = ndimage.label(image == 0)
    edge = np.ones_like(image, bool)
    edge[1:-1, 1:-1] = False
    np.testing.assert_array_equal(border_mask(image, 0), ~np.isin(labels, labels[edge & (labels > 0)]))


def test_border_value():
    image = np.pad(np.arange(1, 13, dtype=np.uint8).reshape(3, 4) * 20, ((1, 0), (2, 0)))
    inside = np.pad(np.ones((3, 4), bool), ((1, 0), (2, 0)))
    np.testing.assert_array_equal(border_mask(image), inside)
    image[2, 4] = 0  # black inside the picture
    np.testing.assert_array_equal(border_mask(image), inside)
    np.testing.assert_array_equal(border_mask(image / 255), inside)
    assert border_mask(image, 7).all()
    assert border_mask(np.arange(12).reshape(3, 4)).all()  # four corners, four values
    colors = np.stack([image, image, np.where(inside, image, 9)], -1)
    np.testing.assert_array_equal(border_mask(colors), inside)
    np.testing.assert_array_equal(border_mask(colors, (0, 0, 9)), inside)
    assert border_mask(colors, 0).all()
    with pytest.raises(ValueError, match="value: expected one number or 3"):
        border_mask(colors, (0, 0))
    with pytest.raises(ValueError, match=r"image: expected shape \[H, W\] or \[H, W, C\], got \(3,\)"):
        border_mask(np.zeros(3))


@pytest.mark.parametrize("reach", [0, 2, 5])
def test_eroded(rng, reach):
    masks = rng.uniform(size=(3, 14, 17)) < 0.97
    box = np.ones((2 * reach + 1, 2 * reach + 1))
    expected = np.stack([ndimage.binary_erosion(mask, box, border_value=1) for mask in masks])
    np.testing.assert_array_equal(eroded(masks, reach), expected)
    np.testing.assert_array_equal(eroded(jnp.asarray(masks), reach), expected)


def turned(degrees=2.0, side=224):
    """Photographs, the same turned with black corners, and the warp between them."""
    pictures = photographs.bundled(side)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1)
    return np.stack([pass_opencv.rotated(x, degrees) for x in pictures]), pictures, np.vstack([turn, [[0, 0, 1]]])


def worst_corner(warps, expected, side):
    corners = pass_opencv.corners(expected, side, side)
    errors = [pass_opencv.corners(warp, side, side) - corners for warp in np.asarray(warps)]
    return np.linalg.norm(errors, axis=-1).max(1)


def test_black_corners_of_turned_photographs():
    """Worst corner of six photographs; without masks black corners are aligned on too. Either image may be masked."""
    images, templates, expected = turned(side=112)
    masks = np.stack([border_mask(image, 0.0) for image in images])
    pair = [jnp.asarray(x[..., None]) for x in (images, templates)]
    one = worst_corner(ecc_align(*pair, image_mask=masks).warp, expected, 112)
    other = worst_corner(ecc_align(*pair[::-1], template_mask=masks).warp, np.linalg.inv(expected), 112)
    bare = worst_corner(ecc_align(*pair).warp, expected, 112)
    for error in (one, other):
        assert np.median(error) < 0.1
        assert error.max() < bare.max() / 2


def test_against_opencv_with_its_mask():
    """The same mask of the input for both: ours is no further from the truth."""
    images, templates, expected = turned(side=112)
    masks = np.stack([border_mask(image, 0.0) for image in images])
    theirs = [pass_opencv.find_warp(*trio[:2], mask=trio[2])[0] for trio in zip(images, templates, masks, strict=True)]
    found = [k for k, warp in enumerate(theirs) if warp is not None]
    assert len(found) >= 5
    pair = [jnp.asarray(x[found][..., None]) for x in (images, templates)]
    ours = worst_corner(ecc_align(*pair, image_mask=masks[found]).warp, expected, 112)
    assert np.median(ours) <= np.median(worst_corner([theirs[k] for k in found], expected, 112))


def masked_pair(rng, side=32, channels=1):
    """A pair apart by a small motion, and holes: [2, side, side, channels], [2, side, side]."""
    template = np.stack([scene(rng, side, channels, fades=False) for _ in range(2)])
    image = np.roll(template, 1, axis=2)
    masks = np.ones((2, 2, side, side), bool)
    masks[0, :, :5, :9] = masks[0, 1, 20:, 28:] = masks[1, :, -4:] = False
    return jnp.asarray(image), jnp.asarray(template), masks[0], masks[1]


def test_masked_pixels_never_show(rng):
    """Whatever they hold, NaN too: the same warp, scores and gradient, which is 0 there."""
    image, template, *masks = masked_pair(rng, channels=3)

    @jax.jit
    def everything(image, template):
        def score(image, template):
            found = pass_score(image, template, image_mask=masks[0], template_mask=masks[1])
            return found.score.sum(), found

        return jax.grad(score, (0, 1), has_aux=True)(image, template)

    results = []
    for filling in (0.0, 1.0, np.nan):
        pair = [jnp.where(m[..., None], x, filling) for x, m in zip((image, template), masks, strict=True)]
        results.append(everything(*pair))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other, results[0])
    for gradient, mask in zip(results[0][0], masks, strict=True):
        assert np.abs(gradient[~mask]).max() == 0 < np.abs(gradient[mask]).max()


def test_ssim_averages_over_whole_windows(rng):
    """Against scikit-image's map, cropped by hand; both paddings."""
    pair = [scene(rng, 30, fades=False)[..., 0] for _ in range(2)]
    mask = np.ones((30, 30), bool)
    mask[:7, :12] = mask[25, 25] = False
    for padding in ("valid", "same"):
        expected = pass_opencv.ssim_map(*pair)
        whole = ndimage.binary_erosion(mask, np.ones((11, 11)), border_value=padding == "same")
        found = ssim(*(jnp.asarray(x[..., None]) for x in pair), padding=padding, mask=mask)
        np.testing.assert_allclose(found, expected[whole].mean(), atol=1e-6)


def test_pass_with_masks(rng):
    """SSIM of the aligned image inside the warped mask; a mask for all; leading axes; a stream; no second trace."""
    image, template, image_mask, template_mask = masked_pair(rng)
    found = pass_score(image, template, image_mask=image_mask, template_mask=template_mask)
    aligned = ssim(found.alignment.image, template, mask=found.alignment.mask)
    np.testing.assert_allclose(found.score, aligned, atol=1e-6)
    np.testing.assert_allclose(found.ssim, ssim(image, template, mask=image_mask & template_mask), atol=1e-6)
    assert (found.score > 0.99).all()
    # The warp reads one column to the right: the last one shows what is beyond the frame.
    shifted = np.pad(image_mask[0, :, 1:], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(found.alignment.mask[0], shifted & template_mask[0])
    blocks = [(image, template, image_mask, None), (image[:1], template[:1], image_mask[:1], None)]
    streamed = list(pass_scores(blocks, workers=1, template_mask=template_mask[0]))
    assert [len(result.score) for result in streamed] == [2, 1]
    np.testing.assert_allclose(streamed[0].score[0], found.score[0], atol=1e-5)
    np.testing.assert_allclose(streamed[1].score, streamed[0].score[:1], atol=1e-5)
    assert streamed[1].alignment.mask.shape == (1, 32, 32)


def test_masks_are_no_constants_of_the_program(rng):
    image, template, image_mask, template_mask = masked_pair(rng)
    traces = 0

    @jax.jit
    def score(image, template, image_mask):
        nonlocal traces
        traces += 1
        return pass_score(image, template, image_mask=image_mask).score

    image += jnp.asarray(rng.normal(0, 0.05, image.shape), jnp.float32)
    scores = [score(image, template, jnp.asarray(mask)) for mask in (image_mask, template_mask)]
    assert traces == 1
    assert (scores[0] != scores[1]).any()


def test_a_mask_of_everything_changes_no_warp(rng):
    image, template, *_ = masked_pair(rng)
    everything = np.ones((32, 32), bool)
    found = ecc_align(image, template, image_mask=everything, template_mask=everything)
    bare = ecc_align(image, template)
    np.testing.assert_allclose(found.warp, bare.warp, atol=1e-5)
    assert bare.mask is None
    np.testing.assert_array_equal(found.mask, np.pad(everything[:, 1:], ((0, 0), (0, 1)))[None].repeat(2, 0))


@pytest.mark.slow
def test_pyramid_with_masks():
    images, templates, expected = turned(5.0, 112)
    masks = np.stack([border_mask(image, 0.0) for image in images])
    pair = [jnp.asarray(x[..., None]) for x in (images, templates)]
    assert np.median(worst_corner(ecc_align(*pair, image_mask=masks, levels=3).warp, expected, 112)) < 0.1


def test_too_little_is_left():
    image = jnp.zeros((2, 24, 24, 1))
    little = np.ones((2, 24, 24), bool)
    little[1, :, 12:] = False
    little[1, 12:] = False  # 8 x 8 pixels are more than 4 from a masked one: just enough
    ecc_align(image, image, image_mask=little)
    with pytest.raises(ValueError, match=r"64 pixels or more that are valid in both images .* got 56 in pair 1"):
        ecc_align(image, image, image_mask=little, template_mask=np.arange(24) < np.full((24, 1), 11))
    with pytest.raises(
        ValueError, match="expected a window of 11 x 11 pixels without a masked one, got none in pair 0"
    ):
        ssim(image, image, mask=np.eye(24, dtype=bool))
    with pytest.raises(TypeError, match=r"image_mask: expected bool \(True: a pixel of the picture\), got uint8"):
        pass_score(image, image, image_mask=np.ones((24, 24), np.uint8))
    with pytest.raises(
        ValueError, match=r"template_mask: expected shape \(24, 24\) or \(2, 24, 24\), got \(3, 24, 24\)"
    ):
        ecc_align(image, image, template_mask=np.ones((3, 24, 24), bool))
    with pytest.raises(TypeError, match="mask: expected bool"):
        ssim(image, image, mask=np.ones((24, 24), np.float32))


def test_nothing_left_is_seen_in_the_result(rng):
    """Inside a compiled function nothing can be raised."""
    image, template, *_ = masked_pair(rng)
    found = jax.jit(lambda m: pass_score(image, template, image_mask=m))(jnp.zeros((32, 32), bool))
    assert (found.alignment.correlation == 0).all()
    assert not found.alignment.converged.any()
    np.testing.assert_allclose(found.alignment.warp, np.eye(3)[None].repeat(2, 0), atol=1e-6)
    assert jnp.isnan(found.score).all()
    assert jnp.isnan(found.ssim).all()
