"""SqueezeNet 1.0 for ImageNet: AlexNet's accuracy with a fiftieth of its weights."""

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD, caffe_input, normalize
from advjax.models.checkpoint_names import Names, Source, caffe_names, names_of, torch_name, weight_paths
from advjax.models.layers import check_images, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["SqueezeNet"]

_HE_UNIFORM = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")
_LAST_NORMAL = nnx.initializers.normal(0.01)
_BGR_MEAN = (104.0, 117.0, 123.0)
# Channels of the 1x1 convolution that squeezes, and of each of the two that expand: Iandola et al. 2016, Table 1.
_FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
_POOLED = (4, 8)


class SqueezeNet(nnx.Module):
    """SqueezeNet 1.0: 1,248,424 parameters, 818.9M multiply-adds at 224x224.

    conv 7x7x96/2 (valid) -> max pool 3/2 -> eight fire modules, with max pools 3/2 after fire4 and fire8 -> dropout 0.5
    -> conv 1x1 of `num_classes` -> mean over the image; ReLU after each convolution, the last one too, and pools in
    ceil mode. A fire module is

        z = relu(conv 1x1 (x)),   x <- [relu(conv 1x1 (z)), relu(conv 3x3 (z))].

    Kernels start as U(+-sqrt(6 / fan_in)), the last one as N(0, 0.01^2), biases as 0, and images are normalized by
    ImageNet's mean and standard deviation (torchvision).

    `caffe` is the network of the authors, for images of 227x227: gray levels in blue, green, red less (104, 117, 123),
    and a row of zeros around what the last convolution reads: 861.3M multiply-adds.

    Args:
        num_classes: number of logits.
        caffe: be the authors' Caffe network, and read its weights.
        rngs: `nnx.Rngs`; the stream `params` draws the weights, `dropout` the masks.

    Taps: input, stem, fire2, ... fire9, penultimate. What each fire module reads (before a pool, if one comes first)
    are the hidden ones: stem and all but fire9.

    Source: Iandola et al. 2016, "SqueezeNet", Table 1; forresti/SqueezeNet, SqueezeNet_v1.0; torchvision's
    squeezenet.py.

    >>> nnx.eval_shape(lambda: SqueezeNet(10, rngs=nnx.Rngs(0))(jnp.zeros((2, 64, 64, 3)))).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> None:
        self.caffe = caffe
        self.conv1 = _conv(3, 96, 7, rngs, stride=2)
        inputs = 96
        for number, (squeeze, expand) in _FIRES.items():
            setattr(self, f"fire{number}", _Fire(inputs, squeeze, expand, rngs))
            inputs = 2 * expand
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = _conv(inputs, num_classes, 1, rngs, padding=int(caffe), init=_LAST_NORMAL)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224, Caffe 227x227."""
        check_images(images, None, None, 3)
        x = caffe_input(images, _BGR_MEAN) if self.caffe else normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        x = tap("stem", max_pool(nnx.relu(self.conv1(tap("input", x))), 3, 2, ceil=True))
        for number in _FIRES:
            x = tap(f"fire{number}", getattr(self, f"fire{number}")(x))
            if number in _POOLED:
                x = max_pool(x, 3, 2, ceil=True)
        x = nnx.relu(self.last(self.dropout(x)))
        return tap("penultimate", x.mean((1, 2)))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each fire module reads."""
        return ("stem", *(f"fire{number}" for number in list(_FIRES)[:-1]))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in torchvision's checkpoints; with `caffe` those of squeezenet_v1.0.caffemodel.

        The authors' second file, of pruned weights, holds the same layers under names of its own, which its arrays in
        an `.npz` are called by, in PyTorch's layout.
        """
        if self.caffe:
            return [caffe_names(self, _caffe_layer)] if kind == "caffe" else [_compressed_names(self)]
        return [names_of(self, _torch_name)] if kind == "torch" else []


class _Fire(nnx.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int, rngs: nnx.Rngs) -> None:
        self.squeeze = _conv(inputs, squeeze, 1, rngs)
        self.expand1x1 = _conv(squeeze, expand, 1, rngs)
        self.expand3x3 = _conv(squeeze, expand, 3, rngs, padding=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], -1))


def _conv(
    inputs: int,
    outputs: int,
    size: int,
    rngs: nnx.Rngs,
    *,
    stride: int = 1,
    padding: int = 0,
    init: nnx.Initializer = _HE_UNIFORM,
) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size, size), stride, padding=padding, kernel_init=init, rngs=rngs)


def _torch_name(path: str) -> str:
    module, rest = path.split("/", 1)
    if module.startswith("fire"):
        # torchvision numbers ReLU and pools too.
        number = int(module.removeprefix("fire"))
        return torch_name(f"features/{number + 1 + sum(number > pooled for pooled in _POOLED)}/{rest}")
    return torch_name(f"{ {'conv1': 'features/0', 'last': 'classifier/1'}[module] }/{rest}")


def _caffe_layer(module: str) -> str:
    return {"last": "conv10"}.get(module, module.replace("/squeeze", "/squeeze1x1"))


_COMPRESSED = {"last": "conv_final", "squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}


def _compressed_names(model: SqueezeNet) -> Names:
    names = {}
    for path in weight_paths(model):
        *owner, layer, leaf = path.split("/")
        end = {"kernel": "weight", "bias": "bias"}[leaf]
        names[path] = Source("/".join([*owner, _COMPRESSED.get(layer, layer), end]))
    return names
