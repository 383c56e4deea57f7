"""ResNet-50, -101 and -152: as torchvision has them, as the authors published them in Caffe, and for small images."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD, caffe_input, conv, input_channels, normalize
from advjax.models.checkpoint_names import Names, caffe_names, names_of, torch_name
from advjax.models.layers import batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["ResNet", "resnet50", "resnet101", "resnet152"]

_EXPANSION = 4
# The mean color (blue, green, red) of ResNet_mean.binaryproto, the picture that the authors subtract.
_BGR_MEAN = (103.06262, 115.902885, 123.15163)


class ResNet(nnx.Module):
    """Residual network of bottleneck blocks.

    conv 7x7/2 -> BN -> ReLU -> max pool 3/2 -> four stages of `depths` blocks with `width`, 2 `width`, 4 `width`
    and 8 `width` channels inside and four times as many outside -> mean over the image -> dense. A block is

        x <- relu(BN(conv 1x1) o relu(BN(conv 3x3)) o relu(BN(conv 1x1)) (x) + shortcut(x)),

    and from the second stage on its first one halves the image: in the 3x3 convolution as in torchvision, or with
    `caffe` in the first 1x1 convolution as in the paper, which costs 6 % fewer multiply-adds.

    Kernels start as N(0, 2 / fan_out), the dense layer as U(+-1/sqrt(fan_in)) (torchvision). Images are
    normalized by `mean` and `std`.

    With `small_images` the stem is a conv 3x3/1 without a pool, so that the network reduces by 8 and not by 32: to 4x4
    from images of 32x32 and of 28x28. It is the form of public CIFAR code, from no paper; ResNet-50 has 23,520,842
    parameters then with 10 classes, and takes 1,298M multiply-adds at 32x32.

    `caffe` is the network whose weights the authors published: strides as in the paper, no padding of the first pool
    but sizes rounded up, images as gray levels in blue, green, red less (103.06, 115.90, 123.15), the mean color of
    the picture that they subtracted (it is from 8 below to 13 above it).

    Args:
        depths: blocks of each stage.
        num_classes: number of logits.
        width: channels of the first stage.
        caffe: be the authors' Caffe network, and read its weights.
        small_images: the stem for images of about 32x32.
        mean, std: of the images' channels, as many as these have; the defaults are ImageNet's. Not with `caffe`.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input, stem, layer1/0, layer1/1, ... layer4/2 (each block), pool, penultimate. What each block reads
    are the hidden ones: stem and all blocks but the last, which all follow a ReLU.

    Source: He et al. 2016, "Deep residual learning for image recognition", Table 1; torchvision's resnet.py.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: ResNet((1, 1, 1, 1), 10, width=4, rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 1000,
        *,
        width: int = 64,
        caffe: bool = False,
        small_images: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        rngs: nnx.Rngs,
    ) -> None:
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must be four numbers of blocks, 1 or more each, got {tuple(depths)}")
        channels = input_channels(mean, std, caffe=caffe, small_images=small_images)
        self.caffe, self.small_images = caffe, small_images
        self.mean, self.std = tuple(mean), tuple(std)
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = conv(channels, width, size, stride, rngs=rngs)
        self.bn1 = batch_norm(width, rngs=rngs)
        inputs = width
        for stage, depth in enumerate(depths):
            channels, stride = width * 2**stage, min(stage, 1) + 1
            blocks = []
            for index in range(depth):
                blocks.append(_Bottleneck(inputs, channels, stride if index == 0 else 1, caffe, rngs))
                inputs = channels * _EXPANSION
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        uniform = fan_in_uniform(inputs)
        self.fc = nnx.Linear(inputs, num_classes, kernel_init=uniform, bias_init=uniform, rngs=rngs)

    def trunk(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The features before the mean, float32 [B, H/32, W/32, 32 `width`], of images as in a call.

        With `small_images` [B, H/8, W/8, 32 `width`]; sizes are rounded up.
        """
        check_images(images, None, None, len(self.mean))
        x = caffe_input(images, _BGR_MEAN) if self.caffe else normalize(images, self.mean, self.std)
        x = nnx.relu(self.bn1(self.conv1(tap("input", x))))
        if not self.small_images:
            x = max_pool(x, 3, 2, ceil=True) if self.caffe else max_pool(x, 3, 2, 1)
        x = tap("stem", x)
        for stage in range(1, 5):
            for index, block in enumerate(getattr(self, f"layer{stage}")):
                x = tap(f"layer{stage}/{index}", block(x))
        return x

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, H, W, C] in [0, 1]; 224x224 in RGB in the paper."""
        x = tap("pool", self.trunk(images, tap).mean((1, 2)))
        return tap("penultimate", self.fc(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block reads."""
        depths = {stage: len(getattr(self, f"layer{stage}")) for stage in range(1, 5)}
        blocks = [f"layer{stage}/{index}" for stage, depth in depths.items() for index in range(depth)]
        return ("stem", *blocks[:-1])

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in torchvision's and timm's checkpoints, with `caffe` those in the authors' three files.

        Theirs letter the blocks of a stage, or number them in the long stages of ResNet-101 and -152; and the first
        convolution of ResNet-50 has a bias, which here goes into the mean of its batch norm.
        """
        if kind != ("caffe" if self.caffe else "torch"):
            return []
        if not self.caffe:
            return [names_of(self, torch_name)]
        spellings: list[Names] = []
        for numbered in (False, True):
            names = dict(caffe_names(self, _caffe_layer(numbered)))
            biased = names | {"bn1/mean": names["bn1/mean"]._replace(less="conv1[1]")}
            spellings += [names, biased]
        return spellings


class _Bottleneck(nnx.Module):
    def __init__(self, inputs: int, channels: int, stride: int, caffe: bool, rngs: nnx.Rngs) -> None:
        outputs = channels * _EXPANSION
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = conv(inputs, channels, 1, first, rngs=rngs)
        self.bn1 = batch_norm(channels, rngs=rngs)
        self.conv2 = conv(channels, channels, 3, second, rngs=rngs)
        self.bn2 = batch_norm(channels, rngs=rngs)
        self.conv3 = conv(channels, outputs, 1, rngs=rngs)
        self.bn3 = batch_norm(outputs, rngs=rngs)
        if stride != 1 or inputs != outputs:
            self.downsample = nnx.List([conv(inputs, outputs, 1, stride, rngs=rngs), batch_norm(outputs, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if hasattr(self, "downsample"):
            for layer in self.downsample:
                shortcut = layer(shortcut)
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        return nnx.relu(self.bn3(self.conv3(x)) + shortcut)


def _caffe_layer(numbered: bool) -> Callable[[str], str | tuple[str, str]]:
    def name(module: str) -> str | tuple[str, str]:
        if module == "bn1":
            return "bn_conv1", "scale_conv1"
        if module in ("conv1", "fc"):
            return "fc1000" if module == "fc" else module
        layer, index, *parts = module.split("/")
        stage = int(layer.removeprefix("layer")) + 1
        block = f"b{index}" if numbered and stage in (3, 4) and index != "0" else chr(ord("a") + int(index))
        if parts[0] == "downsample":
            place, is_norm = f"{stage}{block}_branch1", parts[1] == "1"
        else:
            place, is_norm = f"{stage}{block}_branch2{'abc'[int(parts[0][-1]) - 1]}", parts[0].startswith("bn")
        return (f"bn{place}", f"scale{place}") if is_norm else f"res{place}"

    return name


def resnet50(num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4,089M multiply-adds at 224x224 (3,858M with `caffe`).

    >>> nnx.eval_shape(lambda: resnet50(rngs=nnx.Rngs(0))).fc.kernel.shape
    (2048, 1000)
    """
    return ResNet((3, 4, 6, 3), num_classes, caffe=caffe, rngs=rngs)


def resnet101(num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7,801M multiply-adds at 224x224 (7,570M with `caffe`)."""
    return ResNet((3, 4, 23, 3), num_classes, caffe=caffe, rngs=rngs)


def resnet152(num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> ResNet:
    """ResNet-152: 60,192,808 parameters, 11,514M multiply-adds at 224x224 (11,282M with `caffe`)."""
    return ResNet((3, 8, 36, 3), num_classes, caffe=caffe, rngs=rngs)
