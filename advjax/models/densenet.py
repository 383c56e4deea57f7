"""DenseNet-169 for ImageNet: every layer of a block reads the outputs of all layers before it."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import HE_FAN_IN, IMAGENET_MEAN, IMAGENET_STD, conv, normalize
from advjax.models.checkpoint_names import Names, names_of, torch_name
from advjax.models.layers import avg_pool, batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["DenseNet", "densenet169"]

_BOTTLENECK = 4


class DenseNet(nnx.Module):
    """Densely connected network with bottlenecks and compression (DenseNet-BC).

    conv 7x7/2 of 2 `growth` channels -> BN -> ReLU -> max pool 3/2 -> blocks of `depths` layers. A layer appends
    `growth` channels to its input,

        x <- [x, conv 3x3 o relu o BN o conv 1x1 (4 growth) o relu o BN (x)],

    and between the blocks BN -> ReLU -> conv 1x1 halves the channels and a mean pool 2/2 the image. At the end
    BN -> ReLU -> mean over the image -> dense. Kernels start as N(0, 2 / fan_in), the dense layer as
    U(+-1/sqrt(fan_in)) with bias 0 (torchvision). Images are normalised by ImageNet's mean and standard deviation.

    Args:
        depths: layers of each block.
        num_classes: number of logits.
        growth: channels that a layer appends.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input, stem, denseblock1, transition1, denseblock2, ... (each block and transition), pool, penultimate.

    Source: Huang et al. 2017, "Densely connected convolutional networks", Table 1; torchvision's densenet.py.

    >>> nnx.eval_shape(lambda: DenseNet((1, 2), 10, growth=4, rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 10)
    """

    def __init__(self, depths: Sequence[int], num_classes: int = 1000, *, growth: int = 32, rngs: nnx.Rngs) -> None:
        if not depths or min(depths) < 1:
            raise ValueError(f"depths must be numbers of layers, 1 or more each, got {tuple(depths)}")
        self.blocks = len(depths)
        channels = 2 * growth
        self.conv0 = conv(3, channels, 7, 2, kernel_init=HE_FAN_IN, rngs=rngs)
        self.norm0 = batch_norm(channels, rngs=rngs)
        for block, depth in enumerate(depths, 1):
            layers = [_DenseLayer(channels + i * growth, growth, rngs) for i in range(depth)]
            setattr(self, f"denseblock{block}", nnx.List(layers))
            channels += depth * growth
            if block < self.blocks:
                setattr(self, f"transition{block}", _Transition(channels, rngs))
                channels //= 2
        self.norm5 = batch_norm(channels, rngs=rngs)
        self.classifier = nnx.Linear(channels, num_classes, kernel_init=fan_in_uniform(channels), rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 in the paper."""
        check_images(images, None, None, 3)
        x = tap("input", normalize(images, IMAGENET_MEAN, IMAGENET_STD))
        x = tap("stem", max_pool(nnx.relu(self.norm0(self.conv0(x))), 3, 2, 1))
        for block in range(1, self.blocks + 1):
            for layer in getattr(self, f"denseblock{block}"):
                x = layer(x)
            x = tap(f"denseblock{block}", x)
            if block < self.blocks:
                x = tap(f"transition{block}", getattr(self, f"transition{block}")(x))
        x = tap("pool", nnx.relu(self.norm5(x)).mean((1, 2)))
        return tap("penultimate", self.classifier(x))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """torchvision's and timm's names, and `norm.1` for `norm1` as in the files that torchvision publishes."""
        if kind != "torch":
            return []
        return [names_of(self, _torch_name), names_of(self, lambda path: _DOTTED.sub(r"\1.\2", _torch_name(path)))]


_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")


def _torch_name(path: str) -> str:
    name = torch_name(path)
    if name.startswith("classifier"):
        return name
    return "features." + re.sub(r"^(denseblock\d+)\.(\d+)", lambda m: f"{m[1]}.denselayer{int(m[2]) + 1}", name)


class _DenseLayer(nnx.Module):
    def __init__(self, inputs: int, growth: int, rngs: nnx.Rngs) -> None:
        inner = _BOTTLENECK * growth
        self.norm1 = batch_norm(inputs, rngs=rngs)
        self.conv1 = conv(inputs, inner, 1, kernel_init=HE_FAN_IN, rngs=rngs)
        self.norm2 = batch_norm(inner, rngs=rngs)
        self.conv2 = conv(inner, growth, 3, kernel_init=HE_FAN_IN, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(nnx.relu(self.norm1(x)))
        y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class _Transition(nnx.Module):
    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.norm = batch_norm(channels, rngs=rngs)
        self.conv = conv(channels, channels // 2, 1, kernel_init=HE_FAN_IN, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return avg_pool(self.conv(nnx.relu(self.norm(x))), 2, 2)


def densenet169(num_classes: int = 1000, *, rngs: nnx.Rngs) -> DenseNet:
    """DenseNet-169: 14,149,480 parameters, 3,360M multiply-adds at 224x224."""
    return DenseNet((6, 12, 32, 32), num_classes, rngs=rngs)
