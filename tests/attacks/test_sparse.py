"""JSMA against its algorithm written out, and the one-pixel attack against all pixels and colors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, from_function, jsma, one_pixel, perturb
from advjax.attacks import targeted
from advjax.attacks.one_pixel import _three_others
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear, linear_weights

KEY = jax.random.key(0)
CLASSIFIER = from_function(convolutional, convolutional_weights(size=4))
IMAGES = grid_images(3, (4, 4, 4, 1)) * np.float32(0.9)
LABELS = CLASSIFIER(jnp.asarray(IMAGES)).argmax(-1).astype(jnp.int32)
JACOBIAN = jax.jit(jax.jacobian(lambda image: CLASSIFIER(image[None])[0]))


def written_out(image, label, target, theta, gamma, pairs, mask):
    """Algorithms 2 and 3, one pair at a time; target None: the second class, until any other is answered."""
    logits = np.asarray(CLASSIFIER(jnp.asarray(image)[None]))[0]
    aim = np.argsort(np.where(np.arange(5) == label, -np.inf, logits))[-1] if target is None else target
    image, size = image.copy(), 2 if pairs else 1
    for _ in range(int(gamma * image.size + 1e-6) // size):
        logits = np.asarray(CLASSIFIER(jnp.asarray(image)[None]))[0]
        if (logits.argmax() != label) if target is None else (logits.argmax() == target):
            break
        jacobian = np.float64(JACOBIAN(jnp.asarray(image))).reshape(5, -1) * np.sign(theta)
        up, down = jacobian[aim], jacobian.sum(0) - jacobian[aim]
        flat = image.reshape(-1)
        free = [i for i in range(flat.size) if mask[i] and (flat[i] < 1 if theta > 0 else flat[i] > 0)]
        best, chosen = 0.0, ()
        for group in itertools.combinations(free, size):
            a, b = up[list(group)].sum(), down[list(group)].sum()
            if a > 0 > b and -a * b > best:
                best, chosen = -a * b, group
        if not chosen:
            break
        flat[list(chosen)] = np.clip(flat[list(chosen)] + theta, 0, 1)
    return image


@pytest.mark.parametrize(
    ("pairs", "target"),
    [(True, None), (False, 2), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((True, 2), (False, None)))],
)
def test_jsma_is_its_algorithm_written_out(pairs, target):
    mask = np.ones((4, 4, 1), np.int32)
    mask[1, 2] = mask[3, 0] = 0
    changed = 0
    # Of one program.
    for theta, gamma in ((1.0, 0.5), (-0.35, 0.6)):
        attack = jsma(np.float32(theta), gamma, pairs=pairs, mask=mask, levels=None)
        attack = attack if target is None else targeted(attack, target)
        labels = LABELS if target is None else jnp.where(target == LABELS, 0, LABELS)
        result = perturb(attack, CLASSIFIER, jnp.asarray(IMAGES), labels)
        for image, label, got in zip(IMAGES, np.asarray(labels), np.asarray(result.image), strict=True):
            expected = written_out(image, label, target, theta, gamma, pairs, mask.ravel())
            np.testing.assert_allclose(got, expected, atol=1e-6)
            changed += int((expected != image).sum())
        assert np.all(np.asarray(result.l0) <= gamma * 16)
    assert changed > 8


def test_jsma_stops_where_nothing_helps():
    # Every entry speaks for both classes alike.
    classifier = from_function(linear, {"w": jnp.ones((16, 2)), "b": jnp.array([1.0, 0.0])})
    result = perturb(jsma(gamma=1.0, levels=None), classifier, jnp.asarray(IMAGES), jnp.zeros(4, jnp.int32))
    assert set(np.asarray(result.failure)) == {Failure.NO_DIRECTION}
    np.testing.assert_array_equal(result.image, IMAGES)


WEIGHTS = linear_weights(5, pixels=16, classes=3)
# Of a linear model the worst color of a pixel is black or white: what one pixel can do is known.
LINEAR, MANY = from_function(linear, WEIGHTS), grid_images(6, (24, 4, 4, 1))
ANSWERS = np.asarray(LINEAR(jnp.asarray(MANY)).argmax(-1))


def largest_margins():
    margins = np.full(24, -np.inf)
    for pixel, color in itertools.product(range(16), (0, 1)):
        changed = np.float64(MANY.reshape(24, 16))
        changed[:, pixel] = color
        logits = changed @ np.float64(WEIGHTS["w"]) + np.float64(WEIGHTS["b"])
        own = logits[np.arange(24), ANSWERS].copy()
        logits[np.arange(24), ANSWERS] = -np.inf
        margins = np.maximum(margins, logits.max(1) - own)
    return margins


def test_one_pixel_finds_what_one_pixel_can_do():
    attack = one_pixel(generations=20, population=32)
    result = perturb(attack, LINEAR, jnp.asarray(MANY), jnp.asarray(ANSWERS), KEY)
    assert np.asarray(result.l0).max() == 1
    possible = largest_margins() > 0
    assert 4 < possible.sum() < 20
    assert not np.any(np.asarray(result.success)[~possible])
    assert np.mean(np.asarray(result.success)[possible]) > 0.8
    # The first candidates, then their children and the best once more, until it is done.
    generations, rest = np.divmod(np.asarray(result.calls) - 2 - 32, 33)
    assert np.all(rest == 0)
    assert np.all(generations[~np.asarray(result.success)] == 20)
    assert generations[np.asarray(result.success)].min() < 5
    # Where nothing fools, evolution still brings most margins to what is possible.
    logits = np.array(LINEAR(result.image))
    own = logits[np.arange(24), ANSWERS].copy()
    logits[np.arange(24), ANSWERS] = -np.inf
    assert np.mean((logits.max(1) - own)[~possible] > largest_margins()[~possible] - 0.1) > 0.6


def test_a_child_has_three_different_others():
    others = np.asarray(_three_others(KEY, 5))
    assert others.shape == (5, 3)
    for own, three in enumerate(others):
        assert len({own, *three.tolist()}) == 4
    assert {*np.unique(np.concatenate([_three_others(jax.random.key(i), 5) for i in range(5)]))} == {0, 1, 2, 3, 4}


def test_bad_settings_are_refused():
    for build, message in (
        (lambda: jsma(0.0), r"theta must be a number in \[-1, 1\] and not 0"),
        (lambda: jsma(1.5), r"theta must be a number in \[-1, 1\] and not 0"),
        (lambda: jsma(gamma=1.1), r"gamma must be a share in \[0, 1\]"),
        (lambda: one_pixel(0), "pixels must be an integer of 1 or more"),
        (lambda: one_pixel(population=3), "population must be 4 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
