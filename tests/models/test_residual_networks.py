"""Wide, stochastic-depth and squeeze-and-excitation networks: twins in PyTorch, skipped blocks, training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import SENet, StochasticDepthResNet, WideResNet, features, senet154, wrn_28_10
from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD
from tests.models.networks_for_tests import (
    assert_close,
    assert_works_under_transformations,
    copy_to_torch,
    filled,
    loss_falls,
    our_logits,
    torch_logits,
)
from tests.models.torchvision_models import torchvision_models
from tests.reference.numpy_layers import batch_norm, relu

_PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def _images(count, height, width, channels):
    """Patches of random color: the means of large images of noise are all alike."""
    patches = np.random.default_rng(5).uniform(0, 1, (count, 8, 8, channels)).astype(np.float32)
    return patches.repeat(height // 8, 1).repeat(width // 8, 2)


def _timm_senet():
    torchvision_models()
    return pytest.importorskip("timm.models.senet")


def _torch_wide(depth, width):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def conv(inputs, outputs, size, stride):
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
            self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3, 1)
            if inputs != outputs:
                self.shortcut = conv(inputs, outputs, 1, stride)

        def forward(self, x):
            hidden = torch.relu(self.bn1(x))
            # The activation feeds both branches where the channels change, the residual alone elsewhere.
            x = self.shortcut(hidden) if hasattr(self, "shortcut") else x
            return x + self.conv2(torch.relu(self.bn2(self.conv1(hidden))))

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, inputs = conv(3, 16, 3, 1), 16
            for stage in range(3):
                outputs = 16 * width * 2**stage
                strides = [min(stage, 1) + 1] + [1] * ((depth - 4) // 6 - 1)
                blocks = [Block(inputs if i == 0 else outputs, outputs, s) for i, s in enumerate(strides)]
                setattr(self, f"block{stage + 1}", nn.Sequential(*blocks))
                inputs = outputs
            self.bn, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10)

        def forward(self, x):
            x = self.block3(self.block2(self.block1(self.conv1(x))))
            return self.fc(nn.functional.avg_pool2d(torch.relu(self.bn(x)), 8).flatten(1))

    return Wide()


def _torch_stochastic(depth, death_rate):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, survival):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, outputs // inputs, 1)
            self.bn1, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.bn2, self.survival = nn.BatchNorm2d(outputs), survival

        def forward(self, x):
            out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) * self.survival
            if out.shape != x.shape:
                x = nn.functional.avg_pool2d(x, 2)
                x = torch.cat([x, torch.zeros_like(x)], 1)
            return torch.relu(x + out)

    class Stochastic(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16)
            inputs, n, count = 16, (depth - 2) // 6, 0
            for stage in range(3):
                blocks = []
                for _ in range(n):
                    count += 1
                    blocks.append(Block(inputs, 16 * 2**stage, 1 - count / (3 * n) * death_rate))
                    inputs = 16 * 2**stage
                setattr(self, f"block{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = self.block3(self.block2(self.block1(x)))
            return self.fc(nn.functional.avg_pool2d(x, 8).flatten(1))

    return Stochastic()


@pytest.mark.peers
@pytest.mark.parametrize(("depth", "width"), [(16, 2), pytest.param(28, 10, marks=pytest.mark.slow)])
def test_wide_equals_torch(depth, width):
    twin = _torch_wide(depth, width)
    model, images = filled(partial(WideResNet, depth, width, dropout=0.4, **_PLAIN)), _images(2, 32, 32, 3)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, twin), images))


@pytest.mark.peers
@pytest.mark.parametrize("depth", [20, pytest.param(110, marks=pytest.mark.slow)])
def test_stochastic_depth_equals_torch(depth):
    twin = _torch_stochastic(depth, 0.5)
    model, images = filled(partial(StochasticDepthResNet, depth, **_PLAIN)), _images(2, 32, 32, 3)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, twin), images))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("depths", "groups", "size"),
    [
        ((1, 2, 1, 1), 1, 64),
        ((1, 2, 1, 1), 64, 64),
        pytest.param((3, 4, 6, 3), 1, 224, marks=pytest.mark.slow),
        pytest.param((3, 8, 36, 3), 64, 224, marks=pytest.mark.slow),
    ],
)
def test_senet_equals_timm(depths, groups, size):
    senet = _timm_senet()
    options = {"downsample_kernel_size": 3, "downsample_padding": 1, "inplanes": 128, "input_3x3": True}
    block, options = (senet.SEResNetBottleneck, {}) if groups == 1 else (senet.SEBottleneck, options)
    twin = senet.SENet(block, depths, groups=groups, reduction=16, num_classes=10, **options)
    model, images = filled(partial(SENet, depths, 10, groups=groups)), _images(2, size, size, 3)
    # Random residuals of full size grow from block to block until the sigmoids jump at rounding errors.
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            block.bn3.scale[...] = 0.2 * block.bn3.scale[...]
    normalized = (images - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, twin), normalized))


@pytest.mark.parametrize(
    "make",
    [
        partial(WideResNet, 10, 1, dropout=0.3),
        partial(StochasticDepthResNet, 8),
        pytest.param(partial(SENet, (1, 1, 1, 1), 10, width=8, groups=4), marks=pytest.mark.slow),
    ],
    ids=["wide", "stochastic", "senet"],
)
def test_transformations(make):
    assert_works_under_transformations(make, (32, 32, 3))


@pytest.mark.parametrize(
    "make",
    [
        partial(WideResNet, 10, 2),
        pytest.param(partial(StochasticDepthResNet, 8, death_rate=0.2), marks=pytest.mark.slow),
        pytest.param(partial(SENet, (1, 1, 1, 1), 10, width=16, groups=4), marks=pytest.mark.slow),
    ],
    ids=["wide", "stochastic", "senet"],
)
def test_loss_falls_by_nine_tenths(make):
    assert loss_falls(filled(make), (16, 16, 3), steps=150, optimizer=optax.sgd(0.05, momentum=0.9))


def test_hidden_taps_are_what_the_blocks_read_after_their_activation():
    model, images = filled(partial(WideResNet, 10, 1)), _images(2, 16, 16, 3)
    read = nnx.jit(features)(model, images)
    assert model.hidden_taps == ("block1/0/relu", "block2/0/relu", "block3/0/relu")
    for stage, inputs in ((1, "stem"), (2, "block1/0"), (3, "block2/0")):
        norm = getattr(model, f"block{stage}")[0].bn1
        expected = relu(batch_norm(np.float64(read[inputs]), norm, 1e-5))
        np.testing.assert_allclose(read[f"block{stage}/0/relu"], expected, rtol=1e-4, atol=1e-5)


def _training_pass(model, images, key):
    """Features and block 1's batch statistics after one pass in training mode with the draws of `key`."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, key):
        network = nnx.merge(graphdef, state, copy=True)
        network.train()
        network.draws.key[...] = key
        read = features(network, images)
        return read, nnx.state(network, nnx.BatchStat)

    return run(state, key)


