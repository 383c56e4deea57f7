"""NASNet-A against timm's, whose zero padding of mean pools is put right first, and the mobile network's wiring."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import NASNetA, features, nasnet_a_large
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
        return read["cell_2"], network.cell_2(read["reduction_cell_0"], before)

    actual, expected = cells(state, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_transformations():
    assert_works_under_transformations(partial(NASNetA, 1, 96, 8, 10), (32, 32, 3), tolerance=1e-3)


@pytest.mark.slow
def test_loss_falls_by_nine_tenths():
    model = filled(partial(NASNetA, 1, 96, 8, 10))
    assert loss_falls(model, (24, 24, 3), steps=150, optimizer=optax.sgd(0.05, momentum=0.9))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="penultimate must be a multiple of 96"):
        NASNetA(6, 100, 32, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_large_network_compiles_and_names_every_cell():
    graphdef, state = nnx.split(filled(nasnet_a_large))
    read = jax.jit(lambda state, x: features(nnx.merge(graphdef, state, copy=True), x))(state, _images(1, 64, 64, 3))
    assert sum(name.startswith("cell_") for name in read) == 2 + 18
    assert read["penultimate"].shape == (1, 1000)
    assert np.all(np.isfinite(read["penultimate"]))
