"""What is asked of every disturbance: a draw for each image, the same bits anywhere, one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.disturb import (
    Chain,
    ColorJitter,
    MotionBlur,
    RandomCrop,
    RandomErasing,
    RandomFiveCrop,
    RandomFlip,
    RandomGrayscale,
    corruption,
)
from advjax.disturb.disturbance import _disturbed

KEY = jax.random.key(0)
# Each with other numbers too, which must not be another program.
TABLE = {
    "crop": (RandomCrop(6), RandomCrop(6)),
    "padded crop": (RandomCrop(8, padding=4), RandomCrop(8, padding=4)),
    "flip": (RandomFlip(0.5), RandomFlip(0.4)),
    "grayscale": (RandomGrayscale(0.5), RandomGrayscale(0.4)),
    "jitter": (ColorJitter(0.4, 0.4, 0.4, 0.5), ColorJitter()),
    "five crops": (RandomFiveCrop(5, resized=8), RandomFiveCrop(5, resized=8)),
    "gaussian noise": (corruption("gaussian_noise", 1), corruption("gaussian_noise", 5, "cifar")),
    "shot noise": (corruption("shot_noise", 1), corruption("shot_noise", 5, "cifar")),
    "impulse noise": (corruption("impulse_noise", 5), corruption("impulse_noise", 4)),
    "motion blur": (MotionBlur(2, 3.0), MotionBlur(2, 2.0, angle=30.0)),
    "erasing": (RandomErasing(), RandomErasing(0.4, (0.1, 0.2), (0.5, 2.0), (0.5,))),
}
TABLE["chain"] = tuple(Chain(tuple(TABLE[name][i] for name in ("padded crop", "flip", "grayscale"))) for i in (0, 1))


@pytest.fixture
def images(rng):
    return rng.random((16, 8, 8, 3), np.float32)


@pytest.mark.parametrize("name", TABLE)
def test_each_image_has_a_draw_of_its_own_the_same_anywhere(images, name):
    """Alone, in a batch and on eight devices: of another draw little would agree, of the same one all but rounding."""
    one, other = TABLE[name]
    batch = one(KEY, images)
    assert batch.dtype == jnp.float32
    assert batch.shape[0] == 16
    assert batch.shape[-1] == 3
    assert bool((batch >= 0).all() & (batch <= 1).all())
    traced = _disturbed._cache_size()
    same = np.asarray(other(KEY, np.broadcast_to(images[:1], images.shape)))
    assert len(np.unique(same.reshape(16, -1), axis=0)) >= 2, "one draw for all images"
    assert _disturbed._cache_size() == traced, "other numbers were compiled anew"
    alone = one(jax.random.fold_in(KEY, 5)[None], images[5:6])
    np.testing.assert_allclose(alone[0], batch[5], atol=1e-6)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "data")
    spread = jax.device_put(images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    np.testing.assert_array_equal(one(KEY, spread), batch)


def test_numbers_may_differ_by_image(images):
    turned = RandomFlip([0.0, 1.0] * 8)(KEY, images)
    np.testing.assert_array_equal(turned[::2], images[::2])
    np.testing.assert_array_equal(turned[1::2], images[1::2, :, ::-1])
    with pytest.raises(ValueError, match="p has one entry for each of 2 images, but the batch has 16"):
        RandomFlip([0.0, 1.0])(KEY, images)


def test_steps_of_a_chain_draw_from_keys_of_their_own(images):
    """With one key for both, no image would be mirrored once."""
    twice = Chain((RandomFlip(), RandomFlip()))(KEY, images)
    assert 0 < sum(np.array_equal(a, b[:, ::-1]) for a, b in zip(twice, images, strict=True)) < 16


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: RandomCrop(0), ValueError, "size must be an integer of 1 or more, got 0"),
        (lambda: RandomCrop(4, padding=-1), ValueError, "padding must be an integer of 0 or more"),
        (lambda: RandomFiveCrop(4, resized=0.5), ValueError, "resized must be an integer of 1 or more"),
        (lambda: RandomFlip(1.5), ValueError, r"p must be a number in \[0, 1\]"),
        (lambda: RandomGrayscale(-0.1), ValueError, r"p must be a number in \[0, 1\]"),
        (lambda: ColorJitter(hue=0.6), ValueError, r"hue must be a number in \[0, 0.5\]"),
        (lambda: ColorJitter(contrast=-1), ValueError, "contrast must be a finite number of 0 or more"),
        (lambda: RandomErasing(area=(0.0, 0.4)), ValueError, r"area must be two numbers in \(0, 1\]"),
        (lambda: RandomErasing(area=(0.1,)), ValueError, r"area must be two numbers, .* got shape \(1,\)"),
        (lambda: RandomErasing(aspect=(0.3, -1)), ValueError, "aspect must be two numbers above 0"),
        (lambda: Chain([RandomFlip()]), TypeError, "steps must be a tuple of one disturbance or more"),
        (lambda: Chain(()), TypeError, "steps must be a tuple"),
    ],
)
def test_bad_settings_are_refused(made, error, message):
    with pytest.raises(error, match=message):
        made()


@pytest.mark.parametrize(
    ("disturbance", "key", "images", "error", "message"),
    [
        (RandomFlip(), KEY, np.zeros((1, 4, 4, 3), np.uint8), TypeError, r"images must be a float32 .* got uint8: use"),
        (RandomFlip(), KEY, [[0.5]], TypeError, "images must be a float32 array .* got list"),
        (RandomFlip(), KEY, np.zeros((4, 4, 3), np.float32), ValueError, r"\[B, H, W, C\] .* got shape \(4, 4, 3\)"),
        (RandomFlip(), jax.random.PRNGKey(0), np.zeros((1, 4, 4, 3), np.float32), TypeError, "the old kind"),
        (RandomFlip(), 3, np.zeros((1, 4, 4, 3), np.float32), TypeError, "key must be jax.random.key.* got int"),
        (RandomFlip(), KEY[None], np.zeros((2, 4, 4, 3), np.float32), ValueError, r"an array of 2 .* shape \(1,\)"),
        (RandomFlip(), jax.random.key(0, impl="rbg"), np.zeros((2, 4, 4, 3), np.float32), ValueError, "threefry"),
        (RandomCrop(5), KEY, np.zeros((1, 4, 8, 3), np.float32), ValueError, "inside the images of 4x8, got 5"),
        (RandomFiveCrop(5), KEY, np.zeros((1, 8, 4, 3), np.float32), ValueError, "inside the images of 8x4, got 5"),
        (ColorJitter(), KEY, np.zeros((1, 4, 4, 2), np.float32), ValueError, r"1 channel \(gray\) or 3"),
        (RandomGrayscale(), KEY, np.zeros((1, 4, 4, 4), np.float32), ValueError, r"1 channel \(gray\) or 3"),
        (RandomErasing(fill=(0.0, 1.0)), KEY, np.zeros((1, 4, 4, 3), np.float32), ValueError, "fill must have 1 .* 3"),
    ],
)
def test_what_it_does_not_take_is_refused(disturbance, key, images, error, message):
    with pytest.raises(error, match=message):
        disturbance(key, images)
