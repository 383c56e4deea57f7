"""SSIM against scikit-image and dm-pix's own filter, its extremes, its gradient, and what it refuses."""

import dm_pix
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.scores import ssim
from tests.reference import pass_opencv


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 24, 3)])
def test_against_scikit_image(rng, padding, shape):
    """250 random pairs of each kind: 1,000 in all, from nearly equal to unrelated."""
    original = rng.uniform(size=(250, *shape)).astype(np.float32)
    share = rng.uniform(size=(250, 1, 1, 1)).astype(np.float32)
    perturbed = share * original + (1 - share) * rng.uniform(size=original.shape).astype(np.float32)
    expected = [
        np.mean([pass_opencv.ssim(a[..., c], b[..., c], padding) for c in range(shape[-1])])
        for a, b in zip(perturbed, original, strict=True)
    ]
    found = ssim(jnp.asarray(perturbed), jnp.asarray(original), padding=padding)
    assert np.abs(found - np.array(expected)).max() < 1e-5


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(11, 40), st.integers(11, 40), st.sampled_from([1, 3]))
@hypothesis.settings(max_examples=2)  # each is a shape of its own, to be compiled twice
def test_is_dm_pix(seed, height, width, channels):
    """An independent program of the same score: within 1e-6."""
    rng = np.random.default_rng(seed)
    pair = [jnp.asarray(rng.uniform(size=(2, height, width, channels)), jnp.float32) for _ in range(2)]
    with jax.numpy_dtype_promotion("standard"):  # dm-pix's default window mixes integers and floats
        expected = dm_pix.ssim(*pair)
    np.testing.assert_allclose(ssim(*pair), expected, atol=1e-6)


def test_extremes():
    black, white = jnp.zeros((16, 16, 1)), jnp.ones((16, 16, 1))
    checkers = (jnp.indices((16, 16)).sum(0) % 2).astype(jnp.float32)[..., None]
    for image in (black, white, checkers):
        np.testing.assert_allclose(ssim(image, image), 1, atol=1e-6)
    assert float(ssim(black, white)) < 1e-3
    assert float(ssim(checkers, 1 - checkers)) < -0.9


@hypothesis.given(st.integers(0, 2**32 - 1))
def test_symmetric_and_bounded(seed):
    rng = np.random.default_rng(seed)
    a, b = (jnp.asarray(rng.uniform(size=(12, 15, 1)) ** 3, jnp.float32) for _ in range(2))
    assert abs(float(ssim(a, b)) - float(ssim(b, a))) < 1e-6
    assert -1 <= float(ssim(a, b)) <= 1


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_gradient(rng, padding):
    original = jnp.asarray(rng.uniform(0.2, 0.8, (16, 16, 1)), jnp.float32)
    perturbed = jnp.clip(original + jnp.asarray(rng.normal(0, 0.1, original.shape), jnp.float32), 0, 1)
    direction = jnp.asarray(rng.normal(size=original.shape), jnp.float32)
    along = jax.grad(lambda s: ssim(perturbed + s * direction, original, padding=padding))(0.0)
    step = 3e-3
    ends = [float(ssim(perturbed + s * direction, original, padding=padding)) for s in (step, -step)]
    assert float(along) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradient_is_finite_on_flat_images(value):
    flat = jnp.full((16, 16, 1), value)
    other = flat.at[3:9, 4:12].set(1 - value)
    for pair in ((flat, flat), (flat, other), (other, flat)):
        assert all(bool(jnp.isfinite(g).all()) for g in jax.grad(ssim, (0, 1))(*pair))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_single(rng, dtype):
    """Squares and means in half precision would be off by 0.01 and more."""
    original = jnp.asarray(rng.uniform(0.3, 0.9, (20, 22, 3)), dtype)
    perturbed = jnp.clip(original + jnp.asarray(rng.normal(0, 0.05, original.shape), dtype), 0, 1)
    found = ssim(perturbed, original)
    assert found.dtype == jnp.float32
    wide = [np.asarray(x).astype(np.float32) for x in (perturbed, original)]
    np.testing.assert_allclose(found, pass_opencv.ssim(*wide), atol=1e-6)
    gradient = jax.grad(ssim)(perturbed, original)
    assert gradient.dtype == dtype
    assert bool(jnp.isfinite(gradient).all())


def test_float64_stays(rng):
    with jax.enable_x64(True):
        pair = [rng.uniform(size=(20, 20, 1)) for _ in range(2)]
        found = ssim(*map(jnp.asarray, pair))
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, pass_opencv.ssim(*(x[..., 0] for x in pair)), atol=1e-14)


@pytest.mark.parametrize("level", [0.02, 0.5, 0.98])
def test_small_contrast_on_a_bright_image(rng, level):
    """Moments about 0 would lose the variance, by 5e-5 of the score, and go beyond 1."""
    original = np.clip(level + rng.normal(0, 0.004, (8, 28, 28, 1)), 0, 1).astype(np.float32)
    perturbed = np.clip(original + rng.normal(0, 0.002, original.shape), 0, 1).astype(np.float32)
    perturbed[0] = original[0]
    expected = [pass_opencv.ssim(a[..., 0], b[..., 0]) for a, b in zip(perturbed, original, strict=True)]
    found = ssim(jnp.asarray(perturbed), jnp.asarray(original))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.max() <= 1


def test_leading_axes(rng):
    pair = [jnp.asarray(rng.uniform(size=(2, 3, 12, 13, 3)), jnp.float32) for _ in range(2)]
    found = ssim(*pair)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[1, 2], ssim(pair[0][1, 2], pair[1][1, 2]), atol=1e-6)


def test_refuses():
    image = jnp.zeros((12, 12, 1))
    with pytest.raises(ValueError, match="sides of at least 11 pixels"):
        ssim(image[:10], image[:10])
    with pytest.raises(ValueError, match="padding: expected"):
        ssim(image, image, padding="reflect")
    with pytest.raises(ValueError, match="perturbed: expected the shape of original"):
        ssim(image[:11], image)
    with pytest.raises(TypeError, match="perturbed: expected floats"):
        ssim(image.astype(jnp.uint8), image)
