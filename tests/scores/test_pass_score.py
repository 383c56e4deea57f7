"""PASS against OpenCV + scikit-image, its derivative, sharding, streaming, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from advjax.scores import PassScore, pass_score, pass_scores, ssim
from advjax.scores.pass_score import _jitted_score
from tests.reference import pass_opencv, photographs
from tests.scores.test_ecc import pairs, scene


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_against_opencv_and_scikit_image(padding):
    images, templates = pairs(60)
    found = pass_score(jnp.asarray(images), jnp.asarray(templates), padding=padding)
    assert found.padding == padding
    expected = [pass_opencv.score(*pair, padding)[0] for pair in zip(images[..., 0], templates[..., 0], strict=True)]
    compared = np.array([value is not None for value in expected])
    assert compared.mean() > 0.9
    gain = np.asarray(found.score)[compared] - np.array([value for value in expected if value is not None])
    assert np.mean(np.abs(gain) <= 0.01) >= 0.9
    assert np.mean(gain >= -0.01) >= 0.95
    unaligned = [pass_opencv.ssim(*pair, padding) for pair in zip(images[..., 0], templates[..., 0], strict=True)]
    np.testing.assert_allclose(found.ssim, unaligned, atol=1e-5)


def test_is_ssim_of_the_aligned_image(rng):
    original = np.stack([scene(rng, 24, 3) for _ in range(3)])
    perturbed = np.roll(original, 1, axis=2)
    found = pass_score(jnp.asarray(perturbed), jnp.asarray(original))
    np.testing.assert_allclose(found.score, ssim(found.alignment.image, jnp.asarray(original)), atol=1e-6)
    # The whole shift is undone; were the original warped onto the perturbed image, little would be won.
    assert (found.score > 0.99).all()
    assert (found.ssim < 0.95).all()
    same = pass_score(jnp.asarray(original), jnp.asarray(original))
    np.testing.assert_allclose(same.score, 1, atol=1e-5)


def test_half_precision_is_computed_in_single():
    """Each dtype gets the score of its own values, in float32."""
    images, templates = map(jnp.asarray, pairs(3))
    for dtype in (jnp.float16, jnp.bfloat16):
        narrow = [x.astype(dtype) for x in (images, templates)]
        found, wide = pass_score(*narrow), pass_score(*(x.astype(jnp.float32) for x in narrow))
        assert found.score.dtype == found.alignment.image.dtype == jnp.float32
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, wide)


def test_compiles_once():
    images, templates = map(jnp.asarray, pairs(4))
    before = _jitted_score._cache_size()
    pass_score(images, templates)
    compiled = _jitted_score._cache_size()
    pass_score(images[::-1], templates, iterations=7, tolerance=1e-3)
    assert before < compiled == _jitted_score._cache_size()


def test_sharded():
    """Eight devices: the result of one, left where the images lie."""
    images, templates = map(jnp.asarray, pairs(16))
    whole = pass_score(images, templates)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    spread = [jax.device_put(a, sharding) for a in (images, templates)]
    masks = {"image_mask": np.ones((28, 28), bool), "template_mask": np.ones((16, 28, 28), bool)}
    masked = pass_score(*spread, **masks)
    np.testing.assert_allclose(masked.alignment.warp, whole.alignment.warp, atol=1e-3)
    assert masked.alignment.mask.shape == (16, 28, 28)
    # In a user's `jit`, another program, rounding lets one of these noisy pairs rest 2e-3 away.
    for found, atol in ((pass_score(*spread), 1e-3), (jax.jit(pass_score)(*spread), 3e-3)):
        np.testing.assert_allclose(found.score, whole.score, atol=1e-4)
        np.testing.assert_allclose(found.alignment.warp, whole.alignment.warp, atol=atol)
    placed = pass_score(*spread).score.sharding
    assert placed.is_equivalent_to(sharding, 1)
    text = _jitted_score.lower(*spread, (None, None), 100, 1e-6, *_static(sharding)).compile().as_text()
    assert "all-gather" not in text
    assert "all-reduce" not in text


def _static(sharding):
    from advjax.scores.ecc_iteration import Settings

    return Settings(), "valid", sharding


def test_streamed():
    images, templates = pairs(23)
    blocks = [(images[i : i + 8], templates[i : i + 8]) for i in range(0, 23, 8)]
    streamed = list(pass_scores(blocks, workers=2, padding="same"))
    assert [len(result.score) for result in streamed] == [8, 8, 7]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(streamed))
    whole = pass_score(jnp.asarray(images), jnp.asarray(templates), padding="same")
    np.testing.assert_allclose(np.concatenate([result.score for result in streamed]), whole.score, atol=1e-4)


def test_stream_is_read_as_it_is_scored():
    images, templates = pairs(2)
    read = 0

    def blocks():
        nonlocal read
        for _ in range(20):
            read += 1
            yield images, templates

    scores = pass_scores(blocks(), workers=2)
    assert isinstance(next(scores), PassScore)
    assert read <= 4
    assert sum(1 for _ in scores) == 19
    with pytest.raises(ValueError, match="blocks: expected at most 2 pairs as in the first, got 3"):
        list(pass_scores([(images, templates), pairs(3)]))


def test_gradient_is_exact_where_the_alignment_has_converged():
    """Central differences in float64, which move the warp too: the constant warp's gradient is not enough."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        rng = np.random.default_rng(5)
        original = np.float64(scene(rng, 20)) * 0.8 + 0.1
        perturbed = np.roll(original, 1, axis=1) + rng.normal(0, 0.01, original.shape)
        options = {"iterations": 300, "tolerance": 0.0}

        @jax.jit
        def values(perturbed, original):
            found = pass_score(perturbed, original, **options)
            return jnp.stack([found.score, found.alignment.correlation, found.alignment.converged.astype(float)])

        pair = (jnp.asarray(perturbed), jnp.asarray(original))
        assert values(*pair)[2] == 1
        gradients = jax.jit(jax.jacrev(values, (0, 1)))(*pair)
        for k in range(2):
            direction = jnp.asarray(rng.normal(size=original.shape))
            ends = []
            for step in (1e-5, -1e-5):
                moved = [image + step * direction if j == k else image for j, image in enumerate(pair)]
                ends.append(values(*moved))
            found = jnp.tensordot(gradients[k], direction, 3)
            np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-5)
        along = jax.jit(lambda: jax.jvp(values, pair, (jnp.zeros_like(direction), direction))[1])()
        np.testing.assert_allclose(along, found, rtol=1e-6)


