"""CondenseNet: the network in training and the converted one against PyTorch, condensation, group lasso."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import (
    CondensedNet,
    CondenseNet,
    abstract,
    condensation_steps,
    condense,
    condense_loss,
    convert,
    count_macs,
    features,
    group_lasso,
)
from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD
from tests.models.networks_for_tests import assert_works_under_transformations, filled, loss_falls, our_logits
from tests.reference.numpy_layers import batch_norm, relu

_SIZES = {"stages": (2, 2), "growth": (8, 16), "stem_stride": 1}


def _images(*shape):
    return np.random.default_rng(5).uniform(0, 1, shape).astype(np.float32)


def _normalized(images):
    return (images - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)


def _condensed(model):
    for _ in range(model.groups - 1):
        model = condense(model)
    return model


class _Reference:
    """The authors' networks, function by function in PyTorch, on our weights."""

    def __init__(self):
        self.torch = pytest.importorskip("torch")

    def norm(self, x, norm, index=slice(None)):
        values = (np.array(getattr(norm, n)[...]) for n in ("mean", "var", "scale", "bias"))
        mean, var, scale, bias = (self.torch.tensor(value) for value in values)
        return self.torch.relu(self.torch.nn.functional.batch_norm(x, mean, var, scale, bias, eps=1e-5))

    def conv(self, x, conv, stride=1, groups=1):
        kernel = self.torch.tensor(np.array(conv.kernel[...]).transpose(3, 2, 0, 1))
        return self.torch.nn.functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, groups)

    def learned(self, x, layer):
        # LearnedGroupConv: rows g::G of the mask are group g.
        weight = self.torch.tensor(np.array(layer.kernel[...]).T)[:, :, None, None].clone()
        mask, groups = np.array(layer.mask[...]), layer.mask.shape[1]
        for group in range(groups):
            weight[group::groups, mask[:, group] == 0] = 0
        return self.torch.nn.functional.conv2d(self.norm(x, layer.norm), weight)

    def indexed(self, x, layer):
        # CondenseConv: index_select, norm, relu, group convolution, ShuffleLayer.
        x = self.norm(x[:, np.array(layer.index[...])], layer.norm)
        x = self.conv(x, layer.conv, groups=layer.groups)
        batch, channels, height, width = x.shape
        x = x.view(batch, layer.groups, channels // layer.groups, height, width)
        return x.transpose(1, 2).reshape(batch, channels, height, width)

    def logits(self, model, images, pointwise):
        x = self.torch.tensor(_normalized(images).transpose(0, 3, 1, 2))
        x = self.conv(x, model.init_conv, stride=model.stem_stride)
        for stage in range(1, len(model.stages) + 1):
            for layer in getattr(model, f"denseblock_{stage}"):
                new = self.norm(pointwise(x, layer.conv_1), layer.norm)
                x = self.torch.cat([x, self.conv(new, layer.conv_2, groups=model.groups)], 1)
            if stage < len(model.stages):
                x = self.torch.nn.functional.avg_pool2d(x, 2)
        x = self.norm(x, model.norm_last).mean((2, 3)).numpy()
        if isinstance(model, CondensedNet):
            x = x[:, np.array(model.index[...])]
        return x @ np.array(model.classifier.kernel[...]) + np.array(model.classifier.bias[...])


@pytest.mark.peers
@pytest.mark.parametrize("groups", [4, 8])
def test_networks_in_training_and_converted_equal_torch(groups):
    reference, images = _Reference(), _images(2, 16, 16, 3)
    model = condense(filled(partial(CondenseNet, 10, groups=groups, **_SIZES)))
    expected = reference.logits(model, images, reference.learned)
    assert np.abs(our_logits(model, images) - expected).max() < 1e-4 * np.abs(expected).max()
    converted = convert(_condensed(model))
    expected = reference.logits(converted, images, reference.indexed)
    assert np.abs(our_logits(converted, images) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize("groups", [4, 8])
def test_published_sizes_equal_torch(groups):
    reference, images = _Reference(), _images(1, 224, 224, 3)
    model = filled(partial(CondensedNet, groups=groups))
    expected = reference.logits(model, images, reference.indexed)
    assert np.abs(our_logits(model, images) - expected).max() < 1e-4 * np.abs(expected).max()


def _dropping(weight, mask, groups, count, delta):
    """LearnedGroupConv._dropping of the authors in NumPy: weight and mask [outputs, inputs], mask in place."""
    outputs, inputs = weight.shape
    rows = outputs // groups
    shuffled = np.abs(weight * mask).reshape(rows, groups, inputs).transpose(1, 0, 2).reshape(outputs, inputs)
    for group in range(groups):
        order = np.argsort(shuffled[group * rows : (group + 1) * rows].sum(0), kind="stable")
        mask[group::groups, order[count : count + delta]] = 0


def test_condensation_follows_the_authors():
    model = filled(partial(CondenseNet, 10, groups=4, **_SIZES))
    weight = np.array(model.denseblock_2[1].conv_1.kernel[...]).T
    mask, inputs = np.ones_like(weight), weight.shape[1]
    for stage in range(3):
        _dropping(weight, mask, 4, stage * inputs // 4, inputs // 4)
        model = jax.jit(lambda split: nnx.split(condense(nnx.merge(*split))))(nnx.split(model))
        model = nnx.merge(*model)
        ours = np.array(model.denseblock_2[1].conv_1.mask[...])
        np.testing.assert_array_equal(np.tile(ours, (1, len(weight) // 4)).T, mask)
        assert np.all(ours.sum(0) == inputs - (stage + 1) * inputs // 4)
    again = condense(model)
    np.testing.assert_array_equal(again.denseblock_2[1].conv_1.mask[...], ours)


def test_condense_leaves_the_model_given_as_it_is():
    model = filled(partial(CondenseNet, 10, groups=4, **_SIZES))
    condense(model)
    assert np.all(model.denseblock_1[0].conv_1.mask[...] == 1)


def test_conversion_changes_the_end_alone():
    model, images = _condensed(filled(partial(CondenseNet, 10, groups=4, **_SIZES))), _images(2, 16, 16, 3)
    converted = convert(model)
    before, after = features(model, images), features(converted, images)
    # The convolutions of the converted network read some of what they read before.
    assert converted.hidden_taps == model.hidden_taps
    for name in before.keys() - {"penultimate", *model.hidden_taps}:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5)
    kernel = np.array(model.classifier.kernel[...])
    kernel[np.argsort(np.abs(kernel).sum(1))[: len(kernel) // 2]] = 0
    expected = np.array(before["pool"]) @ kernel + np.array(model.classifier.bias[...])
    np.testing.assert_allclose(after["penultimate"], expected, rtol=1e-4, atol=1e-4)


def test_hidden_taps_are_what_the_layers_read_after_their_activation():
    model, images = filled(partial(CondenseNet, 10, **_SIZES)), _images(2, 16, 16, 3)
    read = nnx.jit(features)(model, images)
    hidden = ("denseblock_1/0/relu", "denseblock_1/1/relu", "denseblock_2/0/relu", "denseblock_2/1/relu")
    assert model.hidden_taps == hidden
    for name, layer, inputs in (
        (hidden[0], model.denseblock_1[0], "stem"),
        (hidden[2], model.denseblock_2[0], "transition_1"),
    ):
        expected = relu(batch_norm(np.float64(read[inputs]), layer.conv_1.norm, 1e-5))
        np.testing.assert_allclose(read[name], expected, rtol=1e-4, atol=1e-5)


def test_conversion_before_the_last_stage_is_refused():
    model = condense(filled(partial(CondenseNet, 10, groups=4, **_SIZES)))
    with pytest.raises(ValueError, match="condensed 3 times before it is converted"):
        convert(model)


def test_group_lasso_against_its_definition():
    model = condense(filled(partial(CondenseNet, 10, groups=4, **_SIZES)))
    expected = 0.0
    for stage in (1, 2):
        for layer in getattr(model, f"denseblock_{stage}"):
            kernel, mask = np.float64(layer.conv_1.kernel[...]), np.float64(layer.conv_1.mask[...])
            for group in range(4):
                square = ((kernel[:, group::4] * mask[:, group : group + 1]) ** 2).sum(1)
                expected += np.sqrt(np.maximum(square, 1e-6)).sum()
    assert float(group_lasso(model)) == pytest.approx(expected, rel=1e-5)
    assert float(group_lasso(_condensed(model))) == 0.0


def test_group_lasso_has_a_finite_gradient_where_inputs_are_dropped():
    graphdef, params, rest = nnx.split(condense(filled(partial(CondenseNet, 10, groups=4, **_SIZES))), nnx.Param, ...)
    gradient = jax.jit(jax.grad(lambda params: group_lasso(nnx.merge(graphdef, params, rest, copy=True))))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_stages_lie_in_the_first_half():
    assert condensation_steps(120, 4) == (20, 40, 60)
    assert condensation_steps(100, 8) == (8, 15, 22, 29, 36, 43, 50)


@pytest.mark.parametrize(("groups", "published"), [(4, 529e6), (8, 274e6)])
def test_multiply_adds_with_relu_and_pools_are_the_published_ones(groups, published):
    """The authors' measure_model adds one operation for each value of a ReLU and for each pixel of a mean pool."""
    model = abstract(partial(CondensedNet, groups=groups))
    size, channels, extra = 112, 16, 0
    for layers, rate in zip(model.stages, model.growth, strict=True):
        for _ in range(layers):
            extra += size * size * (channels + 4 * rate)
            channels += rate
        if size > 7:
            extra += size * size * channels
            size //= 2
    extra += 2 * size * size * channels
    assert count_macs(model, (224, 224, 3)) + extra == pytest.approx(published, rel=0.002)


@pytest.mark.parametrize(
    "options",
    [
        {"stages": (1, 2), "growth": (8,)},
        {"stages": (), "growth": ()},
        {"stages": (1,), "growth": (6,), "groups": 4},
        {"stages": (1,), "growth": (8,), "groups": 1},
    ],
)
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        CondenseNet(10, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("make", [CondenseNet, CondensedNet])
def test_transformations(make):
    assert_works_under_transformations(partial(make, 10, groups=4, **_SIZES), (16, 16, 3))


@pytest.mark.slow
def test_loss_falls_by_nine_tenths_while_condensing():
    model = condense(filled(partial(CondenseNet, 10, stages=(1, 1), growth=(16, 16), groups=2, stem_stride=2)))
    assert loss_falls(model, (8, 8, 3), steps=200, optimizer=optax.sgd(0.2, momentum=0.9), loss=condense_loss)


def test_states_condense_under_vmap():
    graphdef, first = nnx.split(filled(partial(CondenseNet, 10, groups=4, **_SIZES), 0))
    _, second = nnx.split(filled(partial(CondenseNet, 10, groups=4, **_SIZES), 1))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)

    def masks(state):
        return condense(nnx.merge(graphdef, state, copy=True)).denseblock_1[1].conv_1.mask[...]

    both = jax.jit(jax.vmap(masks))(stacked)
    np.testing.assert_array_equal(both[1], masks(second))
