"""NASNet-A against timm's, whose zero padding of mean pools is put right first, and the mobile network's wiring."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import NASNetA, abstract, count_parameters, features, nasnet_a_large, nasnet_a_mobile
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
from tests.reference.numpy_layers import batch_norm, conv, dense, relu


def _images(*shape):
    return np.random.default_rng(5).uniform(0, 1, shape).astype(np.float32)


def _timm_nasnet(**options):
    """timm's network with mean pools that leave the padding out, as TensorFlow's do, whose weights it has."""
    torchvision_models()
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")

    class Mean(torch.nn.Module):
        def forward(self, x):
            size = x.shape[2]
            total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
            pad = (total // 2, total - total // 2) * 2

            def pooled(y):
                return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(y, pad), 3, 2)

            return pooled(x) / pooled(torch.ones_like(x))

    twin = timm.models.nasnet.NASNetALarge(**options)
    for cell in (twin.cell_stem_0, twin.cell_stem_1, twin.reduction_cell_0, twin.reduction_cell_1):
        cell.comb_iter_2_left = Mean()
    return twin


@pytest.mark.peers
@pytest.mark.parametrize(("filters", "stem", "size"), [(8, 8, 67), pytest.param(168, 96, 331, marks=pytest.mark.slow)])
def test_large_network_equals_timm(filters, stem, size):
    twin = _timm_nasnet(num_classes=10, stem_size=stem, num_features=24 * filters)
    model, images = filled(partial(NASNetA, 6, 24 * filters, stem, 10)), _images(2, size, size, 3)
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, twin), 2 * images - 1))


@pytest.mark.parametrize("skip", [True, False])
def test_first_cell_after_a_reduction_reads_the_right_output(skip):
    model, images = filled(partial(NASNetA, 2, 96, 8, 10, skip_reduction_input=skip)), _images(1, 32, 32, 3)
    graphdef, state = nnx.split(model)

    @jax.jit
    def cells(state, images):
        network = nnx.merge(graphdef, state, copy=True)
        read = features(network, images)
        before = read["cell_0" if skip else "cell_1"]
        return read["cell_2"], network.cell_2(read["reduction_cell_0"], before, lambda x: x)

    actual, expected = cells(state, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_transformations():
    assert_works_under_transformations(partial(NASNetA, 1, 96, 8, 10), (32, 32, 3), tolerance=1e-3)


@pytest.mark.slow
def test_loss_falls_by_nine_tenths():
    model = filled(partial(NASNetA, 1, 96, 8, 10))
    assert loss_falls(model, (24, 24, 3), steps=150, optimizer=optax.sgd(0.05, momentum=0.9))


def test_auxiliary_heads_have_the_sizes_of_slim():
    for make, channels, size, parameters in (
        (nasnet_a_large, 2016, 6, 93_320_934),
        (nasnet_a_mobile, 528, 4, 7_701_218),
    ):
        model = abstract(partial(make, aux=True))
        head = 128 * channels + 2 * 128 + size * size * 128 * 768 + 2 * 768 + 768 * 1000 + 1000
        assert count_parameters(model.aux_head) == head
        assert count_parameters(model) == parameters == count_parameters(abstract(make)) + head
        assert model.checkpoint_names("torch") == []


def test_the_auxiliary_head_reads_the_end_of_the_second_stage_in_training():
    model, images = filled(partial(NASNetA, 1, 96, 8, 10, aux_size=1)), _images(2, 96, 96, 3)

    @nnx.jit
    def heads(model):
        model.train()
        read = features(model, images)
        model.eval()
        return read["aux1"], read["cell_1"], model.aux_head(read["cell_1"]), features(model, images)

    trained, inputs, evaluated, read = heads(model)
    assert trained.shape == (2, 10)
    assert "aux1" not in read
    head = model.aux_head
    x = relu(np.float64(inputs))[:, :5, :5].mean((1, 2))[:, None, None]
    x = relu(batch_norm(conv(x, head.proj.conv), head.proj.bn, 1e-3))
    x = relu(batch_norm(conv(x, head.full.conv), head.full.bn, 1e-3))
    # `heads` has moved the running statistics before it computed with them.
    np.testing.assert_allclose(evaluated, dense(x[:, 0, 0], head.fc), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="images must leave aux_size=1 rows to the auxiliary head"):
        head(jnp.zeros((1, 12, 12, 48)))


def test_drop_path_falls_on_convolutions_and_pools():
    model = filled(partial(NASNetA, 2, 96, 8, 10))
    x, before, stem = (jnp.asarray(_images(1, 4, 4, channels)) for channels in (24, 8, 8))
    calls = []

    def gone(x):
        calls.append(x.shape[-1])
        return jnp.zeros_like(x)

    normal, kept, reduction = nnx.jit(
        lambda model: (
            model.cell_1(x, before, gone),
            (model.cell_1.conv_1x1(nnx.relu(x)), model.cell_1.conv_prev_1x1(nnx.relu(before))),
            model.cell_stem_0(stem, stem, gone),
        )
    )(model)
    # slim drops what it calls operations but "none": of the ten of a cell eight and nine.
    assert len(calls) == 8 + 9
    nothing = jnp.zeros_like(kept[0])
    expected = jnp.concatenate([kept[1], nothing, nothing, kept[1], nothing, kept[0]], -1)
    np.testing.assert_allclose(normal, expected, rtol=1e-5, atol=1e-6)
    assert not np.any(reduction)


@pytest.mark.parametrize("progress", [1.0, 0.5])
def test_drop_path_keeps_whole_images_less_often_the_deeper_and_the_later(progress):
    graphdef, state = nnx.split(filled(partial(NASNetA, 1, 96, 8, 10, keep_path=0.4)))
    ones = jnp.ones((3000, 2, 1, 2))

    def dropped(state):
        model = nnx.merge(graphdef, state, copy=True)
        model.train()
        model.progress[...] = jnp.float32(progress)
        return jnp.stack([jnp.stack([drop(ones), drop(ones)]) for drop in model._drops()])

    found = np.asarray(jax.jit(dropped)(state))
    assert len(found) == 7
    assert np.array_equal(found, np.broadcast_to(found[..., :1, :1, :1], found.shape))
    kept = found[..., 0, 0, 0] > 0
    keep = 1 - progress * np.arange(1, 8) / 7 * 0.6
    np.testing.assert_allclose(kept.mean((1, 2)), keep, atol=0.03)
    np.testing.assert_allclose(found.max((1, 2, 3, 4, 5)), 1 / keep, rtol=1e-5)
    # Each operation of each cell has draws of its own: as many agree as chance has it.
    flat = kept.reshape(14, -1)
    for other in range(1, 14):
        first, second = flat[0].mean(), flat[other].mean()
        agree = first * second + (1 - first) * (1 - second)
        assert np.mean(flat[0] == flat[other]) == pytest.approx(agree, abs=0.04)


@pytest.mark.slow
def test_drop_path_acts_in_training_by_a_schedule_that_needs_no_new_trace():
    plain, images = filled(partial(NASNetA, 1, 96, 8, 10)), _images(2, 32, 32, 3)
    model = abstract(partial(NASNetA, 1, 96, 8, 10, keep_path=0.7))
    nnx.update(model, nnx.state(plain))
    model.draws = nnx.RngStream(jax.random.key(1), tag="dropout")
    traces = []

    @partial(jax.jit, static_argnums=0)
    def logits(training, parts, progress):
        traces.append(training)
        network = nnx.merge(*parts, copy=True)
        network.train() if training else network.eval()
        if network.keep_path < 1:
            network.progress[...] = progress
        return network(images)

    model.progress = nnx.Variable(jnp.float32(1))
    with_drops, without = nnx.split(model), nnx.split(plain)
    start, end = (logits(True, with_drops, jnp.float32(progress)) for progress in (0, 1))
    assert len(traces) == 1
    np.testing.assert_allclose(start, logits(True, without, jnp.float32(0)), rtol=1e-3, atol=1e-3)
    assert np.abs(end - start).max() > 0.01
    evaluated = (logits(False, parts, jnp.float32(1)) for parts in (with_drops, without))
    np.testing.assert_allclose(*evaluated, rtol=1e-5, atol=1e-5)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="penultimate must be a multiple of 96"):
        NASNetA(6, 100, 32, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"keep_path must be in \(0, 1\], got 0"):
        NASNetA(6, 96, 32, keep_path=0.0, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_large_network_compiles_and_names_every_cell():
    graphdef, state = nnx.split(filled(nasnet_a_large))
    read = jax.jit(lambda state, x: features(nnx.merge(graphdef, state, copy=True), x))(state, _images(1, 64, 64, 3))
    assert sum(name.startswith("cell_") for name in read) == 2 + 18
    assert read["penultimate"].shape == (1, 1000)
    assert np.all(np.isfinite(read["penultimate"]))
