"""ResNet-50, -101 and -152 for ImageNet, with the stride where torchvision or where Caffe's originals have it."""

from collections.abc import Sequence

import jax
from flax import nnx

from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD, conv, normalize
from advjax.models.checkpoint_names import Names, names_of, torch_name
from advjax.models.layers import batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["ResNet", "resnet50", "resnet101", "resnet152"]

_EXPANSION = 4


class ResNet(nnx.Module):
    """Residual network of bottleneck blocks.

    conv 7x7/2 -> BN -> ReLU -> max pool 3/2 -> four stages of `depths` blocks with `width`, 2 `width`, 4 `width`
    and 8 `width` channels inside and four times as many outside -> mean over the image -> dense. A block is

        x <- relu(BN(conv 1x1) o relu(BN(conv 3x3)) o relu(BN(conv 1x1)) (x) + shortcut(x)),

    and from the second stage on its first one halves the image: in the 3x3 convolution as in torchvision, or in
    the first 1x1 convolution as in the paper and in Caffe's networks, which costs 6 % fewer multiply-adds.

    Kernels start as N(0, 2 / fan_out), the dense layer as U(+-1/sqrt(fan_in)) (torchvision). Images are
    normalised by ImageNet's mean and standard deviation.

    Args:
        depths: blocks of each stage.
        num_classes: number of logits.
        width: channels of the first stage.
        stride_in_first: halve the image in a block's first convolution, as in the paper.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input, stem, layer1/0, layer1/1, ... layer4/2 (each block), pool, penultimate.

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
        stride_in_first: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must be four numbers of blocks, 1 or more each, got {tuple(depths)}")
        self.stride_in_first = stride_in_first
        self.conv1 = conv(3, width, 7, 2, rngs=rngs)
        self.bn1 = batch_norm(width, rngs=rngs)
        inputs = width
        for stage, depth in enumerate(depths):
            channels, stride = width * 2**stage, min(stage, 1) + 1
            blocks = []
            for index in range(depth):
                blocks.append(_Bottleneck(inputs, channels, stride if index == 0 else 1, stride_in_first, rngs))
                inputs = channels * _EXPANSION
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        uniform = fan_in_uniform(inputs)
        self.fc = nnx.Linear(inputs, num_classes, kernel_init=uniform, bias_init=uniform, rngs=rngs)

    def trunk(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The features before the mean, float32 [B, H/32, W/32, 32 `width`], of images as in a call."""
        check_images(images, None, None, 3)
        x = tap("input", normalize(images, IMAGENET_MEAN, IMAGENET_STD))
        x = tap("stem", max_pool(nnx.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        for stage in range(1, 5):
            for index, block in enumerate(getattr(self, f"layer{stage}")):
                x = tap(f"layer{stage}/{index}", block(x))
        return x

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 in the paper."""
        x = tap("pool", self.trunk(images, tap).mean((1, 2)))
        return tap("penultimate", self.fc(x))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in torchvision's and timm's checkpoints; their networks have the stride in the 3x3 convolution."""
        return [names_of(self, torch_name)] if kind == "torch" and not self.stride_in_first else []


class _Bottleneck(nnx.Module):
    def __init__(self, inputs: int, channels: int, stride: int, stride_in_first: bool, rngs: nnx.Rngs) -> None:
        outputs = channels * _EXPANSION
        first, second = (stride, 1) if stride_in_first else (1, stride)
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


def resnet50(num_classes: int = 1000, *, stride_in_first: bool = False, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4,089M multiply-adds at 224x224 (3,858M with `stride_in_first`).

    >>> nnx.eval_shape(lambda: resnet50(rngs=nnx.Rngs(0))).fc.kernel.shape
    (2048, 1000)
    """
    return ResNet((3, 4, 6, 3), num_classes, stride_in_first=stride_in_first, rngs=rngs)


def resnet101(num_classes: int = 1000, *, stride_in_first: bool = False, rngs: nnx.Rngs) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7,801M multiply-adds at 224x224 (7,570M with `stride_in_first`)."""
    return ResNet((3, 4, 23, 3), num_classes, stride_in_first=stride_in_first, rngs=rngs)


def resnet152(num_classes: int = 1000, *, stride_in_first: bool = False, rngs: nnx.Rngs) -> ResNet:
    """ResNet-152: 60,192,808 parameters, 11,514M multiply-adds at 224x224 (11,282M with `stride_in_first`)."""
    return ResNet((3, 8, 36, 3), num_classes, stride_in_first=stride_in_first, rngs=rngs)
