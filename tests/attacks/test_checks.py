"""Bad input: one clear error each, naming the argument, what was wanted and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fgs, fgv, from_function, hard_positive, hot_cold, hot_cold_sign, perturb, pgd
from advjax.attacks import (
    Box,
    Fixed,
    L1Ball,
    LinfBall,
    Move,
    Sign,
    apgd,
    lbfgs,
    localized_pgd,
    square,
    steepest,
    targeted,
)  # fmt: skip
from tests.models_for_tests import convolutional, convolutional_weights, grid_images

CLASSIFIER = from_function(convolutional, convolutional_weights())
IMAGES = grid_images(0, (4, 8, 8, 1))
LABELS = np.array([0, 1, 2, 3], np.int32)


def call(attack=None, classifier=CLASSIFIER, images=IMAGES, labels=LABELS, key=None):
    return perturb(fgs() if attack is None else attack, classifier, images, labels, key)


def with_pixel(value):
    images = IMAGES.copy()
    images[0, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, TypeError, "images must be .* got uint8: divide by 255"),
        (
            {"images": IMAGES * 255},
            ValueError,
            r"images must be .*\[0, 1\], got values from 0 to 25.: divide",
        ),
        ({"images": IMAGES.astype(np.float16)}, TypeError, "images must be a float32 .* got float16"),
        ({"images": IMAGES.tolist()}, TypeError, "images must be a float32 .* got list"),
        (
            {"images": (IMAGES - np.float32(0.5)) / np.float32(0.25)},
            ValueError,
            "got values from -2 to 2: they seem to be normalized; .* the model must normalize them inside itself",
        ),
        ({"images": IMAGES * np.float32(2) - 1}, ValueError, "got values from -1 to 1: they seem to be normalized"),
        ({"images": IMAGES * np.float32(3)}, ValueError, "got values from 0 to 3: they seem to be normalized"),
        ({"images": IMAGES * np.float32(65535)}, ValueError, "divide by 65535 first"),
        ({"images": with_pixel(np.nan)}, ValueError, "images must be finite .* got NaN or infinity"),
        ({"images": with_pixel(np.inf)}, ValueError, "images must be finite .* got NaN or infinity"),
        ({"images": with_pixel(-0.01)}, ValueError, "images must be finite .* got values from -0.01"),
        ({"images": with_pixel(0.5001)}, ValueError, "images must be on the grid k/255"),
        (
            {"images": np.zeros((4, 3, 8, 8), np.float32)},
            ValueError,
            r"got shape \(4, 3, 8, 8\), which looks like NCHW",
        ),
        ({"images": IMAGES[0]}, ValueError, r"got shape \(8, 8, 1\): add a batch axis \(images\[None\]\)"),
        ({"images": np.zeros((32, 16, 3), np.float32)}, ValueError, r"\(32, 16, 3\): add a batch axis"),
        (
            {"images": IMAGES[..., 0]},
            ValueError,
            r"got shape \(4, 8, 8\): add the channel axis \(images\[..., None\]\)",
        ),
        ({"images": IMAGES[:3, ..., 0], "labels": LABELS[:3]}, ValueError, r"\(3, 8, 8\): add the channel axis"),
        ({"images": np.zeros((4, 8, 3), np.float32)}, ValueError, r"\(4, 8, 3\): add the channel axis"),
        ({"images": np.zeros((7, 8, 8), np.float32)}, ValueError, r"\(7, 8, 8\): add the channel axis"),
        (
            {"images": np.zeros((3, 8, 8), np.float32), "labels": LABELS[:1]},
            ValueError,
            r"\(3, 8, 8\), which looks like one image CHW: use images.transpose\(1, 2, 0\)\[None\]",
        ),
        ({"images": IMAGES[:, :, :, 0].reshape(4, 64)}, ValueError, r"got shape \(4, 64\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ValueError, "got an empty batch"),
        (
            {"images": grid_images(0, (4, 6, 6, 1))},
            ValueError,
            r"the classifier cannot take images of .* \(1, 6, 6, 1\)",
        ),
        ({"labels": np.eye(4, 5, dtype=np.int32)}, ValueError, "labels must be .* looks one-hot: use labels.argmax"),
        ({"labels": LABELS[:, None]}, ValueError, r"got shape \(4, 1\): use labels.squeeze\(-1\)"),
        ({"labels": LABELS[None]}, ValueError, r"got shape \(1, 4\): use labels.squeeze\(0\)"),
        ({"images": IMAGES[:1], "labels": LABELS[:1, None]}, ValueError, r"\(1, 1\): use labels.squeeze\(-1\)"),
        ({"labels": np.eye(5, 3, dtype=np.int32)}, ValueError, r"labels must be .* got shape \(5, 3\)$"),
        ({"labels": LABELS.astype(np.float32)}, TypeError, "labels must be an integer array .* got float32"),
        ({"labels": LABELS[:3]}, ValueError, r"labels must be .* of shape \[4\].* got shape \(3,\)"),
        ({"labels": [0, 1, 2, 3]}, TypeError, "labels must be .* got list"),
        ({"labels": LABELS + 2}, ValueError, "labels must be classes from 0 to 4, got values from 2 to 5"),
        ({"labels": LABELS - 1}, ValueError, "labels must be classes from 0 to 4, got values from -1 to 2"),
        ({"attack": "fgs"}, TypeError, "attack must be an attack such as fgs"),
        ({"attack": hot_cold(5)}, ValueError, "rank must be at most 4, the number of other classes, got 5"),
        ({"attack": hot_cold(ranks=(1, 7))}, ValueError, "rank must be at most 4.* got 7"),
        ({"attack": hot_cold(targets=5)}, ValueError, "targets must be classes from 0 to 4, got 5"),
        ({"attack": hot_cold(targets=[1, 2, 3])}, ValueError, "target has one entry for each of 3 images.* has 4"),
        ({"attack": fgs(mask=np.ones((7, 8, 1)))}, ValueError, r"mask must be \[8, 8, 1\]"),
        ({"attack": fgs(mask=np.ones((3, 8, 8, 1)))}, ValueError, "mask has one entry for each of 3 images"),
        ({"attack": pgd(0.1, step_size=0.1, steps=1)}, ValueError, "key must be .* this attack draws random numbers"),
        ({"key": 0}, TypeError, r"key must be jax.random.key\(seed\).* got int"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key must be .* the old kind: use jax.random.key"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, ValueError, r"key must be .* got shape \(3,\)"),
        ({"classifier": convolutional}, TypeError, "classifier must be a Classifier .*from_nnx"),
        (
            {"classifier": from_function(lambda w, x: x.mean((1, 2, 3)), {})},
            ValueError,
            r"the classifier must return logits of shape \[B, K\].* got \(1,\)",
        ),
        (
            {"classifier": from_function(lambda w, x: (convolutional(w, x), x), convolutional_weights())},
            ValueError,
            r"the classifier must return logits of shape \[B, K\].* got tuple",
        ),
        ({"attack": fgs(levels=16)}, ValueError, "images must be on the grid k/15 for an attack with levels=16"),
        (
            {"attack": pgd(0.1, step_size=0.1, steps=1), "key": jax.random.key(0, impl="rbg")},
            ValueError,
            "key must be .* threefry2x32, got rbg",
        ),
        (
            {"attack": Move(lambda logits, label, clean: logits[0], Sign(), Fixed(0.1), Box())},
            TypeError,
            "attack must be made of values",
        ),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fgs(-0.1), "epsilon must be a finite number of 0 or more, or one for each image, got -0.1"),
        (lambda: fgs(jnp.float32(-0.1)), "epsilon must be a finite number"),
        (lambda: fgs(np.array([0.1, -0.2])), "epsilon must be a finite number .* got -0.2 among others"),
        (lambda: hot_cold(2.7), "rank must be an integer of 1 or more.* got 2.7"),
        (lambda: hot_cold(3, targets=2), "give one of rank, ranks and targets"),
        (lambda: hot_cold(targets=-1), "targets must be an integer of 0 or more.* got -1"),
        (lambda: hot_cold(ranks=[]), "ranks must hold at least one rank"),
        (lambda: fgs(np.nan), "epsilon must be a finite number .* got nan"),
        (lambda: fgs(mask=np.full((8, 8, 1), 0.5)), "mask must hold 0 and 1 only, got values from 0.5"),
        (lambda: fgs(mask=np.ones((8, 8))), r"mask must be \[H, W, C\].* got shape \(8, 8\)"),
        (lambda: fgs(levels=1), "levels must be an integer from 2"),
        (lambda: hot_cold(0), "rank must be an integer of 1 or more"),
        (lambda: lbfgs(c_range=(1, "2")), "c_range must be two numbers"),
        (lambda: lbfgs(c_range=None), "c_range must be two numbers"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


NUMBERS = {
    "epsilon": [
        lambda e: fgs(e),
        lambda e: fgv(e),
        lambda e: hot_cold(epsilon=e),
        lambda e: hot_cold_sign(epsilon=e),
        lambda e: pgd(e, step_size=0.1, steps=1),
        lambda e: localized_pgd("broad", e, step_size=0.1, steps=1),
        lambda e: apgd(e),
        lambda e: apgd(e, norm="l2"),
        lambda e: square(e),
        lambda e: LinfBall(e),
        lambda e: L1Ball(e),
    ],
    "step_size": [
        lambda s: pgd(0.1, step_size=s, steps=1),
        lambda s: localized_pgd("broad", 0.1, step_size=s, steps=1),
    ],
    "radius": [lambda r: steepest("l2", r)],
    "p_init": [lambda p: square(0.1, p_init=p)],
    "factor": [lambda f: hard_positive(fgs(), f)],
    "rank": [lambda r: hot_cold(r)],
    "ranks": [lambda r: hot_cold(ranks=[1, r])],
    "targets": [
        lambda t: hot_cold(targets=t),
        lambda t: targeted(fgs(), t),
        lambda t: lbfgs(t),
    ],
    "steps": [lambda s: pgd(0.1, step_size=0.1, steps=s), lambda s: apgd(0.1, steps=s), lambda s: lbfgs(steps=s)],
    "restarts": [lambda r: pgd(0.1, step_size=0.1, steps=1, restarts=r), lambda r: apgd(0.1, restarts=r)],
    "queries": [lambda q: square(0.1, queries=q)],
    "searches": [lambda s: lbfgs(searches=s)],
    "pixels": [lambda p: steepest("l1", 0.1, pixels=p)],
    "levels": [lambda number: fgs(levels=number)],
}
NONE = {
    "epsilon": NUMBERS["epsilon"][4:],
    "targets": [lambda t: targeted(fgs(), t)],
    **{name: NUMBERS[name] for name in NUMBERS if name not in ("epsilon", "targets", "rank", "levels")},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused_by_the_name_of_the_argument(name):
    for build in NUMBERS[name]:
        for wrong in ("8/255", 1j, True, [0.1, "a"], [[1], [1, 2]], np.complex64(1), {}):
            with pytest.raises((TypeError, ValueError), match=f"^{name} must (be|hold) "):
                build(wrong)
    for build in NONE.get(name, ()):
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be .* got None"):
            build(None)


@pytest.mark.parametrize("name", ["epsilon", "step_size", "radius", "factor", "p_init"])
def test_an_infinite_radius_is_refused(name):
    for build in NUMBERS[name]:
        for wrong in (np.inf, np.nan, [1.0, np.inf], jnp.float32(np.inf)):
            with pytest.raises(ValueError, match=f"^{name} must be .* got (inf|nan)"):
                build(wrong)


def test_a_model_that_returns_probabilities_is_warned_of():
    softmax = from_function(lambda w, x: jax.nn.softmax(convolutional(w, x)), convolutional_weights())
    with pytest.warns(UserWarning, match="seems to return probabilities .* attacks need logits"):
        call(classifier=softmax)


def test_float_error_at_the_bounds_passes():
    images = IMAGES.copy()
    images[0, 0, 0, 0] = np.float32(-3e-8)
    assert call(images=images).image.min() >= 0


def test_float_error_of_a_bit_does_not_show_in_the_result():
    # What a compiled `/ 255` makes of the same levels.
    nudged = np.nextafter(IMAGES, np.float32(1))
    nudged[0, 0, 0, 0] = np.float32(-3e-8)
    mask = np.zeros((8, 8, 1))
    mask[4, 4] = 1
    exact = np.round(nudged * 255) / np.float32(255)
    outside = np.broadcast_to(mask == 0, IMAGES.shape)
    for attack in (fgs(0.0), fgs(mask=mask), pgd(0.1, step_size=0.1, steps=1, mask=mask)):
        result = call(attack, images=nudged, key=jax.random.key(0))
        np.testing.assert_array_equal(np.asarray(result.image)[outside], exact[outside])
        assert np.asarray(result.l0).max() <= 1


def test_images_between_the_levels_pass_without_grid():
    assert call(fgs(levels=None), images=with_pixel(0.5001)).success.shape == (4,)


def test_jax_arrays_are_checked_like_numpy_ones():
    with pytest.raises(ValueError, match="got NaN or infinity"):
        call(images=jnp.asarray(with_pixel(np.nan)))
