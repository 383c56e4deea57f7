"""The networks for MNIST and cifar.torch's VGG: twins in PyTorch, starts, standardization, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import LeNet, MadryNet, ShahamNet, VggCifar, features
from tests.models.networks_for_tests import (
    assert_close,
    assert_works_under_transformations,
    copy_to_torch,
    filled,
    loss_falls,
    our_logits,
    torch_logits,
)


def _images(*shape):
    return np.random.default_rng(5).uniform(0, 1, shape).astype(np.float32)


def _torch_shaham(input_norm):
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Shaham(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
            self.dense1, self.dense2 = nn.Linear(256, 200), nn.Linear(200, 10)
            if input_norm:
                self.input_norm = nn.BatchNorm2d(1, affine=False)

        def forward(self, x):
            x = (x * 255 - 20.0) / 60.0
            if input_norm:
                x = self.input_norm(x)
            x = functional.max_pool2d(torch.relu(self.conv1(x)), 3)
            x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
            # Our features are flattened with the channels last.
            x = x.permute(0, 2, 3, 1).flatten(1)
            return self.dense2(torch.relu(self.dense1(x)))

    return Shaham()


@pytest.mark.peers
@pytest.mark.parametrize("input_norm", [False, True])
def test_shaham_equals_torch(input_norm):
    twin = _torch_shaham(input_norm)
    model = filled(lambda rngs: ShahamNet(input_norm=input_norm, rngs=rngs))
    model.mean[...], model.std[...] = jnp.float32(20), jnp.float32(60)
    images = _images(3, 32, 32, 1)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, twin), images))


@pytest.mark.peers
def test_madry_equals_torch():
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Madry(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
            self.dense1, self.dense2 = nn.Linear(3136, 1024), nn.Linear(1024, 10)

        def forward(self, x):
            x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
            x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
            x = x.permute(0, 2, 3, 1).flatten(1)
            return self.dense2(torch.relu(self.dense1(x)))

    model, images = filled(MadryNet), _images(3, 28, 28, 1)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, Madry()), images))


@pytest.mark.peers
@pytest.mark.parametrize(("size", "channels", "width"), [(32, 3, 64), (28, 1, 4)])
def test_vgg_equals_torch(size, channels, width):
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Unit(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, eps=1e-3)

        def forward(self, x):
            return torch.relu(self.norm(self.conv(x)))

    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            inputs, stages = channels, nn.ModuleList()
            for multiple, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
                stage = nn.ModuleList()
                for _ in range(depth):
                    stage.append(Unit(inputs, multiple * width))
                    inputs = multiple * width
                stages.append(stage)
            self.stages = stages
            self.dense1, self.norm = nn.Linear(inputs, inputs), nn.BatchNorm1d(inputs)
            self.dense2 = nn.Linear(inputs, 10)

        def forward(self, x):
            for stage in self.stages:
                for unit in stage:
                    x = unit(x)
                x = functional.max_pool2d(x, 2, ceil_mode=True)
            return self.dense2(torch.relu(self.norm(self.dense1(x.flatten(1)))))

    plain = {"mean": (0,) * channels, "std": (1,) * channels}
    model = filled(lambda rngs: VggCifar(width=width, **plain, rngs=rngs))
    images = _images(2, size, size, channels)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, Vgg()), images))


def test_shaham_standardizes_by_variables_that_can_be_replaced():
    model, images = filled(ShahamNet), _images(2, 32, 32, 1)
    for mean, std in ((25.51, 70.18), (25.87, 70.74)):
        model.mean[...], model.std[...] = jnp.float32(mean), jnp.float32(std)
        np.testing.assert_allclose(features(model, images)["input"], (images * 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert not [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)) if path[0] in ("mean", "std")]


def test_input_norm_follows_torch_in_training():
    model = nnx.eval_shape(lambda: ShahamNet(input_norm=True, rngs=nnx.Rngs(0))).input_norm
    assert (model.epsilon, model.momentum, model.use_scale, model.use_bias) == (1e-5, 0.9, False, False)
    network = filled(lambda rngs: ShahamNet(input_norm=True, rngs=rngs))
    network.mean[...], network.std[...] = jnp.float32(0), jnp.float32(255)
    before = float(network.input_norm.mean[0])
    images = _images(4, 32, 32, 1)
    network.train()
    read = features(network, images)["input_norm"]
    np.testing.assert_allclose(read, (images - images.mean()) / np.sqrt(images.var() + 1e-5), rtol=1e-3, atol=1e-4)
    assert float(network.input_norm.mean[0]) == pytest.approx(0.9 * before + 0.1 * images.mean(), rel=1e-5)


def test_shaham_starts_uniform_by_fan_in():
    model = ShahamNet(rngs=nnx.Rngs(3))
    for layer, fan_in in ((model.conv1, 25), (model.conv2, 800), (model.dense1, 256), (model.dense2, 200)):
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        assert 0.98 * fan_in**-0.5 < np.abs(kernel).max() <= fan_in**-0.5
        assert kernel.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
        assert 0.5 * fan_in**-0.5 < np.abs(bias).max() <= fan_in**-0.5


def test_madry_starts_as_the_challenge_does():
    model = MadryNet(rngs=nnx.Rngs(3))
    for layer in (model.conv1, model.conv2, model.dense1, model.dense2):
        kernel = np.asarray(layer.kernel[...])
        assert 0.19 < np.abs(kernel).max() <= 0.2 + 1e-6
        # A normal of 0.1 cut at two standard deviations has a standard deviation of 0.088.
        assert kernel.std() == pytest.approx(0.08796, rel=0.05)
        assert np.all(layer.bias[...] == np.float32(0.1))


@pytest.mark.parametrize(("make", "shape", "channels"), [(ShahamNet, 32, 1), (MadryNet, 28, 1)])
def test_other_shapes_are_refused(make, shape, channels):
    with pytest.raises(ValueError, match=rf"images must have shape \[B, {shape}, {shape}, {channels}\], got"):
        nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))(jnp.zeros((2, 30, 30, channels))))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 33, 32, 3), r"images must be 32x32 or smaller, got \(2, 33, 32, 3\)"),
        ((2, 32, 32, 1), r"images must have shape \[B, H, W, 3\], got \(2, 32, 32, 1\)"),
    ],
)
def test_other_shapes_are_refused_by_vgg(shape, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: VggCifar(rngs=nnx.Rngs(0))(jnp.zeros(shape)))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (LeNet, (28, 28, 1)),
        (lambda rngs: ShahamNet(input_norm=True, rngs=rngs), (32, 32, 1)),
        (MadryNet, (28, 28, 1)),
    ],
    ids=["lenet", "shaham", "madry"],
)
def test_loss_falls_by_nine_tenths(make, shape):
    assert loss_falls(filled(make), shape, steps=200, optimizer=optax.sgd(0.01, momentum=0.9))


@pytest.mark.slow
def test_vgg_loss_falls_by_nine_tenths_without_dropout():
    model = filled(lambda rngs: VggCifar(width=8, rngs=rngs))
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Dropout):
            node.rate = 0.0
    assert loss_falls(model, (32, 32, 3), steps=100, optimizer=optax.sgd(0.05, momentum=0.9))


def test_vgg_drops_in_training_alone():
    model, images = filled(lambda rngs: VggCifar(width=8, rngs=rngs)), jnp.asarray(_images(2, 32, 32, 3))
    graphdef, state = nnx.split(model)

    @jax.jit
    def twice(state):
        network = nnx.merge(graphdef, state, copy=True)
        quiet = network(images), network(images)
        network.train()
        return quiet, (network(images), network(images))

    quiet, noisy = twice(state)
    np.testing.assert_array_equal(*quiet)
    assert not np.allclose(*noisy)


@pytest.mark.slow
def test_vgg_starts_as_torch7_does():
    unit = VggCifar(rngs=nnx.Rngs(0)).stages[3][1]
    kernel, scales = np.asarray(unit.conv.kernel[...]), np.asarray(unit.norm.scale[...])
    assert kernel.std() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert np.abs(kernel).max() > 4 * kernel.std()
    assert not np.any(unit.conv.bias[...])
    assert (scales.min(), scales.max(), scales.mean()) == pytest.approx((0, 1, 0.5), abs=0.06)


@pytest.mark.parametrize(
    ("make", "shape"), [(lambda rngs: ShahamNet(input_norm=True, rngs=rngs), (32, 32, 1)), (MadryNet, (28, 28, 1))]
)
def test_transformations(make, shape):
    assert_works_under_transformations(make, shape)


def test_lenet_taps_change_what_follows():
    model, images = filled(LeNet), _images(2, 28, 28, 1)
    read = features(model, images)
    assert list(read) == ["input", "pool1", "pool2", "dense1", "penultimate"]
    np.testing.assert_allclose(read["penultimate"], model(images), rtol=1e-5, atol=1e-6)
    doubled = model(images, tap=lambda name, x: 2 * x if name == "dense1" else x)
    expected = model.dense2(2 * read["dense1"])
    np.testing.assert_allclose(doubled, expected, rtol=1e-5, atol=1e-6)


def test_features_needs_names_of_their_own():
    class Twice(nnx.Module):
        def __call__(self, images, tap):
            return tap("a", tap("a", images))

    with pytest.raises(ValueError, match="'a' came twice"):
        features(Twice(), jax.numpy.zeros((1, 2, 2, 1)))
