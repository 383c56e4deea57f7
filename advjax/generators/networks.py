"""The perturbation generation network: a classifier's trunk as the encoder, a decoder of transposed convolutions."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import HE_FAN_IN
from advjax.models.layers import batch_norm

__all__ = ["Decoder", "Encoder", "Generator", "generator"]

# 0.01 times LeCun's normal start, sqrt(1 / fan_in).
_NEARLY_ZERO = nnx.initializers.variance_scaling(1e-4, "fan_in", "normal")
_CHANNELS = 64


@runtime_checkable
class Encoder(Protocol):
    """A network with features that are still an image, as `ResNet`, `DenseNet`, `WideResNet` and `VggCifar` have."""

    def trunk(self, images: jax.Array) -> jax.Array:
        """Features float32 [B, h, w, F] of images float32 [B, H, W, C] in [0, 1]."""


class Decoder(nnx.Module):
    """Transposed convolutions that enlarge features to an image, 2^(n+1) times with n blocks.

    For each of the n `channels` a block of transposed convolutions to so many channels, of which the first doubles
    height and width (stride 2) and the others keep them, each followed by batch norm and ReLU; then one to `outputs`
    channels that doubles them once more, linear and with a bias. Four blocks bring 7x7 to 224x224, two 4x4 to 32x32.

    Four blocks of three and a last layer are the paper's. Its kernels, channels and last stride are lost in every copy
    that could be found, and of padding, normalization and the start it says nothing. These are the library's choices:
    kernels of 4x4, 3x3 and 3x3 in a block and 4x4 at the end; 512, 256, 128 and 64 channels; the last stride 2, for
    224 / 7 = 2^5 leaves no other; SAME padding; batch norm and ReLU; nothing after the last convolution. Kernels start
    as N(0, 2 / fan_in), the last one as N(0, 0.01^2 / fan_in), 0.01 times a usual start, so that the perturbation is
    about 0 in the beginning. Were that kernel 0 itself, all before it would stand still in the first step.

    With the defaults and 2048 `inputs`, ResNet-50's and -101's, it has 25,805,443 parameters.

    Args:
        inputs: channels of the features.
        channels: of each block.
        outputs: channels of the image.
        kernels: side of each kernel of a block.
        final: side of the last kernel.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Raises:
        ValueError: no block, or a size below 1.

    Source: Yoo et al. 2017, sec. 3.4 ("Implementation Detail").

    >>> make = lambda: Decoder(2048, rngs=nnx.Rngs(0))
    >>> nnx.eval_shape(lambda: make()(jnp.zeros((2, 7, 7, 2048)))).shape
    (2, 224, 224, 3)
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int] = (512, 256, 128, 64),
        outputs: int = 3,
        *,
        kernels: Sequence[int] = (4, 3, 3),
        final: int = 4,
        rngs: nnx.Rngs,
    ) -> None:
        for name, sizes in (("channels", channels), ("kernels", kernels)):
            if not sizes or min(sizes) < 1:
                raise ValueError(f"{name} must be one number or more, each 1 or more, got {tuple(sizes)}")
        blocks = []
        for outgoing in channels:
            units = []
            for index, size in enumerate(kernels):
                units.append(_Unit(inputs, outgoing, size, 2 if index == 0 else 1, rngs))
                inputs = outgoing
            blocks.append(nnx.List(units))
        self.blocks = nnx.List(blocks)
        self.final = nnx.ConvTranspose(inputs, outputs, (final, final), 2, kernel_init=_NEARLY_ZERO, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, inputs] -> [B, 2^(n+1) h, 2^(n+1) w, outputs]."""
        for block in self.blocks:
            for unit in block:
                x = unit(x)
        return self.final(x)


class _Unit(nnx.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        # The batch norm that follows takes out what a bias would add.
        self.deconv = nnx.ConvTranspose(
            inputs, outputs, (size, size), stride, use_bias=False, kernel_init=HE_FAN_IN, rngs=rngs
        )
        self.norm = batch_norm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.deconv(x)))


class Generator(nnx.Module):
    """A perturbation for each image, from the image alone: v = Dec(Enc(x)) (eq. 2).

    v is in the units of the network that it is made for: where that divides the images' channels by `std`, as most
    networks do, `std` v is what changes in pixels in [0, 1]. So the mean of v^2 that the generator is trained to keep
    small is measured as that network sees it. With the default both units are the same, as for the paper's STL-10.

    Where the decoder gives more pixels than the image has, the middle is cut out: 32x32 for images of 28x28.

    All parts are trained and follow the mode of the generator (`train()`, `eval()`). The encoder's own dense layer
    stays in it unread, so that a checkpoint of the whole network can be loaded into it; its gradient is 0.

    Args:
        encoder: a module with a method `trunk(images) -> [B, h, w, F]`.
        decoder: makes [B, H', W', C] of these features, with H' and W' at least the image's.
        std: pixels per unit of v, one number or one for each channel.

    Raises:
        ValueError: the encoder has no trunk, or `std` is not positive. When called: sizes that do not fit.

    Source: Yoo et al. 2017, eqs. 1 and 2.

    >>> from advjax.models import ResNet
    >>> def make():
    ...     rngs = nnx.Rngs(0)
    ...     encoder = ResNet((1, 1, 1, 1), 10, width=1, small_images=True, rngs=rngs)
    ...     return Generator(encoder, Decoder(32, (8, 4), rngs=rngs), std=(0.25, 0.25, 0.25))
    >>> nnx.eval_shape(lambda: make()(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 32, 32, 3)
    """

    def __init__(self, encoder: nnx.Module, decoder: nnx.Module, *, std: Sequence[float] = (1.0,)) -> None:
        if not std or not min(std) > 0:
            raise ValueError(f"std must hold positive numbers, one or one for each channel, got {tuple(std)}")
        self.encoder = _with_trunk(encoder, "encoder")
        self.decoder = decoder
        self.std = tuple(float(each) for each in std)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The perturbations v float32 [B, H, W, C] of images float32 [B, H, W, C] in [0, 1]."""
        v = self.decoder(self.encoder.trunk(images))
        height, width, channels = images.shape[1:]
        if v.shape[1] < height or v.shape[2] < width or v.shape[3] != channels:
            raise ValueError(
                f"decoder must give at least {height}x{width} pixels of {channels} channels "
                f"for images {images.shape}, got {v.shape}"
            )
        top, left = (v.shape[1] - height) // 2, (v.shape[2] - width) // 2
        return v[:, top : top + height, left : left + width]

    def perturbed(self, images: jax.Array) -> jax.Array:
        """x + `std` v float32 [B, H, W, C] (eq. 1): not clipped, as in the paper, so that it may leave [0, 1]."""
        return self.added(images, self(images))

    def added(self, images: jax.Array, v: jax.Array) -> jax.Array:
        """The same of perturbations v [B, H, W, C] that were computed before."""
        if len(self.std) not in (1, images.shape[-1]):
            raise ValueError(f"std must hold 1 number or {images.shape[-1]}, one for each channel, got {self.std}")
        return images + jnp.asarray(self.std, images.dtype)[None, None, None] * v


def generator(
    network: nnx.Module,
    shape: tuple[int, int, int],
    *,
    std: Sequence[float] = (1.0,),
    channels: Sequence[int] | None = None,
    rngs: nnx.Rngs,
) -> Generator:
    """The generator with `network` as its encoder and as many blocks as it takes to reach images of `shape`.

    The decoder's last block has 64 channels and each before it twice as many: for 224x224 images and a ResNet the
    512, 256, 128 and 64 of `Decoder`, for 32x32 and 28x28 images and a ResNet for small images 128 and 64. Proposed-50
    and Proposed-101 of the paper are those of `resnet50` and `resnet101` with ImageNet's weights.

    Args:
        network: a module with a method `trunk(images) -> [B, h, w, F]`; it becomes part of the generator.
        shape: [H, W, C] of one image.
        std: pixels per unit of v, one number or one for each channel; see `Generator`.
        channels: of the decoder's blocks, if not those.
        rngs: `nnx.Rngs`; the stream `params` draws the decoder's weights.

    >>> from advjax.models import resnet50
    >>> def make():
    ...     return generator(resnet50(rngs=nnx.Rngs(0)), (224, 224, 3), std=(0.229, 0.224, 0.225), rngs=nnx.Rngs(1))
    >>> [block[0].deconv.out_features for block in nnx.eval_shape(make).decoder.blocks]
    [512, 256, 128, 64]
    """
    graphdef, state = nnx.split(network)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, height, width, features = jax.eval_shape(
        lambda state, images: _with_trunk(nnx.merge(graphdef, state, copy=True), "network").trunk(images), state, images
    ).shape
    if channels is None:
        blocks = 1
        while 2 ** (blocks + 1) * height < shape[0] or 2 ** (blocks + 1) * width < shape[1]:
            blocks += 1
        channels = [_CHANNELS * 2**index for index in reversed(range(blocks))]
    return Generator(network, Decoder(features, channels, shape[2], rngs=rngs), std=std)


def _with_trunk(network: nnx.Module, name: str) -> Encoder:
    if not isinstance(network, Encoder):
        raise ValueError(f"{name} must have a method trunk(images) -> [B, h, w, F], got a {type(network).__name__}")
    return network
