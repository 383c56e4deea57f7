"""The attack `random_sign`: its image, its draws, what it may not leave, and that it costs no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax import fgs, from_function, perturb, random_sign, stack
from advjax.models import LeNet
from advjax.training import Batch, create, train_step

KEY, MEAN = jax.random.key(0), (0.25, 0.5, 0.125)
IMAGES = np.round(np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)) * 255).astype(np.float32) / np.float32(255)
LABELS = jnp.arange(4) % 3
LINEAR = from_function(lambda w, x: x.mean((1, 2)) @ w, jnp.eye(3))


def attacked(attack, images=IMAGES, key=KEY):
    return np.asarray(perturb(attack, LINEAR, jnp.asarray(images), LABELS[: len(images)], key).image)


def test_in_the_units_of_a_network_that_normalizes_it_is_the_papers_g():
    """z = (x - m) / s, g(z) = z + eps z l: x' = m + s g(z), clipped."""
    std, epsilon = np.float32([0.25, 0.5, 2.0]), 0.125
    z = (IMAGES - np.float32(MEAN)) / std
    image = attacked(random_sign(epsilon, mean=MEAN, levels=None))
    up, down = (np.clip(np.float32(MEAN) + std * (z + r * epsilon * np.abs(z)), 0, 1) for r in (1, -1))
    of_up, of_down = (np.isclose(image, side, atol=1e-6) for side in (up, down))
    assert np.all(of_up | of_down)
    assert 0.3 < np.mean(of_up & ~of_down) < 0.7


def test_image_is_allowed_and_inside_its_mask():
    mask = np.zeros((6, 6, 1))
    mask[2:4] = 1
    image = attacked(random_sign(0.9, mask=mask))
    levels = image * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_array_equal(image[:, :2], IMAGES[:, :2])
    assert np.mean(image[:, 2:4] != IMAGES[:, 2:4]) > 0.9
    assert np.all(np.abs(image - IMAGES) <= 0.9 * IMAGES + 1e-6)  # rounded inward


@pytest.mark.parametrize("per", ["element", "example", "batch"])
def test_draws_differ_as_asked(per):
    ones = np.full((4, 6, 6, 3), 0.5, np.float32)
    up = attacked(random_sign(0.5, per=per, levels=None), ones) > 0.5
    kinds = [len(np.unique(image)) for image in up]
    if per == "element":
        assert kinds == [2] * 4
        assert len(np.unique(up.reshape(4, -1), axis=0)) == 4
    else:
        assert kinds == [1] * 4
        assert len(np.unique(up)) == (1 if per == "batch" else 2)
    others = [
        attacked(random_sign(0.5, per=per, levels=None), ones, jax.random.key(seed)) > 0.5 for seed in range(1, 9)
    ]
    assert any((up != other).any() for other in others)


def test_p_is_the_share_of_elements_that_grow():
    ones = np.full((4, 6, 6, 3), 0.5, np.float32)
    up = attacked(random_sign(0.5, 0.9, levels=None), ones) > 0.5
    assert 0.82 < up.mean() < 0.97


def test_other_shares_reuse_the_program_and_a_stack_its_draws():
    shares = (0.1, 0.2)
    alone = [attacked(random_sign(share, levels=None)) for share in shares]
    together = attacked(stack([random_sign(share, levels=None) for share in shares]))
    np.testing.assert_array_equal(together, np.stack(alone))
    apart = attacked(random_sign(np.float32([0.1, 0.2, 0.1, 0.2]), levels=None))
    np.testing.assert_array_equal(apart[::2], alone[0][::2])
    np.testing.assert_array_equal(apart[1::2], alone[1][1::2])


def test_a_step_of_training_computes_no_gradient_for_it():
    """Operations of the compiled steps: an FGS step makes two more passes of the network, this one none."""
    optimizer = optax.sgd(0.1)
    state = create(LeNet(rngs=nnx.Rngs(0)), optimizer)
    batch = Batch(jnp.zeros((8, 28, 28, 1), jnp.uint8), jnp.zeros(8, jnp.int32))

    def operations(attack):
        step = jax.jit(train_step(optimizer, attack=attack))
        return step.lower(state, batch, KEY).compile().cost_analysis()["flops"]

    plain, signs, gradient = (operations(attack) for attack in (None, random_sign(0.1), fgs(0.1)))
    assert signs < 1.02 * plain
    assert gradient > 1.5 * plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be"),
        ({"epsilon": 0.1, "p": 2.0}, "p must be a probability"),
        ({"epsilon": 0.1, "per": "pixel"}, "per must be"),
        ({"epsilon": 0.1, "mean": (0.1, np.nan, 0.1)}, "mean must be finite"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        random_sign(**options)


def test_a_mean_of_other_channels_and_a_missing_key_are_named():
    with pytest.raises(ValueError, match="mean must be one number, or 3"):
        attacked(random_sign(0.1, mean=(0.1, 0.2)))
    with pytest.raises(ValueError, match="key must be"):
        attacked(random_sign(0.1), key=None)
