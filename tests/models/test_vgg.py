"""VGG-16: torchvision's logits through both spellings of its weights, training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models.counting import abstract
from advjax.models.taps import features
from advjax.models.vgg import Vgg16
from advjax.models.weights import load_weights
from tests.models.networks_for_tests import assert_close, filled, loss_falls, our_logits
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images

# Without batch norm the first gradients are too long.
_CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.03, momentum=0.9))


def _small(rngs, dropout=0.5):
    return Vgg16(10, image_size=32, width=4, dropout=dropout, rngs=rngs)


@pytest.mark.peers
@pytest.mark.slow
def test_logits_equal_those_of_torchvision(tmp_path):
    models, images = torchvision_models(), two_images(224)
    from safetensors.torch import save_file

    theirs = randomized(models.vgg16)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    model = load_weights(abstract(Vgg16), tmp_path / "weights.safetensors")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


@pytest.mark.peers
@pytest.mark.parametrize("spelling", ["torchvision", "timm"])
def test_logits_of_a_narrow_one_equal_those_of_torch(spelling, tmp_path):
    models, images = torchvision_models(), two_images(64)
    import torch
    from safetensors.torch import save_file

    configuration = [4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"]

    def make():
        net = models.VGG(models.vgg.make_layers(configuration), init_weights=False)
        net.avgpool = torch.nn.Identity()
        sizes = (32 * 4, 256, 256, 10)
        for layer, (inputs, outputs) in zip((0, 3, 6), itertools.pairwise(sizes), strict=True):
            net.classifier[layer] = torch.nn.Linear(inputs, outputs)
        return net

    theirs = randomized(make)
    state = theirs.state_dict()
    if spelling == "timm":  # its VGG reads the features with convolutions of 7x7 and 1x1
        side = {"0": (32, 2, 2), "3": (256, 1, 1)}
        names = {"0": "pre_logits.fc1", "3": "pre_logits.fc2", "6": "head.fc"}
        for key in [key for key in state if key.startswith("classifier")]:
            _, layer, part = key.split(".")
            value = state.pop(key)
            state[f"{names[layer]}.{part}"] = (
                value.reshape(-1, *side[layer]) if value.ndim > 1 and layer in side else value
            )
    save_file(state, tmp_path / "weights.safetensors")
    model = load_weights(
        filled(lambda rngs: Vgg16(10, image_size=64, width=4, rngs=rngs)), tmp_path / "weights.safetensors"
    )
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


def test_taps_are_there():
    read = jax.eval_shape(lambda: features(filled(_small), jnp.asarray(two_images(32))))
    assert set(read) == {"input", *(f"stage{i}" for i in range(1, 6)), "dense1", "dense2", "penultimate"}
    assert read["stage3"].shape == (2, 4, 4, 16)


def test_weights_start_as_in_torchvision():
    model = _small(nnx.Rngs(jax.random.key(0, impl="rbg")))
    assert model.stage5[2].kernel[...].std() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert model.dense2.kernel[...].std() == pytest.approx(0.01, rel=0.02)
    assert not model.stage5[2].bias[...].any()
    assert not model.dense2.bias[...].any()


def test_dropout_acts_in_training_mode_alone():
    model, images = _small(nnx.Rngs(jax.random.key(0, impl="rbg"))), jnp.asarray(two_images(32))
    model.eval()
    once, again = model(images), model(images)
    np.testing.assert_array_equal(once, again)
    model.train()
    once, again = model(images), model(images)
    assert jnp.abs(once - again).max() > 0


def test_equal_networks_have_equal_definitions():
    assert nnx.graphdef(abstract(_small)) == nnx.graphdef(abstract(_small))


@pytest.mark.slow
def test_it_trains():
    model = filled(lambda rngs: Vgg16(10, image_size=32, width=8, dropout=0.0, rngs=rngs))
    assert loss_falls(model, (32, 32, 3), steps=150, optimizer=_CLIPPED)


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="image_size must be a multiple of 32, got 100"):
        abstract(lambda rngs: Vgg16(image_size=100, rngs=rngs))
    with pytest.raises(ValueError, match=r"images must have shape \[B, 32, 32, 3\], got \(1, 64, 64, 3\)"):
        filled(_small)(jnp.zeros((1, 64, 64, 3)))
