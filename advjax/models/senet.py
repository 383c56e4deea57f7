"""Squeeze-and-excitation networks for ImageNet: SENet-154 and SE-ResNet-50."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from advjax.models.blocks import HE_FAN_OUT, IMAGENET_MEAN, IMAGENET_STD, caffe_input, conv, normalize
from advjax.models.checkpoint_names import Names, caffe_names, names_of, torch_name
from advjax.models.layers import batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["SENet", "senet154", "se_resnet50"]

_EXPANSION = 4
_REDUCTION = 16
_BGR_MEAN = (104.0, 117.0, 123.0)


class SENet(nnx.Module):
    """Residual network of bottleneck blocks whose channels are weighted by what the whole image holds.

    stem -> max pool 3/2 (sizes rounded up, as Caffe does) -> four stages of `depths` blocks with `width`,
    2 `width`, 4 `width` and 8 `width` channels and four times as many outside -> mean over the image
    -> [dropout] -> dense. A block is

        x <- relu(s(z) z + shortcut(x)),   z = BN o conv 1x1 o relu o BN o conv 3x3 o relu o BN o conv 1x1 (x),
        s(z) = sigmoid(W_2 relu(W_1 mean(z) + b_1) + b_2), one weight a channel, with 1/16 of them in between.

    Two forms. `groups` = 1 is SE-ResNet: a 7x7/2 stem, strides in a block's first convolution (Caffe), shortcuts
    1x1. `groups` > 1 is SENet-154's: a stem of three 3x3 convolutions (`width`, `width`, 2 `width` channels),
    3x3 convolutions in groups with twice the channels and with the strides, a first 1x1 convolution with half of
    those, shortcuts 3x3 where the image halves, and dropout 0.2 before the dense layer.

    Args:
        depths: blocks of each stage.
        num_classes: number of logits.
        width: channels of the first stage.
        groups: of the 3x3 convolutions.
        caffe: read images as the authors' Caffe networks do (gray levels in blue, green, red less (104, 117, 123)
            instead of a normalization by ImageNet's mean and standard deviation), and their weights.
        rngs: `nnx.Rngs`; the streams `params` (weights) and `dropout`.

    Raises:
        ValueError: not four depths.

    Taps: input (normalized), stem, layer1/0, layer1/1, ... (each block), pool, penultimate. What each block reads
    are the hidden ones: stem and all blocks but the last, which all follow a ReLU.

    Source: Hu et al. 2018, "Squeeze-and-excitation networks"; hujie-frank/SENet.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: SENet((1, 1, 1, 1), 10, width=8, rngs=nnx.Rngs(0))(jnp.zeros((2, 64, 64, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 1000,
        *,
        width: int = 64,
        groups: int = 1,
        caffe: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must be four numbers of blocks, 1 or more each, got {tuple(depths)}")
        self.caffe = caffe
        self.layer0 = _Stem(width, groups, rngs)
        inputs = width if groups == 1 else 2 * width
        for stage, depth in enumerate(depths):
            channels, stride = width * 2**stage, min(stage, 1) + 1
            blocks = []
            for index in range(depth):
                blocks.append(_Bottleneck(inputs, channels, stride if index == 0 else 1, groups, rngs))
                inputs = channels * _EXPANSION
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        self.dropout = nnx.Dropout(0.0 if groups == 1 else 0.2, rngs=rngs)
        init = fan_in_uniform(inputs)
        self.last_linear = nnx.Linear(inputs, num_classes, kernel_init=init, bias_init=init, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 or 320x320."""
        check_images(images, None, None, 3)
        x = caffe_input(images, _BGR_MEAN) if self.caffe else normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        x = tap("input", x)
        x = tap("stem", max_pool(self.layer0(x), 3, 2, ceil=True))
        for stage in range(1, 5):
            for index, block in enumerate(getattr(self, f"layer{stage}")):
                x = tap(f"layer{stage}/{index}", block(x))
        x = tap("pool", x.mean((1, 2)))
        return tap("penultimate", self.last_linear(self.dropout(x)))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block reads."""
        depths = {stage: len(getattr(self, f"layer{stage}")) for stage in range(1, 5)}
        blocks = [f"layer{stage}/{index}" for stage, depth in depths.items() for index in range(depth)]
        return ("stem", *blocks[:-1])

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in timm's checkpoints (`legacy_senet154`, `legacy_seresnet50`), with `caffe` the authors'."""
        if kind != ("caffe" if self.caffe else "torch"):
            return []
        return [caffe_names(self, _caffe_layer(self.layer0.count)) if self.caffe else names_of(self, torch_name)]


class _Stem(nnx.Module):
    def __init__(self, width: int, groups: int, rngs: nnx.Rngs) -> None:
        if groups == 1:
            self.conv1 = conv(3, width, 7, 2, rngs=rngs)
            self.bn1 = batch_norm(width, rngs=rngs)
            self.count = 1
        else:
            self.count = 3
            for index, (inputs, outputs) in enumerate(((3, width), (width, width), (width, 2 * width)), 1):
                setattr(self, f"conv{index}", conv(inputs, outputs, 3, 2 if index == 1 else 1, rngs=rngs))
                setattr(self, f"bn{index}", batch_norm(outputs, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(1, self.count + 1):
            x = nnx.relu(getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x)))
        return x


class _Bottleneck(nnx.Module):
    def __init__(self, inputs: int, channels: int, stride: int, groups: int, rngs: nnx.Rngs) -> None:
        outputs = channels * _EXPANSION
        if groups == 1:
            first, second, strides, shortcut = channels, channels, (stride, 1), 1
        else:
            first, second, strides, shortcut = 2 * channels, 4 * channels, (1, stride), 3 if stride > 1 else 1
        self.conv1 = conv(inputs, first, 1, strides[0], rngs=rngs)
        self.bn1 = batch_norm(first, rngs=rngs)
        self.conv2 = conv(first, second, 3, strides[1], groups=groups, rngs=rngs)
        self.bn2 = batch_norm(second, rngs=rngs)
        self.conv3 = conv(second, outputs, 1, rngs=rngs)
        self.bn3 = batch_norm(outputs, rngs=rngs)
        self.se_module = _Excitation(outputs, rngs)
        if stride != 1 or inputs != outputs:
            self.downsample = nnx.List(
                [conv(inputs, outputs, shortcut, stride, rngs=rngs), batch_norm(outputs, rngs=rngs)]
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if hasattr(self, "downsample"):
            for layer in self.downsample:
                shortcut = layer(shortcut)
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        return nnx.relu(self.se_module(self.bn3(self.conv3(x))) + shortcut)


class _Excitation(nnx.Module):
    # 1x1 convolutions, as in the published checkpoints.
    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        middle = channels // _REDUCTION
        self.fc1 = _dense(channels, middle, rngs)
        self.fc2 = _dense(middle, channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = nnx.relu(self.fc1(x.mean((1, 2), keepdims=True)))
        return x * nnx.sigmoid(self.fc2(weight))


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (1, 1), kernel_init=HE_FAN_OUT, bias_init=fan_in_uniform(inputs), rngs=rngs)


def _caffe_layer(convs_of_stem: int) -> Callable[[str], str | tuple[str, str]]:
    stem = {1: ("conv1/7x7_s2",), 3: ("conv1_1/3x3_s2", "conv1_2/3x3", "conv1_3/3x3")}[convs_of_stem]
    block = {
        "conv1": "1x1_reduce",
        "conv2": "3x3",
        "conv3": "1x1_increase",
        "se_module/fc1": "1x1_down",
        "se_module/fc2": "1x1_up",
        "downsample/0": "1x1_proj",
    }

    def name(module: str) -> str | tuple[str, str]:
        if module == "last_linear":
            return "classifier"
        # A batch norm is called after its convolution.
        place = module.replace("bn", "conv").replace("downsample/1", "downsample/0")
        layer, rest = place.split("/", 1)
        if layer == "layer0":
            found = stem[int(rest.removeprefix("conv")) - 1]
        else:
            index, part = rest.split("/", 1)
            found = f"conv{int(layer.removeprefix('layer')) + 1}_{int(index) + 1}_{block[part]}"
        return found if place == module else (f"{found}/bn", f"{found}/bn/scale")

    return name


def senet154(num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> SENet:
    """SENet-154: 115,088,984 parameters, 20,688M multiply-adds at 224x224 and 42,212M at 320x320.

    The released network has this size; the 145.8M of the NASNet paper's table, which Di et al. repeat, is another.

    >>> from advjax.models.counting import abstract
    >>> len(abstract(senet154).layer3)
    36
    """
    return SENet((3, 8, 36, 3), num_classes, groups=64, caffe=caffe, rngs=rngs)


def se_resnet50(num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> SENet:
    """SE-ResNet-50: 28,088,024 parameters, 3,860M multiply-adds at 224x224.

    >>> from advjax.models.counting import abstract
    >>> len(abstract(se_resnet50).layer3)
    6
    """
    return SENet((3, 4, 6, 3), num_classes, caffe=caffe, rngs=rngs)
