"""What the families share: normalization of the images, initializers, convolutions without bias."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.layers import batch_norm

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "HE_FAN_IN",
    "HE_FAN_OUT",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ConvNorm",
    "caffe_input",
    "conv",
    "flatten",
    "input_channels",
    "normalize",
]

# Red, green, blue of the ImageNet training images in [0, 1], as torchvision and timm subtract and divide by them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Likewise of CIFAR-10's training images.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

# He et al. 2015, eq. 10, N(0, 2 / (k k inputs)), and eq. 14, the variant that keeps the variance of the gradient,
# N(0, 2 / (k k outputs)).
HE_FAN_IN = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(images - mean) / std by channel, for images float32 [B, H, W, C] in [0, 1].

    >>> normalize(jnp.ones((1, 1, 1, 3)), (0.5, 0.5, 0.0), (0.5, 0.25, 1.0)).ravel().tolist()
    [1.0, 2.0, 1.0]
    """
    shift, scale = (jnp.asarray(each, images.dtype)[None, None, None] for each in (mean, std))
    return (images - shift) / scale


def input_channels(
    mean: Sequence[float], std: Sequence[float], *, caffe: bool = False, small_images: bool = False
) -> int:
    """The number of channels that a network reads: `mean` and `std` hold a number for each.

    Raises:
        ValueError: they are not as many or not all standard deviations are positive; or a network with `caffe`, whose
            authors fixed both the colors and the stem, is asked for other ones.

    >>> input_channels((0.1307,), (0.3081,))
    1
    """
    if not mean or len(mean) != len(std) or not min(std) > 0:
        raise ValueError(f"mean and std must hold a number for each channel, std positive ones, got {mean} and {std}")
    if caffe and (small_images or (tuple(mean), tuple(std)) != (IMAGENET_MEAN, IMAGENET_STD)):
        raise ValueError(
            "caffe must be False with small_images, mean or std: its authors fixed the stem and the colors"
        )
    return len(mean)


def caffe_input(images: jax.Array, bgr_mean: tuple[float, ...], scale: float = 1.0) -> jax.Array:
    """`scale` times (gray levels in blue, green, red, less `bgr_mean`): what Caffe's networks for ImageNet read.

    Args:
        images: float32 [B, H, W, 3] in [0, 1], red first.
        bgr_mean: in gray levels, blue first.
        scale: factor, 1 in most networks.

    >>> caffe_input(jnp.ones((1, 1, 1, 3)), (104.0, 117.0, 123.0)).ravel().tolist()
    [151.0, 138.0, 132.0]
    """
    return normalize(images[..., ::-1] * 255, bgr_mean, (1 / scale,) * 3)


def flatten(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C H W], channels first, as PyTorch and Caffe order the inputs of a fully connected layer.

    >>> flatten(jnp.arange(4.0).reshape(1, 1, 2, 2)).tolist()
    [[0.0, 2.0, 1.0, 3.0]]
    """
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def conv(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    kernel_init: nnx.Initializer = HE_FAN_OUT,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution without bias of `size` x `size` pixels, an odd number, padded by size // 2 zeros on each side.

    >>> conv(8, 4, 3, groups=2, rngs=nnx.Rngs(0)).kernel.shape
    (3, 3, 4, 4)
    """
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=kernel_init,
        rngs=rngs,
    )


class ConvNorm(nnx.Module):
    """Convolution without bias -> batch norm (epsilon 0.001) -> ReLU: the unit of torchvision's Inception networks.

    Args:
        inputs: channels that enter.
        outputs: channels that leave.
        kernel: its height and width.
        strides: pixels from window to window.
        padding: as in `nnx.Conv`.
        kernel_init: how the kernel starts.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    >>> unit = ConvNorm(3, 4, (3, 3), strides=2, kernel_init=HE_FAN_OUT, rngs=nnx.Rngs(0))
    >>> unit.conv.kernel.shape, unit.bn.epsilon
    ((3, 3, 3, 4), 0.001)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        strides: int = 1,
        padding: str | int = "SAME",
        *,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = nnx.Conv(
            inputs, outputs, kernel, strides, padding=padding, use_bias=False, kernel_init=kernel_init, rngs=rngs
        )
        self.bn = batch_norm(outputs, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, inputs] -> [B, H', W', outputs]."""
        return nnx.relu(self.bn(self.conv(x)))
