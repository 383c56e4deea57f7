"""Wide residual networks for 32x32 images: WRN-28-10 and WRN-16-8."""

import jax
from flax import nnx

from advjax.models.blocks import CIFAR10_MEAN, CIFAR10_STD, conv, normalize
from advjax.models.layers import batch_norm, check_images, fan_in_uniform
from advjax.models.taps import Tap, untapped

__all__ = ["WideResNet", "wrn_28_10", "wrn_16_8"]

_ZEROS = nnx.initializers.zeros_init()


class WideResNet(nnx.Module):
    """Residual network of depth 6n + 4 whose 3x3 convolutions have `width` times ResNet's channels.

    conv 3x3x16 -> three stages of n blocks with 16, 32 and 64 `width` channels, the second and the third of
    which halve the image -> BN -> ReLU -> mean over the image -> dense. A block is

        x <- conv 3x3 o dropout o relu o BN o conv 3x3 (h) + shortcut,    h = relu(BN(x)),

    whose shortcut is x itself, or conv 1x1 (h) where the channels change. Convolutions have no bias and start as
    N(0, 2 / (k^2 outputs)), the dense layer as U(+-1/sqrt(fan_in)) with bias 0.

    Args:
        depth: 6n + 4.
        width: the widening factor.
        num_classes: number of logits.
        dropout: rate of the dropout between the convolutions of a block; 0.4 in the published WRN-16-8 for SVHN.
        mean, std: of the images' channels; the defaults are those that the authors use for CIFAR-10.
        rngs: `nnx.Rngs`; the streams `params` (weights) and `dropout`.

    Raises:
        ValueError: the depth is not 6n + 4 with n >= 1.

    Taps: input (normalized), stem, block1/0/relu (h of the first block), block1/0, block1/1/relu, block1/1, ...
    block3/n-1, pool, penultimate; those called relu are the hidden ones.

    Source: Zagoruyko and Komodakis 2016; szagoruyko/wide-residual-networks, models/wide-resnet.lua. The scales of
    batch normalization start as 1, as in its PyTorch descendants, not as torch7's U(0, 1).

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: WideResNet(10, 1, rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        *,
        dropout: float = 0.0,
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        std: tuple[float, float, float] = CIFAR10_STD,
        rngs: nnx.Rngs,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth}")
        self.mean, self.std = tuple(mean), tuple(std)
        self.conv1 = conv(3, 16, 3, rngs=rngs)
        inputs = 16
        for stage in (1, 2, 3):
            outputs, blocks = 16 * width * 2 ** (stage - 1), []
            for index in range((depth - 4) // 6):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(_Block(inputs, outputs, stride, dropout, rngs))
                inputs = outputs
            setattr(self, f"block{stage}", nnx.List(blocks))
        self.bn = batch_norm(inputs, rngs=rngs)
        self.fc = nnx.Linear(inputs, num_classes, kernel_init=fan_in_uniform(inputs), bias_init=_ZEROS, rngs=rngs)

    def trunk(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The features before the mean, float32 [B, H/4, W/4, 64 `width`], of images as in a call."""
        check_images(images, None, None, 3)
        x = tap("input", normalize(images, self.mean, self.std))
        x = tap("stem", self.conv1(x))
        for stage in (1, 2, 3):
            for index, block in enumerate(getattr(self, f"block{stage}")):
                x = tap(f"block{stage}/{index}", block(x, f"block{stage}/{index}", tap))
        return nnx.relu(self.bn(x))

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, H, W, 3] in [0, 1]; 32x32 in the paper."""
        x = tap("pool", self.trunk(images, tap).mean((1, 2)))
        return tap("penultimate", self.fc(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block reads after its activation: h."""
        depths = {stage: len(getattr(self, f"block{stage}")) for stage in (1, 2, 3)}
        return tuple(f"block{stage}/{index}/relu" for stage, depth in depths.items() for index in range(depth))


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.bn1 = batch_norm(inputs, rngs=rngs)
        self.conv1 = conv(inputs, outputs, 3, stride, rngs=rngs)
        self.bn2 = batch_norm(outputs, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.conv2 = conv(outputs, outputs, 3, rngs=rngs)
        self.shortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride, rngs=rngs)

    def __call__(self, x: jax.Array, name: str, tap: Tap) -> jax.Array:
        hidden = tap(f"{name}/relu", nnx.relu(self.bn1(x)))
        shortcut = x if self.shortcut is None else self.shortcut(hidden)
        hidden = self.dropout(nnx.relu(self.bn2(self.conv1(hidden))))
        return self.conv2(hidden) + shortcut


def wrn_28_10(num_classes: int = 10, *, dropout: float = 0.0, rngs: nnx.Rngs) -> WideResNet:
    """WRN-28-10: 36,479,194 parameters (36,536,884 with 100 classes), 5,243M multiply-adds at 32x32.

    >>> from advjax.models.counting import abstract
    >>> len(abstract(wrn_28_10).block3)
    4
    """
    return WideResNet(28, 10, num_classes, dropout=dropout, rngs=rngs)


def wrn_16_8(num_classes: int = 10, *, dropout: float = 0.0, rngs: nnx.Rngs) -> WideResNet:
    """WRN-16-8: 10,961,370 parameters, 1,548M multiply-adds at 32x32.

    >>> from advjax.models.counting import abstract
    >>> len(abstract(wrn_16_8).block3)
    2
    """
    return WideResNet(16, 8, num_classes, dropout=dropout, rngs=rngs)
