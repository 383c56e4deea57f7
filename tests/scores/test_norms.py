"""Norms against NumPy, their relations, and what they refuse."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.scores import l0, l1, l2, l2_per_pixel, linf

ALL = (l0, l1, l2, l2_per_pixel, linf)


def pairs(rng, shape):
    original = (rng.integers(0, 256, shape) / 255).astype(np.float32)
    changed = (rng.integers(0, 256, shape) / 255).astype(np.float32)
    return np.where(rng.uniform(size=(*shape[:-1], 1)) < 0.5, original, changed), original


@pytest.mark.parametrize("shape", [(5, 4, 1), (3, 5, 4, 3), (2, 3, 6, 5, 3)])
def test_against_numpy(rng, shape):
    perturbed, original = pairs(rng, shape)
    flat = (perturbed - original).reshape(*shape[:-3], -1).astype(np.float64)
    positions = (perturbed != original).any(-1).reshape(*shape[:-3], -1).sum(-1)
    expected = {
        l0: positions,
        l1: np.abs(flat).sum(-1),
        l2: np.linalg.norm(flat, axis=-1),
        l2_per_pixel: np.linalg.norm(flat, axis=-1) / np.sqrt(flat.shape[-1]),
        linf: np.abs(flat).max(-1),
    }
    for norm, value in expected.items():
        result = norm(jnp.asarray(perturbed), jnp.asarray(original))
        assert result.shape == shape[:-3]
        np.testing.assert_allclose(result, value, rtol=1e-5)
    assert l0(jnp.asarray(perturbed), jnp.asarray(original)).dtype == jnp.int32


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_relations(seed, channels):
    perturbed, original = pairs(np.random.default_rng(seed), (6, 7, channels))
    values = {norm.__name__: float(norm(jnp.asarray(perturbed), jnp.asarray(original))) for norm in ALL}
    count = values["l0"] * channels
    assert values["linf"] <= values["l2"] * (1 + 1e-5) <= values["l1"] * (1 + 1e-4)
    assert values["l2"] <= values["linf"] * np.sqrt(count) * (1 + 1e-5)
    assert values["l1"] <= values["l2"] * np.sqrt(count) * (1 + 1e-5)
    assert values["l2_per_pixel"] == pytest.approx(values["l2"] / np.sqrt(42 * channels), rel=1e-5)


def test_vmap_is_batch(rng):
    perturbed, original = map(jnp.asarray, pairs(rng, (4, 6, 5, 3)))
    for norm in ALL:
        np.testing.assert_allclose(jax.vmap(norm)(perturbed, original), norm(perturbed, original), rtol=1e-6)


@pytest.mark.parametrize("norm", ALL)
def test_refuses(norm):
    image = jnp.zeros((4, 4, 1))
    with pytest.raises(ValueError, match=r"perturbed: expected shape \[..., H, W, C\], got \(4, 4\)"):
        norm(image[..., 0], image[..., 0])
    with pytest.raises(ValueError, match="perturbed: expected the shape of original"):
        norm(image[None], image)
    pixels = image.astype(jnp.uint8)
    for pair, kinds in (
        ((image, pixels), "float32 and uint8"),
        ((pixels, pixels.astype(jnp.uint16)), "uint8 and uint16"),
        ((pixels.astype(jnp.int32), pixels.astype(jnp.int32)), "int32 and int32"),
    ):
        with pytest.raises(TypeError, match=f"expected both floats, both uint8 or both uint16, got {kinds}"):
            norm(*pair)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_as_integers(rng, dtype):
    """Gray levels, exact: k / 255 - l / 255 is rounded, for most pairs not to (k - l) / 255."""
    top = np.iinfo(dtype).max
    step = np.arange(256).reshape(256, 1, 1, 1)
    original = rng.integers(0, top + 1, (256, 5, 4, 3))
    perturbed = np.where(original >= step, original - step, np.minimum(original + step, top))
    perturbed[:, 0, 0] = original[:, 0, 0]
    original[:, 1, 1], perturbed[:, 1, 1] = 0, step[:, 0, 0]
    perturbed, original = perturbed.astype(dtype), original.astype(dtype)
    pair = (jnp.asarray(perturbed), jnp.asarray(original))
    flat = (np.int64(perturbed) - original).reshape(256, -1)
    assert (flat < 0).any()
    np.testing.assert_array_equal(linf(*pair), np.arange(256))
    np.testing.assert_array_equal(l1(*pair), np.abs(flat).sum(1))
    np.testing.assert_allclose(l2(*pair), np.linalg.norm(flat, axis=1), rtol=1e-6)
    np.testing.assert_allclose(l2_per_pixel(*pair), np.sqrt(np.mean(flat**2, 1)), rtol=1e-6)
    np.testing.assert_array_equal(l0(*pair), (perturbed != original).any(-1).sum((1, 2)))
    assert linf(*pair).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("norm", ALL)
def test_half_precision_is_computed_in_single(rng, dtype, norm):
    """Squares of 1e-4 are 0 in float16, sums over 4,096 pixels are off by a tenth."""
    original = jnp.asarray(rng.uniform(size=(64, 64, 1)) * 1e-3, dtype)
    perturbed = original + jnp.asarray(1e-4, dtype)
    found = norm(perturbed, original)
    assert found.dtype == (jnp.int32 if norm is l0 else jnp.float32)
    np.testing.assert_array_equal(found, norm(*(x.astype(jnp.float32) for x in (perturbed, original))))
    assert found > 0
