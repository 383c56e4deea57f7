"""Warping against OpenCV, the motions' matrices, both interpolations, and gradients."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from advjax.scores.warp import MOTIONS, frame_of, motion_matrix, warp_image
from tests.reference import pass_opencv


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 25)])
def test_against_opencv(rng, height, width):
    for _ in range(20):
        image = rng.uniform(size=(height, width)).astype(np.float32)
        matrix = pass_opencv.random_homography(rng, height, width, 0.2)
        found = warp_image(jnp.asarray(image[..., None]), jnp.asarray(matrix, jnp.float32))[..., 0]
        # OpenCV's own coordinates are rounded: to 1/32 pixel in some versions.
        assert np.abs(found - pass_opencv.warp(image, matrix)).max() < 0.05
        assert np.abs(found - pass_opencv.warp(image, matrix)).mean() < 0.01


def test_matmul_is_gather(rng):
    image = jnp.asarray(rng.uniform(size=(19, 33, 3)), jnp.float32)
    warp = jnp.asarray(pass_opencv.random_homography(rng, 19, 33, 0.2), jnp.float32)
    by_product = warp_image(image, warp, interpolation="matmul")
    np.testing.assert_allclose(by_product, warp_image(image, warp), atol=1e-5)


def test_identity_and_outside(rng):
    image = jnp.asarray(rng.uniform(size=(9, 8, 1)), jnp.float32)
    np.testing.assert_allclose(warp_image(image, jnp.eye(3)), image, atol=1e-6)
    far = jnp.asarray([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    assert not warp_image(image, far).any()
    behind = jnp.asarray([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]])
    assert not warp_image(image, behind).any()


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions(rng, motion):
    np.testing.assert_array_equal(motion_matrix(jnp.zeros(MOTIONS[motion]), motion), jnp.eye(3))
    parameters = jnp.asarray(rng.normal(0, 0.3, MOTIONS[motion]), jnp.float32)
    matrix = np.asarray(motion_matrix(parameters, motion), np.float64)
    if motion != "homography":
        np.testing.assert_array_equal(matrix[2], [0, 0, 1])
    if motion in ("translation", "euclidean"):
        np.testing.assert_allclose(matrix[:2, :2] @ matrix[:2, :2].T, np.eye(2), atol=1e-6)
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)
    if motion == "translation":
        np.testing.assert_array_equal(matrix[:2, :2], np.eye(2))


def test_halved_frame_keeps_the_scene():
    """A block of 2 x 2 pixels and the pixel that replaces it have the same center."""
    fine = frame_of(20, 14)
    coarse = fine.halved()
    assert (coarse.height, coarse.width) == (10, 7)
    point = np.linalg.inv(coarse.to_pixels()) @ [3, 4, 1]
    np.testing.assert_allclose(fine.to_pixels() @ point, [6.5, 8.5, 1])


def test_gradient(rng):
    smooth = cv2.GaussianBlur(rng.uniform(size=(20, 20)), (0, 0), 2.0)[..., None]
    image, weights = jnp.asarray(smooth, jnp.float32), jnp.asarray(rng.normal(size=smooth.shape), jnp.float32)
    warp = jnp.asarray([[1.01, 0.02, 0.3], [-0.01, 0.98, 0.4], [1e-4, 2e-4, 1.0]])

    def value(image, warp):
        return (weights * warp_image(image, warp)).sum()

    check_grads(lambda image: value(image, warp), (image,), order=1, modes=["rev"], rtol=1e-2)
    along = jax.jvp(lambda warp: value(image, warp), (warp,), (jnp.eye(3)[::-1] * 0.1,))[1]
    ends = [value(image, warp + s * jnp.eye(3)[::-1] * 0.1) for s in (1e-3, -1e-3)]
    assert float(along) == pytest.approx(float(ends[0] - ends[1]) / 2e-3, rel=0.05, abs=0.05)


def test_refuses():
    image = jnp.zeros((8, 8, 1))
    with pytest.raises(ValueError, match=r"warp: expected shape \[3, 3\]"):
        warp_image(image, jnp.eye(2))
    with pytest.raises(ValueError, match="interpolation: expected one of"):
        warp_image(image, jnp.eye(3), interpolation="cubic")
    with pytest.raises(ValueError, match=r"image: expected shape \[H, W, C\]"):
        warp_image(image[None], jnp.eye(3))
