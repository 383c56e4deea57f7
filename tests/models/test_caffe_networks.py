"""Published Caffe layouts: small networks of each, written as `.caffemodel`, against NumPy's forward pass."""

import numpy as np
import pytest

from advjax.models.counting import abstract
from advjax.models.densenet import DenseNet
from advjax.models.googlenet import GoogLeNet
from advjax.models.resnet import ResNet
from advjax.models.senet import SENet
from advjax.models.vgg import Vgg16
from advjax.models.weights import WeightsError, load_weights
from tests.models import caffe_networks as originals
from tests.models.caffe_files import caffemodel
from tests.models.networks_for_tests import assert_close, our_logits
from tests.models.torchvision_models import two_images

_DEPTHS = (1, 2, 1, 1)
_CASES = {
    "vgg16": (
        lambda rngs: Vgg16(10, image_size=32, width=4, caffe=True, rngs=rngs),
        lambda net, images: originals.vgg16(net, images, width=4, classes=10),
    ),
    "resnet50": (
        lambda rngs: ResNet(_DEPTHS, 10, width=4, caffe=True, rngs=rngs),
        lambda net, images: originals.resnet(net, images, _DEPTHS, width=4, classes=10, numbered=False, biased=True),
    ),
    "resnet152": (
        lambda rngs: ResNet(_DEPTHS, 10, width=4, caffe=True, rngs=rngs),
        lambda net, images: originals.resnet(net, images, _DEPTHS, width=4, classes=10, numbered=True, biased=False),
    ),
    "se-resnet50": (
        lambda rngs: SENet(_DEPTHS, 10, width=4, caffe=True, rngs=rngs),
        lambda net, images: originals.senet(net, images, _DEPTHS, width=4, classes=10, groups=1),
    ),
    "senet154": (
        lambda rngs: SENet(_DEPTHS, 10, width=4, groups=2, caffe=True, rngs=rngs),
        lambda net, images: originals.senet(net, images, _DEPTHS, width=4, classes=10, groups=2),
    ),
    "densenet169": (
        lambda rngs: DenseNet((1, 2), 10, growth=4, caffe=True, rngs=rngs),
        lambda net, images: originals.densenet(net, images, (1, 2), growth=4, classes=10),
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_logits_equal_those_of_the_caffe_network(name, tmp_path):
    make, original = _CASES[name]
    net, images = originals.CaffeNet(), two_images(32)
    expected = original(net, images)
    # VGG published the older format.
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(net.blobs, legacy=name == "vgg16"))
    model = load_weights(abstract(make), tmp_path / "net.caffemodel")
    model.eval()
    assert_close(our_logits(model, images), expected)


def test_a_batch_norm_that_counted_nothing_has_mean_and_variance_0(tmp_path):
    make, original = _CASES["densenet169"]
    net = originals.CaffeNet()
    original(net, two_images(32))
    net.blobs["conv1/bn"][2][:] = 0
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(net.blobs))
    model = load_weights(abstract(make), tmp_path / "net.caffemodel")
    assert not np.asarray(model.norm0.mean[...]).any()
    assert not np.asarray(model.norm0.var[...]).any()
    assert np.asarray(model.norm5.var[...]).all()


def test_blobs_that_do_not_fit_together_are_listed(tmp_path):
    make, original = _CASES["resnet50"]
    net = originals.CaffeNet()
    original(net, two_images(32))
    net.blobs["bn_conv1"][2] = np.ones(2, np.float32)
    net.blobs["conv1"][1] = np.ones(3, np.float32)
    del net.blobs["bn5a_branch1"][2]
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(net.blobs))
    with pytest.raises(WeightsError) as caught:
        load_weights(abstract(make), tmp_path / "net.caffemodel")
    message = str(caught.value)
    assert "1 weights of the network are missing: bn5a_branch1[2]\n" in message
    assert (
        "bn_conv1[0] (4,) float32 and bn_conv1[2] (2,) float32 and conv1[1] (3,) float32 for bn1/mean (4,)" in message
    )
    assert "bn_conv1[1] (4,) float32 and bn_conv1[2] (2,) float32 for bn1/var (4,)" in message


def test_the_option_that_reads_a_file_is_named(tmp_path):
    for make in (
        Vgg16,
        lambda **k: ResNet(_DEPTHS, **k),
        lambda **k: SENet(_DEPTHS, **k),
        lambda **k: DenseNet((1,), **k),
    ):
        for caffe, suffix in ((False, r"\.caffemodel"), (True, r"\.pth")):
            match = f"with these options reads no {suffix} files, only .*; with caffe={not caffe} it does"
            with pytest.raises(WeightsError, match=match):
                load_weights(
                    abstract(lambda rngs, make=make, caffe=caffe: make(caffe=caffe, rngs=rngs)), f"x{suffix[1:]}"
                )


def test_heads_are_dropped_by_name_and_not_in_silence(tmp_path):
    headless, headed = (
        abstract(lambda rngs, aux=aux: GoogLeNet(10, width=0.05, aux=aux, rngs=rngs)) for aux in (False, True)
    )
    rng, blobs = np.random.default_rng(0), {}
    shapes = {
        source.key: shape
        for (source, shape) in zip(headed.checkpoint_names("caffe")[0].values(), _caffe_shapes(headed), strict=True)
    }
    for key in sorted(shapes):
        blobs.setdefault(key[:-3], []).append(rng.normal(0, 0.1, shapes[key]).astype(np.float32))
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(blobs))
    with pytest.raises(WeightsError, match=r"12 tensors of the file are left over: loss1/classifier\[0\], "):
        load_weights(headless, tmp_path / "net.caffemodel")
    model = load_weights(headless, tmp_path / "net.caffemodel", drop=["loss1/*", "loss2/*"])
    np.testing.assert_array_equal(model.fc.bias[...], blobs["loss3/classifier"][1])


def _caffe_shapes(model):
    from advjax.models.weights import _weights

    for leaf in _weights(model).values():
        yield {4: lambda s: (s[3], s[2], s[0], s[1]), 2: lambda s: s[::-1], 1: lambda s: s}[leaf.ndim](leaf.shape)
