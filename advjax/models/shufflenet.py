"""ShuffleNet (v1): grouped 1x1 convolutions, whose groups a fixed permutation of the channels mixes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD, conv, normalize
from advjax.models.layers import avg_pool, batch_norm, check_images, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["ShuffleNet"]

_DENSE_NORMAL = nnx.initializers.normal(0.01)
# By the number of groups, the channels of the first stage at width 1: Zhang et al. 2018, Table 1.
_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}


class ShuffleNet(nnx.Module):
    """ShuffleNet 2x, three stages of `depths` units; 5,450,776 parameters, 524.0M multiply-adds at 224x224.

    conv 3x3/2 of 24 `width` channels -> BN -> ReLU -> max pool 3/2 -> three stages, of which each halves the image in
    its first unit and the second and the third double the channels -> mean over the image -> dense. A unit is

        x <- relu(z + x),   z = BN o group conv 1x1 o BN o depthwise 3x3 o shuffle o relu o BN o group conv 1x1 (x)

    with a quarter of the channels inside, and the first one of a stage, with stride 2, x <- [mean pool 3/2 (x),
    relu(z)]. The very first of these 1x1 convolutions is not grouped. The shuffle writes channel j of group i to place
    j `groups` + i. Kernels start as N(0, 2 / fan_out), the dense layer as N(0, 0.01^2) with bias 0.

    524M multiply-adds are those of the paper, 5.4M parameters those of the authors' later code, in which `width`
    widens the first convolution too. Di et al. print 5.3M, as CondenseNet's paper does.

    Args:
        num_classes: number of logits.
        width: factor on all channels; 2 for the ShuffleNet 2x of the paper.
        groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8.
        depths: units of each stage.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Raises:
        ValueError: sizes that do not fit together.

    Taps: input (normalized), stem, stage2/0, stage2/1, ... stage4/3 (each unit), pool, penultimate. What each unit
    reads are the hidden ones: stem and all units but the last, which all follow a ReLU.

    Source: Zhang et al. 2018, "ShuffleNet: An extremely efficient convolutional neural network for mobile devices",
    Table 1 and Fig. 2; megvii-model/ShuffleNet-Series, ShuffleNetV1.

    >>> nnx.eval_shape(lambda: ShuffleNet(10, depths=(1, 1, 1), rngs=nnx.Rngs(0))(jnp.zeros((2, 64, 64, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        width: float = 2.0,
        groups: int = 3,
        depths: Sequence[int] = (4, 8, 4),
        rngs: nnx.Rngs,
    ) -> None:
        if groups not in _CHANNELS:
            raise ValueError(f"groups must be one of {', '.join(map(str, _CHANNELS))}, got {groups}")
        if len(depths) != 3 or min(depths) < 1:
            raise ValueError(f"depths must be three numbers of units, 1 or more each, got {tuple(depths)}")
        first, inputs = round(_CHANNELS[groups] * width), round(24 * width)
        if first % (4 * groups) or inputs % groups:
            raise ValueError(f"width must leave channels that 4 times {groups} groups divide, got {width}")
        self.conv1 = conv(3, inputs, 3, 2, rngs=rngs)
        self.bn1 = batch_norm(inputs, rngs=rngs)
        for stage, depth in enumerate(depths):
            outputs, units = first * 2**stage, []
            for index in range(depth):
                units.append(_Unit(inputs, outputs, groups, 1 if stage == index == 0 else groups, index == 0, rngs))
                inputs = outputs
            setattr(self, f"stage{stage + 2}", nnx.List(units))
        self.fc = nnx.Linear(inputs, num_classes, kernel_init=_DENSE_NORMAL, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 in the paper."""
        check_images(images, None, None, 3)
        x = tap("input", normalize(images, IMAGENET_MEAN, IMAGENET_STD))
        x = tap("stem", max_pool(nnx.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        for stage in (2, 3, 4):
            for index, unit in enumerate(getattr(self, f"stage{stage}")):
                x = tap(f"stage{stage}/{index}", unit(x))
        x = tap("pool", x.mean((1, 2)))
        return tap("penultimate", self.fc(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each unit reads."""
        depths = {stage: len(getattr(self, f"stage{stage}")) for stage in (2, 3, 4)}
        units = [f"stage{stage}/{index}" for stage, depth in depths.items() for index in range(depth)]
        return ("stem", *units[:-1])


class _Unit(nnx.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, first_groups: int, halves: bool, rngs: nnx.Rngs) -> None:
        inner, added = outputs // 4, outputs - inputs if halves else outputs
        self.groups, self.halves = groups, halves
        self.conv1 = conv(inputs, inner, 1, groups=first_groups, rngs=rngs)
        self.bn1 = batch_norm(inner, rngs=rngs)
        self.conv2 = conv(inner, inner, 3, 2 if halves else 1, groups=inner, rngs=rngs)
        self.bn2 = batch_norm(inner, rngs=rngs)
        self.conv3 = conv(inner, added, 1, groups=groups, rngs=rngs)
        self.bn3 = batch_norm(added, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        z = _shuffle(nnx.relu(self.bn1(self.conv1(x))), self.groups)
        z = self.bn3(self.conv3(self.bn2(self.conv2(z))))
        if self.halves:
            return jnp.concatenate([avg_pool(x, 3, 2, 1), nnx.relu(z)], -1)
        return nnx.relu(z + x)


def _shuffle(x: jax.Array, groups: int) -> jax.Array:
    return x.reshape(*x.shape[:3], groups, -1).swapaxes(3, 4).reshape(x.shape)
