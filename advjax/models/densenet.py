"""DenseNet-169, also for small images: every layer of a block reads the outputs of all layers before it."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import HE_FAN_IN, IMAGENET_MEAN, IMAGENET_STD, caffe_input, conv, input_channels, normalize
from advjax.models.checkpoint_names import Names, caffe_names, names_of, torch_name
from advjax.models.layers import avg_pool, batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["DenseNet", "densenet169"]

_BOTTLENECK = 4
# What shicai/DenseNet-Caffe, the public Caffe copy of the authors' weights, subtracts and multiplies by.
_BGR_MEAN, _BGR_SCALE = (103.94, 116.78, 123.68), 0.017


class DenseNet(nnx.Module):
    """Densely connected network with bottlenecks and compression (DenseNet-BC).

    conv 7x7/2 of 2 `growth` channels -> BN -> ReLU -> max pool 3/2 -> blocks of `depths` layers. A layer appends
    `growth` channels to its input,

        x <- [x, conv 3x3 o relu o BN o conv 1x1 (4 growth) o relu o BN (x)],

    and between the blocks BN -> ReLU -> conv 1x1 halves the channels and a mean pool 2/2 the image. At the end
    BN -> ReLU -> mean over the image -> dense. Kernels start as N(0, 2 / fan_in), the dense layer as
    U(+-1/sqrt(fan_in)) with bias 0 (torchvision). Images are normalized by `mean` and `std`.

    With `small_images` the stem is a conv 3x3/1 of 2 `growth` channels and nothing else, as in the paper's networks for
    CIFAR (which have three blocks): the network does not reduce by 32 but by 8, to 4x4 from images of 32x32 and to 3x3
    from 28x28. DenseNet-169 has 12,493,322 parameters then with 10 classes.

    Args:
        depths: layers of each block.
        num_classes: number of logits.
        growth: channels that a layer appends.
        caffe: read images as the public Caffe copy of the network does (gray levels in blue, green, red less
            (103.94, 116.78, 123.68), times 0.017), and its weights.
        small_images: the stem for images of about 32x32.
        mean, std: of the images' channels, as many as these have; the defaults are ImageNet's. Not with `caffe`.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input, stem, denseblock1/0/relu (what the first layer's convolutions read), denseblock1/1/relu, ...
    denseblock1, transition1, ... (each layer, block and transition), pool, penultimate; those called relu are the
    hidden ones.

    Source: Huang et al. 2017, "Densely connected convolutional networks", Table 1; torchvision's densenet.py.

    >>> nnx.eval_shape(lambda: DenseNet((1, 2), 10, growth=4, rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 1000,
        *,
        growth: int = 32,
        caffe: bool = False,
        small_images: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        rngs: nnx.Rngs,
    ) -> None:
        if not depths or min(depths) < 1:
            raise ValueError(f"depths must be numbers of layers, 1 or more each, got {tuple(depths)}")
        inputs = input_channels(mean, std, caffe=caffe, small_images=small_images)
        self.blocks, self.caffe = len(depths), caffe
        self.mean, self.std = tuple(mean), tuple(std)
        channels = 2 * growth
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv0 = conv(inputs, channels, size, stride, kernel_init=HE_FAN_IN, rngs=rngs)
        self.norm0 = None if small_images else batch_norm(channels, rngs=rngs)
        for block, depth in enumerate(depths, 1):
            layers = [_DenseLayer(channels + i * growth, growth, rngs) for i in range(depth)]
            setattr(self, f"denseblock{block}", nnx.List(layers))
            channels += depth * growth
            if block < self.blocks:
                setattr(self, f"transition{block}", _Transition(channels, rngs))
                channels //= 2
        self.norm5 = batch_norm(channels, rngs=rngs)
        self.classifier = nnx.Linear(channels, num_classes, kernel_init=fan_in_uniform(channels), rngs=rngs)

    def trunk(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The features before the mean, float32 [B, H/32, W/32, F], of images as in a call.

        With `small_images` [B, H/8, W/8, F]; sizes are rounded down. F is 1664 in DenseNet-169.
        """
        check_images(images, None, None, len(self.mean))
        x = caffe_input(images, _BGR_MEAN, _BGR_SCALE) if self.caffe else normalize(images, self.mean, self.std)
        x = self.conv0(tap("input", x))
        if self.norm0 is not None:
            x = max_pool(nnx.relu(self.norm0(x)), 3, 2, 1)
        x = tap("stem", x)
        for block in range(1, self.blocks + 1):
            for index, layer in enumerate(getattr(self, f"denseblock{block}")):
                x = layer(x, f"denseblock{block}/{index}", tap)
            x = tap(f"denseblock{block}", x)
            if block < self.blocks:
                x = tap(f"transition{block}", getattr(self, f"transition{block}")(x))
        return nnx.relu(self.norm5(x))

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, H, W, C] in [0, 1]; 224x224 in RGB in the paper."""
        x = tap("pool", self.trunk(images, tap).mean((1, 2)))
        return tap("penultimate", self.classifier(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each layer's first convolution reads, after its activation."""
        depths = {block: len(getattr(self, f"denseblock{block}")) for block in range(1, self.blocks + 1)}
        return tuple(f"denseblock{block}/{index}/relu" for block, depth in depths.items() for index in range(depth))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """torchvision's and timm's names, and `norm.1` for `norm1` as in the files that torchvision publishes.

        With `caffe` those of shicai/DenseNet-Caffe.
        """
        if kind != ("caffe" if self.caffe else "torch"):
            return []
        if self.caffe:
            return [caffe_names(self, lambda module: _caffe_layer(module, self.blocks))]
        return [names_of(self, _torch_name), names_of(self, lambda path: _DOTTED.sub(r"\1.\2", _torch_name(path)))]


_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")


def _torch_name(path: str) -> str:
    name = torch_name(path)
    if name.startswith("classifier"):
        return name
    return "features." + re.sub(r"^(denseblock\d+)\.(\d+)", lambda m: f"{m[1]}.denselayer{int(m[2]) + 1}", name)


def _caffe_layer(module: str, blocks: int) -> str | tuple[str, str]:
    if module == "classifier":
        return "fc6"
    found = {"conv0": "conv1", "norm0": "conv1", "norm5": f"conv{blocks + 1}_blk"}.get(module)
    if found is None:
        owner, *_, part = module.split("/")
        stage = int(re.sub(r"\D", "", owner)) + 1
        found = f"conv{stage}_blk"
        if owner.startswith("denseblock"):
            found = f"conv{stage}_{int(module.split('/')[1]) + 1}/x{part[-1]}"
    return (f"{found}/bn", f"{found}/scale") if "norm" in module else found


class _DenseLayer(nnx.Module):
    def __init__(self, inputs: int, growth: int, rngs: nnx.Rngs) -> None:
        inner = _BOTTLENECK * growth
        self.norm1 = batch_norm(inputs, rngs=rngs)
        self.conv1 = conv(inputs, inner, 1, kernel_init=HE_FAN_IN, rngs=rngs)
        self.norm2 = batch_norm(inner, rngs=rngs)
        self.conv2 = conv(inner, growth, 3, kernel_init=HE_FAN_IN, rngs=rngs)

    def __call__(self, x: jax.Array, name: str, tap: Tap) -> jax.Array:
        y = self.conv1(tap(f"{name}/relu", nnx.relu(self.norm1(x))))
        y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class _Transition(nnx.Module):
    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.norm = batch_norm(channels, rngs=rngs)
        self.conv = conv(channels, channels // 2, 1, kernel_init=HE_FAN_IN, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return avg_pool(self.conv(nnx.relu(self.norm(x))), 2, 2)


def densenet169(num_classes: int = 1000, *, caffe: bool = False, rngs: nnx.Rngs) -> DenseNet:
    """DenseNet-169: 14,149,480 parameters, 3,360M multiply-adds at 224x224."""
    return DenseNet((6, 12, 32, 32), num_classes, caffe=caffe, rngs=rngs)
