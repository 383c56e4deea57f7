"""The networks of the experiments against NumPy, without PyTorch; LeNet's own check is in test_lenet.py."""

import json
import pathlib
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.models import (
    CapsNet,
    CondenseNet,
    LeNetRelu,
    MadryNet,
    SENet,
    ShahamNet,
    StochasticDepthResNet,
    VggCifar,
    WideResNet,
)
from advjax.models.googlenet import GoogLeNet
from advjax.models.inception import InceptionV3
from advjax.models.resnet import ResNet
from tests.models.networks_for_tests import assert_close, filled, our_logits
from tests.reference.numpy_layers import batch_norm, conv, dense, max_pool, relu, response_norm


def images_of(*shape):
    return np.random.default_rng(5).uniform(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("input_norm", [False, True])
def test_shaham(input_norm):
    model, images = filled(lambda rngs: ShahamNet(input_norm=input_norm, rngs=rngs)), images_of(3, 32, 32, 1)
    model.mean[...], model.std[...] = jnp.float32(25.51), jnp.float32(70.18)
    x = (np.float64(images) * 255 - 25.51) / 70.18
    if input_norm:
        x = batch_norm(x, model.input_norm, 1e-5)
    x = max_pool(relu(conv(x, model.conv1)), 3, 3)
    x = max_pool(relu(conv(x, model.conv2)), 2, 2)
    assert x.shape[1:] == (2, 2, 64)
    expected = dense(relu(dense(x.reshape(3, -1), model.dense1)), model.dense2)
    assert_close(our_logits(model, images), expected)


def test_madry():
    model, images = filled(MadryNet), images_of(2, 28, 28, 1)
    x = max_pool(relu(conv(np.float64(images), model.conv1, padding=2)), 2, 2)
    x = max_pool(relu(conv(x, model.conv2, padding=2)), 2, 2)
    expected = dense(relu(dense(x.reshape(2, -1), model.dense1)), model.dense2)
    assert_close(our_logits(model, images), expected)


def test_lenet_with_relu_and_dropout():
    model, images = filled(partial(LeNetRelu, mean=0.1307, std=0.3081)), images_of(2, 28, 28, 1)
    x = max_pool(relu(conv((np.float64(images) - 0.1307) / 0.3081, model.conv1)), 2, 2)
    x = max_pool(relu(conv(x, model.conv2)), 2, 2)
    hidden = relu(dense(x.reshape(2, -1), model.dense1))
    assert_close(our_logits(model, images), dense(hidden, model.dense2))


def test_dropout_of_lenet_acts_in_training_alone():
    model, images = filled(LeNetRelu), jnp.asarray(images_of(4, 28, 28, 1))
    model.dense2.kernel[...], model.dense2.bias[...] = jnp.ones((500, 10)), jnp.zeros(10)
    ones = nnx.jit(lambda model: model(images, lambda name, x: jnp.ones_like(x) if name == "dense1" else x)[:, 0])
    assert np.all(ones(model) == 500)
    model.train()
    # Each of 500 ones doubles or goes; the draws differ between images and between passes.
    drawn = np.concatenate([ones(model), ones(model)])
    assert np.all(np.abs(drawn - 500) < 150)
    assert not np.any(drawn % 2)
    assert len(set(drawn.tolist())) > 4


def test_lenet_needs_a_positive_deviation():
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        LeNetRelu(std=0.0, rngs=nnx.Rngs(0))


def test_vgg_of_cifar_torch():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    model = filled(lambda rngs: VggCifar(width=4, mean=mean, std=std, rngs=rngs))
    images = images_of(2, 32, 32, 3)
    x = (np.float64(images) - mean) / std
    assert [len(stage) for stage in model.stages] == [2, 2, 3, 3, 3]
    for stage in model.stages:
        for unit in stage:
            x = relu(batch_norm(conv(x, unit.conv, padding=1), unit.norm, 1e-3))
        x = max_pool(x, 2, 2, ceil=True)
    x = relu(batch_norm(dense(x.reshape(2, -1), model.dense1), model.norm, 1e-5))
    assert_close(our_logits(model, images), dense(x, model.dense2))


def test_googlenet_of_caffe():
    model = filled(lambda rngs: GoogLeNet(10, width=0.125, aux=False, rngs=rngs))
    images = images_of(2, 40, 40, 3)
    x = np.float64(images)[..., ::-1] * 255 - [104, 117, 123]
    x = response_norm(max_pool(relu(conv(x, model.conv1.conv, 2, 3)), 3, 2, ceil=True))
    x = relu(conv(relu(conv(x, model.conv2.conv)), model.conv3.conv, padding=1))
    x = max_pool(response_norm(x), 3, 2, ceil=True)
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        if name in ("4a", "5a"):
            x = max_pool(x, 3, 2, ceil=True)
        block = getattr(model, f"inception{name}")
        three, five = (relu(conv(x, branch[0].conv)) for branch in (block.branch2, block.branch3))
        x = np.concatenate(
            [
                relu(conv(x, block.branch1.conv)),
                relu(conv(three, block.branch2[1].conv, padding=1)),
                relu(conv(five, block.branch3[1].conv, padding=2)),
                relu(conv(max_pool(x, 3, 1, 1), block.branch4.conv)),
            ],
            -1,
        )
    assert_close(our_logits(model, images), dense(x.mean((1, 2)), model.fc))


def test_resnet_of_bottlenecks():
    model, images = filled(lambda rngs: ResNet((1, 2, 1, 1), 10, width=4, rngs=rngs)), images_of(2, 40, 40, 3)
    x = (np.float64(images) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = max_pool(relu(batch_norm(conv(x, model.conv1, 2, 3), model.bn1, 1e-5)), 3, 2, 1)
    for number in range(1, 5):
        for index, block in enumerate(getattr(model, f"layer{number}")):
            stride = 2 if number > 1 and index == 0 else 1
            shortcut = x
            if index == 0:
                shortcut = batch_norm(conv(x, block.downsample[0], stride), block.downsample[1], 1e-5)
            x = relu(batch_norm(conv(x, block.conv1), block.bn1, 1e-5))
            x = relu(batch_norm(conv(x, block.conv2, stride, 1), block.bn2, 1e-5))
            x = relu(batch_norm(conv(x, block.conv3), block.bn3, 1e-5) + shortcut)
    assert_close(our_logits(model, images), dense(x.mean((1, 2)), model.fc))


# The networks of Di et al. 2018, which no experiment trains yet, at small sizes.
STORED = {
    "wide": (partial(WideResNet, 10, 1), (16, 16, 3)),
    "stochastic depth": (partial(StochasticDepthResNet, 8), (16, 16, 3)),
    "capsules": (partial(CapsNet, types=4, filters=8), (28, 28, 1)),
    "condensenet": (partial(CondenseNet, 10, groups=4, stages=(2, 2), growth=(8, 8)), (16, 16, 3)),
    "senet": (partial(SENet, (1, 1, 1, 1), 10, width=8, groups=4), (32, 32, 3)),
    "inception": (partial(InceptionV3, 10, aux=False, small_images=True, width=0.0625), (32, 32, 3)),
}
SLOW = ("senet", "inception")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in STORED])
def test_others_give_the_logits_that_are_stored(name):
    """Those of 2026-11-25: the comparisons with PyTorch (`peers`) say whether they are right, this if they change."""
    make, shape = STORED[name]
    stored = json.loads((pathlib.Path(__file__).parent / "logits.json").read_text())
    assert_close(our_logits(filled(make), images_of(2, *shape)), np.array(stored[name]))
