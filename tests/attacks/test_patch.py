"""Patches: where and how they are pasted, what training makes of them, and masks of a patch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import from_function, pasted, perturb, universal_patch
from advjax.attacks import patch_masks, targeted
from tests.models_for_tests import convolutional, convolutional_weights, grid_images

CLASSIFIER = from_function(convolutional, convolutional_weights())
IMAGES = jnp.asarray(grid_images(3, (24, 8, 8, 1)))
LABELS = CLASSIFIER(IMAGES).argmax(-1).astype(jnp.int32)
PATCH = grid_images(7, (3, 4, 2))
KEY = jax.random.key(0)


def test_a_patch_is_copied_upright_and_turned_and_scaled_around_its_center():
    image = jnp.asarray(grid_images(8, (9, 9, 2)))
    expected = np.array(image)
    expected[2:5, 1:5] = PATCH
    np.testing.assert_allclose(pasted(PATCH, (2, 1)).paste(image, KEY), expected, atol=1e-6)
    # A quarter turn of a square patch, counterclockwise on the screen.
    square = PATCH[:, :3]
    attack = pasted(square, (2, 1), max_rotation=90)
    quarter = np.float32([np.pi / 2, np.pi / 2, 1, 1])
    expected = np.array(image)
    expected[2:5, 1:4] = np.rot90(square)
    turned = attack.__class__(attack.constraint, square, quarter, attack.place, True).paste(image, KEY)
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    # Three times as large: each pixel of a patch of one is there, around the same center, and fades at its edges.
    white = pasted(np.ones((1, 1, 2), np.float32), (4, 4), scales=(3, 3)).paste(jnp.zeros((9, 9, 2)), KEY)
    shares = np.maximum(0, 1 - np.abs(np.arange(9) - 4) / 3)
    np.testing.assert_allclose(white[..., 0], shares[:, None] * shares[None], atol=1e-5)


def test_a_random_place_is_any_place_and_a_random_angle_any_angle():
    images = jnp.zeros((300, 4, 5, 1))
    classifier = from_function(lambda w, x: jnp.stack([w + x.sum((1, 2, 3)), -x.sum((1, 2, 3))], -1), 9.0)
    result = perturb(pasted(np.ones((2, 2, 1))), classifier, images, jnp.zeros(300, jnp.int32), KEY)
    np.testing.assert_array_equal(result.l0, 4)
    corners = {(int(r), int(c)) for r, c in (np.argwhere(one[..., 0])[0] for one in np.asarray(result.image))}
    assert corners == {(r, c) for r in range(3) for c in range(4)}
    turned = pasted(np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3, 1), (1, 1), max_rotation=45)
    assert turned.random
    assert not pasted(PATCH, (0, 0)).random
    middles = jax.vmap(turned.paste, (None, 0))(jnp.zeros((5, 5, 1)), jax.random.split(KEY, 50))[:, 2, 3, 0]
    # The pixel to the right of the middle, turned by up to 45 degrees to either side.
    assert 0.27 <= middles.min() < 0.4 < 0.8 < middles.max()


@pytest.mark.parametrize("target", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_training_makes_a_patch_that_fools_anywhere(target):
    options = {"size": (5, 5), "target": target, "steps": 60, "batch": 8}
    found = universal_patch(CLASSIFIER, IMAGES, LABELS, KEY, **options)
    assert found.patch.shape == (5, 5, 1)
    assert 0 <= found.patch.min() <= found.patch.max() <= 1
    assert found.calls == 60 * 8 + 2 * 24
    assert not found.non_finite
    others = jnp.asarray(grid_images(9, (60, 8, 8, 1)))
    labels = CLASSIFIER(others).argmax(-1)

    def under(patch):
        attack = pasted(patch) if target is None else targeted(pasted(patch), target)
        result = perturb(attack, CLASSIFIER, others, labels, jax.random.key(1))
        scores = jax.nn.log_softmax(CLASSIFIER(result.image))
        return np.mean(np.asarray(result.success)[labels != target]), (
            -scores[jnp.arange(60), labels].mean() if target is None else scores[:, target].mean()
        )

    (rate, climbed), (_, by_noise) = under(found.patch), under(jnp.asarray(grid_images(1, (5, 5, 1))))
    assert climbed > by_noise + 0.3
    assert rate == pytest.approx(found.success_rate, abs=0.25)


def test_masks_of_a_patch_are_rectangles_anywhere():
    masks = np.asarray(patch_masks(KEY, 200, (4, 5), (2, 3)))
    assert masks.shape == (200, 4, 5, 1)
    corners = {tuple(np.argwhere(mask[..., 0])[0]) for mask in masks}
    assert corners == {(r, c) for r in range(3) for c in range(3)}
    for mask, (row, column) in ((mask, np.argwhere(mask[..., 0])[0]) for mask in masks):
        assert mask.sum() == mask[row : row + 2, column : column + 3].sum() == 6


def test_bad_settings_are_refused():
    for build, message in (
        (lambda: pasted(PATCH + 1), r"patch must be numbers in \[0, 1\]"),
        (lambda: pasted(PATCH, max_rotation=-1), "max_rotation must be a finite number of 0 or more"),
        (lambda: pasted(PATCH, scales=(2, 1)), "scales must be 0 < least <= largest"),
        (lambda: perturb(pasted(PATCH), CLASSIFIER, IMAGES, LABELS, KEY), r"patch must be \[h, w, 1\]"),
        (lambda: patch_masks(KEY, 2, (4, 4), (5, 1)), "size must be from 1 x 1 to 4 x 4"),
        (lambda: universal_patch(CLASSIFIER, IMAGES, LABELS, KEY, size=(9, 1)), "patch must be"),
        (lambda: universal_patch(CLASSIFIER, IMAGES, LABELS, KEY, size=(0, 1)), "size must be an integer of 1"),
        (lambda: universal_patch(CLASSIFIER, IMAGES, LABELS, KEY, size=(2, 2), target=5, steps=1), "targets must be"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
