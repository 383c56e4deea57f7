"""MobileNets, SqueezeNet and ShuffleNet: NumPy's and PyTorch's logits, weights from `.npz`, published accuracies."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.data import image_folder, to_float
from advjax.data.crops import decode, resize
from advjax.models import NETWORKS, MobileNetV1, MobileNetV2, ShuffleNet, SqueezeNet, abstract, load_weights
from advjax.models.weights import WeightsError
from tests.models.networks_for_tests import assert_close, copy_to_torch, filled, our_logits, torch_logits
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images
from tests.reference.numpy_layers import batch_norm, conv, dense, max_pool, relu


def _relu6(x):
    return np.clip(x, 0, 6)


def _same(x, stride, size=3):
    """TensorFlow's padding, whose odd row goes below."""
    total = max((-(-x.shape[1] // stride) - 1) * stride + size - x.shape[1], 0)
    sides = (total // 2, total - total // 2)
    return np.pad(x, ((0, 0), sides, sides, (0, 0)))


def _depthwise(x, layer, stride):
    kernel = np.float64(layer.kernel[...])[:, :, 0]
    windows = np.lib.stride_tricks.sliding_window_view(_same(x, stride), (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    out = np.einsum("bijcuv,uvc->bijc", windows, kernel)
    return out if layer.bias is None else out + np.float64(layer.bias[...])


@pytest.mark.parametrize("tflite", [False, True])
def test_mobilenet_equals_numpy(tflite):
    model, images = filled(partial(MobileNetV1, 10, width=0.125, tflite=tflite)), two_images(40)

    def unit(x, unit):
        return _relu6(x if tflite else batch_norm(x, unit.bn, 1e-3))

    x = unit(conv(_same(np.float64(images) * 2 - 1, 2), model.stem.conv, 2), model.stem)
    for number, block in enumerate(model.blocks, 1):
        x = unit(_depthwise(x, block.depthwise.conv, 2 if number in (2, 4, 6, 12) else 1), block.depthwise)
        x = unit(conv(x, block.pointwise.conv), block.pointwise)
    logits = dense(x.mean((1, 2)), model.classifier)
    assert logits.shape == (2, 10 + tflite)
    assert_close(our_logits(model, images), logits[:, tflite:])


def test_squeezenet_of_caffe_equals_numpy():
    model, images = filled(partial(SqueezeNet, 10, caffe=True)), two_images(64)
    x = np.float64(images)[..., ::-1] * 255 - [104, 117, 123]
    x = max_pool(relu(conv(x, model.conv1, 2)), 3, 2, ceil=True)
    for number in range(2, 10):
        fire = getattr(model, f"fire{number}")
        z = relu(conv(x, fire.squeeze))
        x = np.concatenate([relu(conv(z, fire.expand1x1)), relu(conv(z, fire.expand3x3, padding=1))], -1)
        if number in (4, 8):
            x = max_pool(x, 3, 2, ceil=True)
    assert_close(our_logits(model, images), relu(conv(x, model.last, padding=1)).mean((1, 2)))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("make", "theirs"),
    [(SqueezeNet, "squeezenet1_0"), pytest.param(MobileNetV2, "mobilenet_v2", marks=pytest.mark.slow)],
)
def test_logits_equal_those_of_torchvision(make, theirs, tmp_path):
    models, images = torchvision_models(), two_images(96)
    import torch

    network = randomized(getattr(models, theirs), images)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = load_weights(abstract(make), tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(network, images))


def test_mobilenet_v2_of_google_differs_from_torchvisions_as_it_says():
    """Batch norms that change nothing are no biases; what is left are padding, preprocessing and the background."""
    model = filled(partial(MobileNetV2, 10, tflite=True))
    block = model.blocks[1]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 16)), jnp.float32)
    y = _relu6(conv(np.float64(x), block.expand.conv))
    y = conv(_relu6(_depthwise(y, block.depthwise.conv, 2)), block.project.conv)
    np.testing.assert_allclose(block(x), y, rtol=1e-4, atol=1e-4)
    assert [block.residual for block in model.blocks] == [i in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15) for i in range(17)]
    assert model.classifier.out_features == 11


@pytest.mark.peers
def test_shufflenet_equals_torch():
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Unit(nn.Module):
        def __init__(self, inputs, outputs, groups, halves):
            super().__init__()
            inner, added = outputs // 4, outputs - inputs if halves else outputs
            self.halves = halves
            self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, groups=groups, bias=False), nn.BatchNorm2d(inner)
            self.conv2 = nn.Conv2d(inner, inner, 3, 2 if halves else 1, 1, groups=inner, bias=False)
            self.conv3 = nn.Conv2d(inner, added, 1, groups=3, bias=False)
            self.bn2, self.bn3 = nn.BatchNorm2d(inner), nn.BatchNorm2d(added)

        def forward(self, x):
            z = functional.channel_shuffle(torch.relu(self.bn1(self.conv1(x))), 3)
            z = self.bn3(self.conv3(self.bn2(self.conv2(z))))
            if self.halves:
                return torch.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), z], 1))
            return torch.relu(x + z)

    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
            self.stage2 = nn.Sequential(Unit(12, 120, 1, True), Unit(120, 120, 3, False))
            self.stage3 = nn.Sequential(Unit(120, 240, 3, True))
            self.stage4 = nn.Sequential(Unit(240, 480, 3, True))
            self.fc = nn.Linear(480, 10)

        def forward(self, x):
            x = functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.fc(self.stage4(self.stage3(self.stage2(x))).mean((2, 3)))

    model, images = filled(partial(ShuffleNet, 10, width=0.5, depths=(2, 1, 1))), two_images(64)
    normalized = (images - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    assert_close(our_logits(model, images), torch_logits(copy_to_torch(model, Shuffle()), normalized))


def test_shufflenet_refuses_sizes_that_do_not_fit():
    for options, message in (
        ({"groups": 5}, "groups must be one of 1, 2, 3, 4, 8, got 5"),
        ({"width": 0.3}, "width must leave channels that 4 times 3 groups divide, got 0.3"),
        ({"depths": (1, 1)}, r"depths must be three numbers of units, 1 or more each, got \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ShuffleNet(10, **options, rngs=nnx.Rngs(0))


def _google_file(model):
    """What a `.npz` of MobileNet v1's dequantized layers holds."""
    layers = {"Conv2d_0": model.stem.conv, "Logits/Conv2d_1c_1x1": model.classifier}
    for number, block in enumerate(model.blocks, 1):
        layers[f"Conv2d_{number}_depthwise"] = block.depthwise.conv
        layers[f"Conv2d_{number}_pointwise"] = block.pointwise.conv
    arrays = {f"{name}/bias": np.array(layer.bias[...]) for name, layer in layers.items()}
    arrays |= {f"{name}/weight": np.array(layer.kernel[...]) for name, layer in layers.items()}
    arrays["Logits/Conv2d_1c_1x1/weight"] = arrays["Logits/Conv2d_1c_1x1/weight"][None, None]
    return arrays


def test_kernels_of_tensorflow_are_read_as_they_are(tmp_path):
    make = partial(MobileNetV1, 10, width=0.125, tflite=True)
    model, arrays = filled(make), None
    arrays = _google_file(model)
    np.savez(tmp_path / "whole.npz", **arrays)
    loaded = load_weights(abstract(make), tmp_path / "whole.npz")
    for ours, theirs in zip(jax.tree.leaves(nnx.state(loaded)), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    turned = arrays | {"Conv2d_0/weight": arrays["Conv2d_0/weight"].transpose(3, 2, 0, 1), "more": np.ones(1)}
    del turned["Conv2d_1_depthwise/bias"]
    np.savez(tmp_path / "other.npz", **turned)
    with pytest.raises(WeightsError) as error:
        load_weights(abstract(make), tmp_path / "other.npz")
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        "1 weights of the network are missing: Conv2d_1_depthwise/bias",
        "1 tensors of the file are left over: more",
        "1 tensors have another shape or type: Conv2d_0/weight (8, 3, 3, 3) float32 for stem/conv/kernel (3, 3, 3, 8)",
    ]
    with pytest.raises(WeightsError, match=r"with these options reads no \.npz files; with tflite=True it does"):
        load_weights(abstract(partial(MobileNetV1, 10)), tmp_path / "whole.npz")


# Of the 900 photographs those that are right, first and among the first five: 87.4 and 97.4 %, 44.7 and 71.3 %, 87.0
# and 98.0 %, 62.1 and 83.2 %, as those measured who made the files, with code of their own.
_PUBLISHED = {
    "mobilenet-tflite": ("mobilenet_v1_1.0_224.npz", (787, 877)),
    "mobilenet-0.25-128-tflite": ("mobilenet_v1_0.25_128.npz", (402, 642)),
    "mobilenet-v2-tflite": ("mobilenet_v2_1.0_224.npz", (783, 882)),
    "squeezenet-caffe": ("squeezenet10.npz", (559, 749)),
}


def _middle(example, size):
    """Their crop of photographs with a shorter side of 256 pixels: half a pixel of doubt goes up and left."""
    image = decode(example["image"], example["name"])
    if size < 224:
        image = resize(image, (round(image.shape[0] * 146 / 256), round(image.shape[1] * 146 / 256)))
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ADVJAX_NETWORKS"), reason="no ADVJAX_NETWORKS")
@pytest.mark.skipif(not os.environ.get("ADVJAX_IMAGENET_SAMPLES"), reason="no ADVJAX_IMAGENET_SAMPLES")
@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_weights_know_the_photographs(name):
    file, right = _PUBLISHED[name]
    (path,) = Path(os.environ["ADVJAX_NETWORKS"]).rglob(file)
    network = NETWORKS[name]
    model = load_weights(abstract(network.make), path)
    model.eval()
    photographs = image_folder(os.environ["ADVJAX_IMAGENET_SAMPLES"])
    images = np.stack([_middle(photographs[i], network.shape[0]) for i in range(len(photographs))])
    graphdef, state = nnx.split(model)
    first = jax.jit(lambda state, x: jax.lax.top_k(nnx.merge(graphdef, state, copy=True)(x), 5)[1])
    batches = [jnp.asarray(to_float(images[i : i + 20])) for i in range(0, len(images), 20)]
    hits = np.concatenate([first(state, batch) for batch in batches]) == photographs.labels[:, None]
    assert (hits[:, 0].sum(), hits.any(1).sum()) == right
