"""ResNets: published sizes, torchvision's logits, taps, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models.counting import abstract, count_macs, count_parameters
from advjax.models.resnet import ResNet, resnet50, resnet101, resnet152
from advjax.models.taps import features
from advjax.models.weights import load_weights
from tests.models.networks_for_tests import (
    assert_close,
    assert_works_under_transformations,
    filled,
    loss_falls,
    our_logits,
)
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images


def _small(rngs, **options):
    return ResNet((1, 2, 1, 1), 10, width=4, rngs=rngs, **options)


@pytest.mark.parametrize(
    ("make", "parameters"), [(resnet50, 23_508_032), (resnet101, 42_500_160), (resnet152, 58_143_808)]
)
def test_sizes_of_the_trunks(make, parameters):
    model = abstract(make)
    assert count_parameters(model) - count_parameters(model.fc) == parameters


def test_multiply_adds_of_the_one_that_is_not_in_the_table():
    model = abstract(lambda rngs: resnet101(caffe=True, rngs=rngs))
    assert count_macs(model, (224, 224, 3)) == pytest.approx(7_570e6, abs=0.5e6)


@pytest.mark.peers
@pytest.mark.parametrize(
    "make",
    [resnet50, pytest.param(resnet101, marks=pytest.mark.slow), pytest.param(resnet152, marks=pytest.mark.slow)],
)
def test_logits_equal_those_of_torchvision(make, tmp_path):
    models, images = torchvision_models(), two_images(96)
    import torch

    theirs = randomized(getattr(models, make.__name__), images)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = load_weights(abstract(make), tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


def test_stride_in_the_first_convolution_is_the_original_block(rng):
    model = filled(lambda rngs: _small(rngs, caffe=True))
    block, x = model.layer2[0], jnp.asarray(rng.normal(size=(1, 8, 8, 16)), jnp.float32)
    every_other = block.conv1(x)
    assert every_other.shape == (1, 4, 4, 8)
    np.testing.assert_allclose(
        every_other, jnp.einsum("bhwi,io->bhwo", x[:, ::2, ::2], block.conv1.kernel[0, 0]), rtol=1e-4, atol=1e-5
    )
    assert block.conv2(every_other).shape == (1, 4, 4, 8)


def test_taps_are_there_and_used():
    model, images = filled(_small), jnp.asarray(two_images(32))
    read = jax.eval_shape(lambda: features(model, images))
    names = {"input", "stem", "layer1/0", "layer2/0", "layer2/1", "layer3/0", "layer4/0", "pool", "penultimate"}
    assert set(read) == names
    assert read["layer2/0"].shape == (2, 4, 4, 32)

    @jax.jit
    def moved(model, shift):
        return model(images, tap=lambda name, x: x + shift if name == "layer2/0" else x)

    assert jnp.abs(moved(model, jnp.float32(0.5)) - moved(model, jnp.float32(0.0))).max() > 1e-3


def test_input_is_normalized_inside():
    images = jnp.asarray(two_images(32))
    read = nnx.jit(lambda model: features(model, images)["input"])(filled(_small))
    expected = (images - np.float32([0.485, 0.456, 0.406])[None, None, None]) / np.float32([0.229, 0.224, 0.225])[
        None, None, None
    ]
    np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-6)


def test_kernels_start_as_he_and_the_dense_layer_by_fan_in():
    model = ResNet((1, 1, 1, 1), 10, width=16, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    assert model.layer4[0].conv2.kernel[...].std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert model.layer4[0].conv3.kernel[...].std() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    for part in (model.fc.kernel, model.fc.bias):
        assert 0.6 * 512**-0.5 < jnp.abs(part[...]).max() <= 512**-0.5
    assert (model.bn1.momentum, model.bn1.epsilon) == (0.9, 1e-5)
    assert jnp.all(model.layer1[0].bn3.scale[...] == 1)


def test_equal_networks_have_equal_definitions():
    assert nnx.graphdef(abstract(_small)) == nnx.graphdef(abstract(_small))


def test_it_trains():
    assert loss_falls(filled(_small), (32, 32, 3), steps=40, optimizer=optax.sgd(0.05, momentum=0.9))


@pytest.mark.slow
def test_it_works_under_transformations():
    assert_works_under_transformations(_small, (32, 32, 3))


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match=r"depths must be four numbers of blocks, 1 or more each, got \(1, 2\)"):
        abstract(lambda rngs: ResNet((1, 2), rngs=rngs))
    with pytest.raises(ValueError, match=r"images must have shape \[B, H, W, 3\], got \(1, 32, 32, 1\)"):
        filled(_small)(jnp.zeros((1, 32, 32, 1)))
