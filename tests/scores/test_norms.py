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
    with pytest.raises(TypeError, match="original: expected floats"):
        norm(image, image.astype(jnp.uint8))
