"""The forms for images of 32x32 and 28x28: twins in PyTorch, trunks, what is refused."""

from functools import partial

import jax.numpy as jnp
import pytest
from flax import nnx

from advjax.models import (
    DenseNet,
    ResNet,
    StochasticDepthResNet,
    VggCifar,
    WideResNet,
    abstract,
    features,
    load_weights,
)
from tests.models.networks_for_tests import assert_close, our_logits
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images

_GRAY = {"mean": (0.1307,), "std": (0.3081,)}
_SMALL = {"small_images": True}


@pytest.mark.parametrize("make", [VggCifar, partial(ResNet, (1, 1, 1, 1)), partial(DenseNet, (1,))])
def test_means_and_deviations_are_those_of_the_channels(make):
    for mean, std in (((0.5,), (0.5, 0.5)), ((), ()), ((0.5,), (0.0,)), ((0.5,), (float("nan"),))):
        with pytest.raises(
            ValueError, match="mean and std must hold a number for each channel, std positive ones, got"
        ):
            make(mean=mean, std=std, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("make", [partial(ResNet, (1, 1, 1, 1)), partial(DenseNet, (1,))])
@pytest.mark.parametrize("options", [{"small_images": True}, {"mean": (0.5, 0.5, 0.5)}, {"std": (1.0, 1.0, 1.0)}])
def test_networks_of_caffe_have_their_own_stem_and_colors(make, options):
    with pytest.raises(ValueError, match="caffe must be False with small_images, mean or std"):
        make(caffe=True, **options, rngs=nnx.Rngs(0))


@pytest.mark.peers
@pytest.mark.parametrize("size", [32, 28])
def test_resnet_for_small_images_equals_torch(size, tmp_path):
    models, images = torchvision_models(), two_images(size)
    import torch

    def make():
        theirs = models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10)
        theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = torch.nn.Identity()
        return theirs

    theirs = randomized(make, images)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = abstract(partial(ResNet, (1, 1, 1, 1), 10, small_images=True))
    model = load_weights(ours, tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


@pytest.mark.peers
def test_densenet_for_small_images_equals_torch(tmp_path):
    models, images = torchvision_models(), two_images(32)
    import torch

    def make():
        theirs = models.DenseNet(8, (2, 2), 16, num_classes=10)
        theirs.features.conv0 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
        for name in ("norm0", "relu0", "pool0"):
            setattr(theirs.features, name, torch.nn.Identity())
        return theirs

    theirs = randomized(make, images)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = abstract(partial(DenseNet, (2, 2), 10, growth=8, small_images=True))
    model = load_weights(ours, tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))


@pytest.mark.parametrize(
    ("make", "size", "trunk"),
    [
        (partial(ResNet, (1, 2, 1, 1), 10, width=2, **_SMALL), (32, 32, 3), (4, 4, 64)),
        (partial(ResNet, (1, 2, 1, 1), 10, width=2, **_SMALL, **_GRAY), (28, 28, 1), (4, 4, 64)),
        (partial(DenseNet, (1, 1, 1, 1), 10, growth=4, **_SMALL), (32, 32, 3), (4, 4, 8)),
        (partial(DenseNet, (1, 1, 1, 1), 10, growth=4, **_SMALL, **_GRAY), (28, 28, 1), (3, 3, 8)),
        (partial(DenseNet, (1, 1, 1, 1), 10, growth=4), (224, 224, 3), (7, 7, 8)),
        (partial(VggCifar, width=2), (32, 32, 3), (1, 1, 16)),
        (partial(VggCifar, width=2, **_GRAY), (28, 28, 1), (1, 1, 16)),
        (partial(WideResNet, 10, 1), (32, 32, 3), (8, 8, 64)),
        (partial(StochasticDepthResNet, 8), (32, 32, 3), (8, 8, 64)),
    ],
)
def test_trunks_end_in_an_image_that_the_logits_come_from(make, size, trunk):
    def trace():
        network = make(rngs=nnx.Rngs(0))
        network.eval()
        return network.trunk(jnp.zeros((2, *size))), features(network, jnp.zeros((2, *size)))

    found, read = nnx.eval_shape(trace)
    assert found.shape == (2, *trunk)
    assert read["penultimate"].shape == (2, 10)