def test_skipped_blocks_pass_the_shortcut_and_keep_their_statistics():
    model, images = filled(partial(StochasticDepthResNet, 8, death_rate=1.0)), _images(4, 16, 16, 3)
    before = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    read, after = _training_pass(model, images, jax.random.key(0))
    # The last block never survives: zeros join the pooled channels, and its statistics stay.
    pooled = np.asarray(read["block2/0"]).reshape(4, 4, 2, 4, 2, 32).mean((2, 4))
    np.testing.assert_allclose(read["block3/0"][..., :32], pooled, rtol=1e-5, atol=1e-6)
    assert not np.any(read["block3/0"][..., 32:])
    after = dict(nnx.to_flat_state(after))
    for path, variable in before:
        kept = np.array_equal(variable[...], after[path][...])
        if path[0] == "block3":
            assert kept
        if path[0] == "bn1":
            assert not kept


def test_blocks_survive_as_often_as_they_should():
    model, images = filled(partial(StochasticDepthResNet, 8, death_rate=0.9)), _images(2, 8, 8, 3)
    graphdef, state = nnx.split(model)

    def survived(key):
        network = nnx.merge(graphdef, state, copy=True)
        network.train()
        network.draws.key[...] = key
        read = features(network, images)
        return jnp.any(read["block1/0"] != nnx.relu(read["stem"])), jnp.any(read["block3/0"][..., 32:] != 0)

    counts = jax.jit(jax.vmap(survived))(jax.random.split(jax.random.key(0), 400))
    assert np.mean(counts[0]) == pytest.approx(0.7, abs=0.07)
    assert np.mean(counts[1]) == pytest.approx(0.1, abs=0.05)


def test_dropout_of_the_wide_network_acts_in_training_alone():
    model, images = filled(partial(WideResNet, 10, 1, dropout=0.5)), jnp.asarray(_images(2, 16, 16, 3))
    graphdef, state = nnx.split(model)

    @partial(jax.jit, static_argnums=0)
    def logits(training, state):
        network = nnx.merge(graphdef, state, copy=True)
        network.train() if training else network.eval()
        return network(images), network(images)

    first, second = logits(False, state)
    np.testing.assert_array_equal(first, second)
    first, second = logits(True, state)
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(WideResNet, 27), "depth must be 6n \\+ 4"),
        (partial(StochasticDepthResNet, 28), "depth must be 6n \\+ 2"),
        (partial(StochasticDepthResNet, 8, death_rate=1.5), "death_rate must be in"),
        (partial(SENet, (3, 4, 6)), "depths must be four"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(rngs=nnx.Rngs(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size", "blocks"), [(wrn_28_10, 32, 12), (senet154, 64, 50)], ids=["wrn_28_10", "senet154"]
)
def test_large_networks_compile_and_name_every_block(make, size, blocks):
    model, images = filled(make), _images(1, size, size, 3)
    graphdef, state = nnx.split(model)
    read = jax.jit(lambda state, x: features(nnx.merge(graphdef, state, copy=True), x))(state, images)
    assert sum("/" in name for name in read) == blocks
    assert read["input"].shape == images.shape
    assert np.all(np.isfinite(read["penultimate"]))