def test_gradient_is_finite():
    """Also where nothing can be aligned; in float32, image by image under vmap as attacks take it, and in a batch."""
    images, templates = pairs(4, noise=0.1)
    flat = np.zeros_like(images[:1])
    perturbed = jnp.asarray(np.concatenate([images, flat, flat + 1, templates[:1]]))
    original = jnp.asarray(np.concatenate([templates, flat, templates[:1], templates[:1]]))
    gradient = jax.jit(jax.vmap(jax.grad(lambda a, b: pass_score(a, b).score)))(perturbed, original)
    assert bool(jnp.isfinite(gradient).all())
    assert (jnp.abs(gradient[:4]).max((1, 2, 3)) > 0).all()
    summed = jax.grad(lambda a: pass_score(a, original).score.sum())(perturbed)
    assert float(jnp.abs(summed - gradient).max()) < 0.05 * float(jnp.abs(gradient).max())


def test_refuses():
    image = jnp.zeros((12, 12, 1))
    with pytest.raises(ValueError, match="sides of at least 11 pixels"):
        pass_score(image[:10], image[:10])
    with pytest.raises(ValueError, match="padding: expected"):
        pass_score(image, image, padding="full")
    with pytest.raises(ValueError, match="perturbed: expected the shape of original"):
        pass_score(image[None], image)
    with pytest.raises(TypeError, match="perturbed: expected floats"):
        pass_score(image.astype(jnp.uint8), image)


def _adversarial_and_moved(count):
    """MNIST test digits under random raw and signed noise (as attacks leave it), Gaussian noise, rotation, shift."""
    from advjax.data import load, to_float

    rng = np.random.default_rng(0)
    digits = np.asarray(to_float(load("mnist", "test").images[:count]))[..., 0]
    signs = rng.choice([-1.0, 1.0], digits.shape)
    strokes = digits * rng.normal(size=digits.shape)
    return digits, {
        "signed": pass_opencv.on_grid(digits + 0.14 * signs),
        "raw": pass_opencv.on_grid(digits + 0.2 * strokes),
        "noisy": pass_opencv.on_grid(digits + rng.normal(0, 0.1, digits.shape)),
        "rotated": np.stack([pass_opencv.rotated(x, rng.uniform(-15, 15)) for x in digits]),
        "shifted": np.stack([pass_opencv.shifted(x, *rng.uniform(-2, 2, 2)) for x in digits]),
    }


def _compare(perturbed, original):
    """Shares, where OpenCV converges: ECC no 1e-3 below its, PASS no 0.01 below its, PASS within 0.01."""
    found = pass_score(jnp.asarray(perturbed[..., None]), jnp.asarray(original[..., None]))
    assert bool(jnp.isfinite(found.score).all())
    better, gain = [], []
    for k, (image, template) in enumerate(zip(perturbed, original, strict=True)):
        score, warp, _ = pass_opencv.score(image, template)
        if score is not None:
            judge = [pass_opencv.correlation(image, template, w) for w in (found.alignment.warp[k], warp)]
            better.append(judge[0] - judge[1])
            gain.append(float(found.score[k]) - score)
    better, gain = np.array(better), np.array(gain)
    return np.mean(better >= -1e-3), np.mean(gain >= -0.01), np.mean(np.abs(gain) <= 0.01)


@pytest.mark.mnist
@pytest.mark.slow
def test_bars_on_mnist():
    digits, kinds = _adversarial_and_moved(200)
    shares = {kind: _compare(perturbed, digits) for kind, perturbed in kinds.items()}
    ecc, score, _ = np.mean(list(shares.values()), 0)
    assert ecc >= 0.99
    assert score >= 0.99
    for kind in ("signed", "raw", "noisy"):
        assert shares[kind][2] >= 0.95
    for kind in ("rotated", "shifted"):
        assert shares[kind][1] >= 0.95


@pytest.mark.slow
def test_bars_on_photographs():
    """scikit-image's own, or the folder that ADVJAX_IMAGENET_SAMPLES names, at 224 x 224."""
    pictures = photographs.from_folder(100, 224)
    pictures = photographs.bundled(224) if pictures is None else pictures
    rng = np.random.default_rng(1)
    warps = [pass_opencv.random_homography(rng, 224, 224, 0.01) for _ in pictures]
    moved = np.stack([pass_opencv.moved(*pair) for pair in zip(pictures, warps, strict=True)])
    moved = pass_opencv.on_grid(moved + rng.normal(0, 0.02, moved.shape))
    ecc, score, _ = _compare(moved, pictures)
    assert ecc >= 0.99
    assert score >= 0.99
