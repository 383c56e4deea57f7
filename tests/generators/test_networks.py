"""The perturbation generation network: sizes, a twin of the decoder in PyTorch, its start, units and modes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.generators import Decoder, Generator, generator
from advjax.models import ResNet, VggCifar, abstract, count_parameters, resnet50, resnet101
from advjax.models.blocks import IMAGENET_STD
from tests.models.networks_for_tests import filled

_SMALL = {"width": 1, "small_images": True, "mean": (0.5,), "std": (0.25,)}


def _images(*shape):
    return jnp.asarray(np.random.default_rng(5).uniform(0, 1, shape), jnp.float32)


def _make(rngs, std=(0.25,)):
    return generator(ResNet((1, 1, 1, 1), 10, **_SMALL, rngs=rngs), (28, 28, 1), std=std, channels=(8, 4), rngs=rngs)


@jax.jit
def _run(model, images):
    """The perturbations, the perturbed images, what the decoder gives, and the statistics afterwards."""
    v = model(images)
    statistics = nnx.state(model, nnx.BatchStat)
    return v, model.perturbed(images), model.decoder(model.encoder.trunk(images)), statistics


@pytest.mark.parametrize(
    ("make", "trunk"),
    [(resnet50, 23_508_032), pytest.param(resnet101, 42_500_160, marks=pytest.mark.slow)],
)
def test_sizes_of_the_papers_generators(make, trunk):
    model = abstract(lambda rngs: generator(make(rngs=rngs), (224, 224, 3), std=IMAGENET_STD, rngs=rngs))
    assert count_parameters(model.encoder) - count_parameters(model.encoder.fc) == trunk
    assert count_parameters(model.decoder) == 25_805_443
    images = jnp.zeros((2, 224, 224, 3))
    assert nnx.eval_shape(lambda model: model(images), model).shape == images.shape


@pytest.mark.parametrize(
    ("inputs", "channels", "outputs", "kernels", "final"),
    [(2048, (128, 64), 3, (4, 3, 3), 4), (5, (4,), 1, (2, 3), 3)],
)
def test_sizes_of_decoders(inputs, channels, outputs, kernels, final):
    model = abstract(partial(Decoder, inputs, channels, outputs, kernels=kernels, final=final))
    expected, before = 0, inputs
    for width in channels:
        for size in kernels:
            expected += size**2 * before * width + 2 * width  # a kernel, and the scale and bias of a batch norm
            before = width
    assert count_parameters(model) == expected + final**2 * before * outputs + outputs
    found = nnx.eval_shape(lambda model: model(jnp.zeros((2, 3, 4, inputs))), model).shape
    assert found == (2, 3 * 2 ** (len(channels) + 1), 4 * 2 ** (len(channels) + 1), outputs)


@pytest.mark.parametrize(
    ("shape", "encoder", "channels"),
    [
        ((32, 32, 3), partial(ResNet, (1, 1, 1, 1), 10, width=1, small_images=True), [128, 64]),
        ((28, 28, 1), partial(ResNet, (1, 1, 1, 1), 10, **_SMALL), [128, 64]),
        ((32, 24, 3), partial(VggCifar, width=1), [512, 256, 128, 64]),
        ((64, 260, 3), partial(ResNet, (1, 1, 1, 1), 10, width=1), [512, 256, 128, 64]),
    ],
)
def test_as_many_blocks_as_it_takes(shape, encoder, channels):
    model = abstract(lambda rngs: generator(encoder(rngs=rngs), shape, std=(1.0,), rngs=rngs))
    assert [block[-1].deconv.out_features for block in model.decoder.blocks] == channels
    assert nnx.eval_shape(lambda model: model(jnp.zeros((2, *shape))), model).shape == (2, *shape)


@pytest.mark.peers
def test_decoder_equals_torch():
    torch = pytest.importorskip("torch")
    model, x = filled(partial(Decoder, 5, (4, 3), 2)), _images(2, 3, 4, 5) - 0.5

    def deconv(layer, x):
        # JAX slides the kernel as it is over the image with zeros between, PyTorch the kernel turned by 180 degrees.
        kernel = np.flip(np.asarray(layer.kernel[...]), (0, 1)).transpose(2, 3, 0, 1).copy()
        stride, bias = layer.strides, layer.bias if layer.bias is None else torch.tensor(np.asarray(layer.bias[...]))
        return torch.nn.functional.conv_transpose2d(x, torch.tensor(kernel), bias, stride, padding=1)

    expected = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    for block in model.blocks:
        for unit in block:
            statistics = (torch.tensor(np.asarray(getattr(unit.norm, name)[...])) for name in ("mean", "var"))
            affine = (torch.tensor(np.asarray(getattr(unit.norm, name)[...])) for name in ("scale", "bias"))
            normed = torch.nn.functional.batch_norm(deconv(unit.deconv, expected), *statistics, *affine, eps=1e-5)
            expected = torch.relu(normed)
    expected = deconv(model.final, expected).permute(0, 2, 3, 1).numpy()
    assert expected.shape == (2, 24, 32, 2)
    np.testing.assert_allclose(jax.jit(model)(x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_perturbations_are_the_middle_and_in_the_networks_units():
    model, images = filled(_make), _images(2, 28, 28, 1)
    v, perturbed, decoded, _ = _run(model, images)
    assert decoded.shape == (2, 32, 32, 1)
    np.testing.assert_array_equal(v, decoded[:, 2:30, 2:30])
    np.testing.assert_allclose(perturbed, images + 0.25 * v, rtol=1e-5, atol=1e-6)
    assert perturbed.min() < 0  # nothing is clipped
    assert perturbed.max() > 1


def test_perturbations_are_nearly_none_in_the_beginning():
    @jax.jit
    def start(key, x):
        model = Decoder(32, (16,), kernels=(4, 3), rngs=nnx.Rngs(key))
        return model(x), model

    v, model = start(jax.random.key(0, impl="rbg"), _images(2, 4, 4, 32))
    assert 1e-3 < jnp.abs(v).max() < 0.05
    assert model.final.kernel[...].std() == pytest.approx(0.01 * (4 * 4 * 16) ** -0.5, rel=0.1)
    assert not jnp.any(model.final.bias[...])
    assert model.blocks[0][0].deconv.kernel[...].std() == pytest.approx((2 / (4 * 4 * 32)) ** 0.5, rel=0.05)


def test_batches_are_normalized_by_themselves_in_training_alone():
    model, images = filled(_make), _images(3, 28, 28, 1)
    before = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    v, _, _, after = _run(model, images)
    np.testing.assert_allclose(_run(model, images[::-1])[0][::-1], v, rtol=1e-4, atol=1e-5)
    assert all(np.array_equal(each[...], value[...]) for (_, each), (_, value) in _pairs(before, after))
    model.train()
    noisy, _, _, after = _run(model, images)
    assert jnp.abs(noisy - v).max() > 1e-2
    assert not any(np.array_equal(each[...], value[...]) for (_, each), (_, value) in _pairs(before, after))


def _pairs(before, after):
    return zip(before, nnx.to_flat_state(after), strict=True)


def test_all_but_the_unread_head_learns():
    model, images = filled(_make), _images(4, 28, 28, 1)
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(params):
        v = nnx.merge(graphdef, params, rest, copy=True)(images)
        return jnp.mean((v - 1) ** 2)

    for path, leaf in nnx.to_flat_state(gradient(params)):
        assert np.all(np.isfinite(leaf[...]))
        assert np.any(leaf[...]) != (path[:2] == ("encoder", "fc")), path


def test_equal_generators_have_equal_definitions():
    assert nnx.graphdef(abstract(_make)) == nnx.graphdef(abstract(_make))


def _perturbed(std):
    return nnx.eval_shape(lambda: _make(nnx.Rngs(0), std).perturbed(jnp.zeros((2, 28, 28, 1))))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Decoder(4, (), rngs=nnx.Rngs(0)), r"channels must be one number or more, each 1 or more, got \(\)"),
        (lambda: Decoder(4, (4, 0), rngs=nnx.Rngs(0)), r"channels must be .*, got \(4, 0\)"),
        (lambda: Decoder(4, kernels=(), rngs=nnx.Rngs(0)), r"kernels must be .*, got \(\)"),
        (lambda: _perturbed(()), r"std must hold positive numbers, one or one for each channel, got \(\)"),
        (lambda: _perturbed((0.0,)), r"std must hold positive numbers, .*, got \(0.0,\)"),
        (lambda: _perturbed((0.2, 0.2)), r"std must hold 1 number or 1, one for each channel, got \(0.2, 0.2\)"),
    ],
)
def test_what_cannot_be_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_sizes_that_do_not_fit_are_refused():
    encoder = abstract(partial(ResNet, (1, 1, 1, 1), 10, **_SMALL))
    for channels, outputs in (((8,), 1), ((8, 4), 3)):
        decoder = abstract(partial(Decoder, 32, channels, outputs))
        with pytest.raises(ValueError, match=r"decoder must give at least 28x28 pixels of 1 channels for images"):
            nnx.eval_shape(lambda model: model(jnp.zeros((2, 28, 28, 1))), Generator(encoder, decoder, std=(1.0,)))
    linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"encoder must have a method trunk\(images\) -> \[B, h, w, F\], got a Linear"):
        Generator(linear, decoder, std=(1.0,))
    with pytest.raises(ValueError, match=r"network must have a method trunk\(images\) -> \[B, h, w, F\], got a Linear"):
        generator(linear, (28, 28, 1), std=(1.0,), rngs=nnx.Rngs(0))
