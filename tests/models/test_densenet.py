"""DenseNet-169: torchvision's logits, both spellings of its weights, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models.counting import abstract
from advjax.models.densenet import DenseNet, densenet169
from advjax.models.taps import features
from advjax.models.weights import load_weights
from tests.models.networks_for_tests import assert_close, filled, loss_falls, our_logits
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images
from tests.reference.numpy_layers import batch_norm, relu


def _small(rngs):
    return DenseNet((2, 2), 10, growth=8, rngs=rngs)


@pytest.mark.peers
@pytest.mark.slow
def test_logits_equal_those_of_torchvision(tmp_path):
    models, images = torchvision_models(), two_images(96)
    import torch

    theirs = randomized(models.densenet169, images)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = load_weights(abstract(densenet169), tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


@pytest.mark.peers
@pytest.mark.parametrize("published", [False, True])
def test_logits_of_a_narrow_one_equal_those_of_torchvision(published, tmp_path):
    models, images = torchvision_models(), two_images(64)
    import torch

    theirs = randomized(lambda: models.DenseNet(8, (2, 2), 16, num_classes=10), images)
    state = theirs.state_dict()
    if published:  # the files of 2017 say norm.1 for norm1
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            state = {key.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}."): value for key, value in state.items()}
        assert "features.denseblock1.denselayer2.norm.1.weight" in state
    torch.save(state, tmp_path / "weights.pth")
    model = load_weights(filled(_small), tmp_path / "weights.pth")
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


def test_taps_are_there():
    model = filled(_small)
    read = nnx.jit(features)(model, jnp.asarray(two_images(32)))
    hidden = {f"denseblock{block}/{layer}/relu" for block in (1, 2) for layer in (0, 1)}
    assert set(model.hidden_taps) == hidden
    others = {"input", "stem", "denseblock1", "transition1", "denseblock2", "pool", "penultimate"}
    assert set(read) == hidden | others
    assert read["denseblock1"].shape == (2, 8, 8, 32)
    assert read["transition1"].shape == (2, 4, 4, 16)
    for name, layer, inputs in (
        ("denseblock1/0/relu", model.denseblock1[0], "stem"),
        ("denseblock2/0/relu", model.denseblock2[0], "transition1"),
    ):
        expected = relu(batch_norm(np.float64(read[inputs]), layer.norm1, 1e-5))
        np.testing.assert_allclose(read[name], expected, rtol=1e-4, atol=1e-5)


def test_kernels_start_as_he():
    model = DenseNet((1,), 10, growth=32, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    layer = model.denseblock1[0]
    assert layer.conv1.kernel[...].std() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert layer.conv2.kernel[...].std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert not model.classifier.bias[...].any()


def test_equal_networks_have_equal_definitions():
    assert nnx.graphdef(abstract(_small)) == nnx.graphdef(abstract(_small))


def test_it_trains():
    assert loss_falls(filled(_small), (32, 32, 3), steps=60, optimizer=optax.sgd(0.1, momentum=0.9))


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match=r"depths must be numbers of layers, 1 or more each, got \(\)"):
        abstract(lambda rngs: DenseNet((), rngs=rngs))
    with pytest.raises(ValueError, match=r"images must have shape \[B, H, W, 3\], got \(32, 32, 3\)"):
        filled(_small)(jnp.zeros((32, 32, 3)))
