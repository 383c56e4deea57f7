"""Regions against NumPy and SciPy; localized PGD against Algorithm 1 written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from advjax import from_function, perturb
from advjax.attacks import Background, Broad, Exact, Standard, Within, localized_pgd, named_region, pgd
from tests.models_for_tests import convolutional, convolutional_weights, grid_images

CLASSIFIER = from_function(convolutional, convolutional_weights())
EPSILON, STEP, STEPS = np.float32(0.3), np.float32(0.05), 6


def digits(seed, shape=(12, 8, 8, 1)):
    """Images that are 0 on much of their pixels."""
    images = grid_images(seed, shape)
    return np.where(images < 0.6, np.float32(0), images)


def region_of(name, image, neighbors=8):
    """The same by NumPy and SciPy: image [H, W, C] -> bool [H, W, 1]."""
    digit = (image > 0).any(-1)
    if name == "standard":
        return np.ones_like(digit)[..., None]
    if name == "background":
        alterable = np.ones_like(digit)
        height, width = digit.shape
        alterable[height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3] = False
        return alterable[..., None]
    if name == "broad":
        structure = ndimage.generate_binary_structure(2, 2 if neighbors == 8 else 1)
        digit = ndimage.binary_dilation(digit, structure)
    return ~digit[..., None]


alterable = jax.jit(lambda region, image: region(image))


@given(arrays(np.uint8, (9, 7, 2), elements=st.sampled_from([0, 0, 0, 1, 255])))
def test_regions_are_those_of_scipy(levels):
    image = levels / np.float32(255)
    for name in ("standard", "background", "exact", "broad"):
        np.testing.assert_array_equal(alterable(named_region(name), image), region_of(name, image))
    np.testing.assert_array_equal(alterable(Broad(neighbors=4), image), region_of("broad", image, 4))


def test_the_middle_36_pixels_of_a_digit_are_rows_and_columns_11_to_16():
    kept = np.argwhere(~np.asarray(Background()(jnp.zeros((28, 28, 1)))))
    assert len(kept) == 36
    assert set(kept[:, 0]) == set(kept[:, 1]) == set(range(11, 17))


def test_the_threshold_is_on_the_clean_image_and_a_number():
    image = jnp.asarray([[[0.0], [0.2], [0.6]]])
    assert np.asarray(Exact(0.3)(image)).ravel().tolist() == [True, True, False]
    run = jax.jit(lambda part, x: part(x))
    run(Exact(0.3), image)
    np.testing.assert_array_equal(run(Exact(0.1), image).ravel(), [True, False, False])
    assert run._cache_size() == 1


@pytest.mark.parametrize("localize", ["after", "inside"])
@pytest.mark.parametrize("name", ["standard", "background", "exact", "broad"])
def test_localized_pgd_is_algorithm_1(name, localize):
    clean = digits(0)
    labels = CLASSIFIER(jnp.asarray(clean)).argmax(-1)
    options = {"step_size": STEP, "steps": STEPS, "random_start": False, "levels": None}
    result = perturb(localized_pgd(name, EPSILON, localize=localize, **options), CLASSIFIER, jnp.asarray(clean), labels)
    gradient = jax.grad(lambda x: optax.softmax_cross_entropy_with_integer_labels(CLASSIFIER(x), labels).sum())
    reach = EPSILON * np.stack([region_of(name, image) for image in clean])
    inside = reach if localize == "inside" else EPSILON
    x = clean
    for _ in range(STEPS):
        x = x + STEP * np.sign(np.asarray(gradient(jnp.asarray(x))))
        x = np.clip(np.clip(x, clean - inside, clean + inside), 0, 1)
    x = np.clip(x, clean - reach, clean + reach)
    assert np.mean(np.abs(np.asarray(result.image) - x) < 1e-5) > 0.995
    outside = np.broadcast_to(reach == 0, clean.shape)
    np.testing.assert_array_equal(np.asarray(result.image)[outside], clean[outside])


def test_everywhere_is_pgd_with_the_same_draws():
    clean = jnp.asarray(digits(1))
    labels = CLASSIFIER(clean).argmax(-1)
    options = {"step_size": STEP, "steps": STEPS, "restarts": 2}
    key = jax.random.key(3)
    local = perturb(localized_pgd("standard", EPSILON, **options), CLASSIFIER, clean, labels, key)
    plain = perturb(pgd(EPSILON, **options), CLASSIFIER, clean, labels, key)
    np.testing.assert_array_equal(local.image, plain.image)
    np.testing.assert_array_equal(Within(Standard())(local.image[0], clean[0]), local.image[0])


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: localized_pgd("center", 0.3, step_size=0.1, steps=2), ValueError, "region must be one of standard,"),
        (lambda: localized_pgd(0.3, 0.3, step_size=0.1, steps=2), TypeError, "region must be a name or a region"),
        (
            lambda: localized_pgd("exact", 0.3, step_size=0.1, steps=2, localize="before"),
            ValueError,
            'localize must be "after" or "inside"',
        ),
        (lambda: Broad(neighbors=6), ValueError, "neighbors must be 4 or 8"),
        (lambda: Background(-1), ValueError, "size must be an integer of 0 or more"),
    ],
)
def test_bad_settings_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
