"""CondenseNet: learned group convolutions, their condensation while training, and the network that remains."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.entropy import cross_entropies
from advjax.models.blocks import HE_FAN_OUT, IMAGENET_MEAN, IMAGENET_STD, conv, normalize
from advjax.models.counting import abstract
from advjax.models.layers import avg_pool, batch_norm, check_images, fan_in_uniform
from advjax.models.taps import Tap, untapped

__all__ = [
    "CondenseNet",
    "CondensedNet",
    "Mask",
    "condense",
    "condensation_steps",
    "condense_loss",
    "convert",
    "group_lasso",
]

_BOTTLENECK = 4
_STAGES = (4, 6, 8, 10, 8)
_GROWTH = (8, 16, 32, 64, 128)
_ZEROS = nnx.initializers.zeros_init()


class Mask(nnx.Variable):
    """Which inputs each group of a learned group convolution still reads: float32 [inputs, groups] of 0 and 1."""


class _DenseTrunk(nnx.Module):
    # What the network that trains and the one that remains have in common: all but the 1x1 convolutions and the end.
    def __init__(
        self,
        pointwise: Callable[[int, int, int, nnx.Rngs], nnx.Module],
        stages: Sequence[int],
        growth: Sequence[int],
        groups: int,
        stem_stride: int,
        rngs: nnx.Rngs,
    ) -> None:
        if not stages or len(stages) != len(growth):
            raise ValueError(f"stages and growth must be equally many, got {tuple(stages)} and {tuple(growth)}")
        if groups < 2 or any(rate % groups for rate in growth):
            raise ValueError(f"groups must be at least 2 and divide each growth rate, got {groups} and {tuple(growth)}")
        self.stages, self.growth, self.groups, self.stem_stride = tuple(stages), tuple(growth), groups, stem_stride
        channels = 2 * growth[0]
        self.init_conv = conv(3, channels, 3, stem_stride, rngs=rngs)
        for stage, (layers, rate) in enumerate(zip(stages, growth, strict=True), 1):
            block = []
            for _ in range(layers):
                block.append(_DenseLayer(pointwise(channels, _BOTTLENECK * rate, groups, rngs), rate, groups, rngs))
                channels += rate
            setattr(self, f"denseblock_{stage}", nnx.List(block))
        self.norm_last = batch_norm(channels, rngs=rngs)
        self.channels = channels

    def trunk(self, images: jax.Array, tap: Tap) -> jax.Array:
        check_images(images, None, None, 3)
        x = tap("input", normalize(images, IMAGENET_MEAN, IMAGENET_STD))
        x = tap("stem", self.init_conv(x))
        for stage in range(1, len(self.stages) + 1):
            for index, layer in enumerate(getattr(self, f"denseblock_{stage}")):
                x = layer(x, f"denseblock_{stage}/{index}", tap)
            x = tap(f"denseblock_{stage}", x)
            if stage < len(self.stages):
                x = tap(f"transition_{stage}", avg_pool(x, 2, 2))
        return tap("pool", nnx.relu(self.norm_last(x)).mean((1, 2)))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each layer's first convolution reads, after its activation."""
        return tuple(
            f"denseblock_{stage}/{index}/relu" for stage, layers in enumerate(self.stages, 1) for index in range(layers)
        )


class CondenseNet(_DenseTrunk):
    """The network while it trains, whose 1x1 convolutions learn which inputs each of their groups needs.

    conv 3x3/2 -> dense blocks of `stages` layers, of which a layer appends its `growth` rate k of channels,

        x <- [x, conv 3x3 in G groups o relu o BN o learned group convolution to 4k (relu o BN (x))],

    with a mean pool 2/2 between the blocks -> BN -> ReLU -> mean over the image -> dense. In a learned group
    convolution output o belongs to group o mod G; its weights are F * M with a 0/1 mask M of inputs and groups.
    Training begins with M = 1; each of the G - 1 calls of `condense` drops 1/G of the inputs of each group (so the
    condensation factor C is G), and `convert` makes the network that remains, whose sizes are the published ones.

    Args:
        num_classes: number of logits.
        stages: layers of each block.
        growth: channels that a layer of each block appends.
        groups: G = C, 4 or 8 in the paper; at least 2, a divisor of each growth rate.
        stem_stride: of the first convolution; 1 for 32x32 images.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Raises:
        ValueError: sizes that do not fit together.

    Taps: input (normalized), stem, denseblock_1/0/relu (what the convolutions of the first layer read), ...
    denseblock_1, transition_1, denseblock_2/0/relu, ..., pool, penultimate; those called relu are the hidden ones. Each
    layer has a batch norm and a ReLU of its own for what comes into its block, so that each has a tap.

    Source: Huang et al. 2018, "CondenseNet: An efficient DenseNet using learned group convolutions";
    ShichenLiu/CondenseNet.

    >>> def logits():
    ...     return CondenseNet(10, stages=(2, 2), growth=(4, 8), rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))
    >>> nnx.eval_shape(logits).shape
    (2, 10)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        stages: Sequence[int] = _STAGES,
        growth: Sequence[int] = _GROWTH,
        groups: int = 4,
        stem_stride: int = 2,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(_LearnedGroupConv, stages, growth, groups, stem_stride, rngs)
        init = fan_in_uniform(self.channels)
        self.classifier = nnx.Linear(self.channels, num_classes, kernel_init=init, bias_init=_ZEROS, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 in the paper."""
        return tap("penultimate", self.classifier(self.trunk(images, tap)))


class CondensedNet(_DenseTrunk):
    """The network that remains: each 1x1 convolution reads the inputs at `index`, in ordinary groups.

    A learned group convolution becomes index -> BN -> ReLU -> group convolution -> interleaving of the groups, and
    the dense layer reads half of its inputs. Arguments and taps are those of `CondenseNet`. `convert` makes one;
    made directly it reads the inputs in their order.

    With G = 4: 4,773,944 parameters, 516.6M multiply-adds at 224x224 (529M as published, which counts ReLU and
    pools); with G = 8: 2,935,416 and 261.5M (274M).

    >>> def logits():
    ...     return CondensedNet(10, stages=(2, 2), growth=(4, 8), rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))
    >>> nnx.eval_shape(logits).shape
    (2, 10)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        stages: Sequence[int] = _STAGES,
        growth: Sequence[int] = _GROWTH,
        groups: int = 4,
        stem_stride: int = 2,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(_IndexedGroupConv, stages, growth, groups, stem_stride, rngs)
        kept = self.channels // 2
        init = fan_in_uniform(kept)
        self.index = nnx.Variable(jnp.arange(kept, dtype=jnp.int32))
        self.classifier = nnx.Linear(kept, num_classes, kernel_init=init, bias_init=_ZEROS, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images as in `CondenseNet`."""
        x = jnp.take(self.trunk(images, tap), self.index[...], axis=-1)
        return tap("penultimate", self.classifier(x))


class _DenseLayer(nnx.Module):
    def __init__(self, pointwise: nnx.Module, rate: int, groups: int, rngs: nnx.Rngs) -> None:
        self.conv_1 = pointwise
        self.norm = batch_norm(_BOTTLENECK * rate, rngs=rngs)
        self.conv_2 = conv(_BOTTLENECK * rate, rate, 3, groups=groups, rngs=rngs)

    def __call__(self, x: jax.Array, name: str, tap: Tap) -> jax.Array:
        return jnp.concatenate([x, self.conv_2(nnx.relu(self.norm(self.conv_1(x, name, tap))))], -1)


class _LearnedGroupConv(nnx.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, rngs: nnx.Rngs) -> None:
        self.norm = batch_norm(inputs, rngs=rngs)
        self.kernel = nnx.Param(HE_FAN_OUT(rngs.params(), (inputs, outputs), jnp.float32))
        self.mask = Mask(jnp.ones((inputs, groups), jnp.float32))

    def weights(self) -> jax.Array:
        groups, outputs = self.mask.shape[1], self.kernel.shape[1]
        return self.kernel[...] * jnp.tile(self.mask[...], (1, outputs // groups))

    def grouped(self) -> jax.Array:
        # Output o = k G + g is the k-th of group g: [inputs, outputs / G, G].
        groups, (inputs, outputs) = self.mask.shape[1], self.kernel.shape
        return self.weights().reshape(inputs, outputs // groups, groups)

    def __call__(self, x: jax.Array, name: str, tap: Tap) -> jax.Array:
        return tap(f"{name}/relu", nnx.relu(self.norm(x))) @ self.weights()


class _IndexedGroupConv(nnx.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, rngs: nnx.Rngs) -> None:
        self.groups = groups
        self.index = nnx.Variable(jnp.arange(inputs, dtype=jnp.int32))
        self.norm = batch_norm(inputs, rngs=rngs)
        self.conv = conv(inputs, outputs, 1, groups=groups, rngs=rngs)

    def __call__(self, x: jax.Array, name: str, tap: Tap) -> jax.Array:
        x = self.conv(tap(f"{name}/relu", nnx.relu(self.norm(jnp.take(x, self.index[...], axis=-1)))))
        return x.reshape(*x.shape[:3], self.groups, -1).swapaxes(3, 4).reshape(x.shape)


def _learned(model: nnx.Module) -> list[_LearnedGroupConv]:
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, _LearnedGroupConv)]


def condensation_steps(steps: int, groups: int) -> tuple[int, ...]:
    """After how many of `steps` training steps to call `condense`: G - 1 times over the first half, as published.

    >>> condensation_steps(1200, 4)
    (200, 400, 600)
    """
    return tuple(-(-steps * (stage + 1) // (2 * (groups - 1))) for stage in range(groups - 1))


def condense(model: CondenseNet) -> CondenseNet:
    """The model after one more stage of condensation: each group loses its 1/G least important inputs.

    The importance of input j to group g is sum over the group's outputs o of |F_jo|. After G - 1 calls each group
    reads 1/G of the inputs, and further calls change nothing. The model given is left as it is; the function may
    be called inside `jit` and `vmap`.

    >>> model = CondenseNet(10, stages=(1,), growth=(4,), groups=4, rngs=nnx.Rngs(0))
    >>> float(condense(model).denseblock_1[0].conv_1.mask[...].mean())
    0.75
    """
    condensed = nnx.clone(model)
    for layer in _learned(condensed):
        inputs, groups = layer.mask.shape
        dropped = inputs - jnp.sum(layer.mask[...], 0)
        target = jnp.minimum(dropped + inputs // groups, float(inputs - inputs // groups))
        # Dropped inputs come first, even before one whose weights happen to be 0.
        importance = jnp.where(layer.mask[...] > 0, jnp.sum(jnp.abs(layer.grouped()), 1), -1.0)
        rank = jnp.argsort(jnp.argsort(importance, 0), 0).astype(jnp.float32)
        layer.mask[...] = (rank >= target[None]).astype(jnp.float32)
    return condensed


def group_lasso(model: CondenseNet) -> jax.Array:
    """sum over learned group convolutions, groups g and inputs j of sqrt(sum over outputs o of g of F_jo^2), a scalar.

    It makes the outputs of a group agree on what they do not need. It ends when the last stage is done.

    >>> model = CondenseNet(10, stages=(1,), growth=(4,), groups=4, rngs=nnx.Rngs(0))
    >>> bool(group_lasso(model) > 0)
    True
    """
    total = jnp.float32(0)
    for layer in _learned(model):
        inputs, groups = layer.mask.shape
        # The floor is the authors', and keeps the root's derivative finite where an input is dropped.
        norms = jnp.sqrt(jnp.maximum(jnp.sum(layer.grouped() ** 2, 1), 1e-6))
        condensing = jnp.sum(layer.mask[...][:, 0]) > inputs // groups
        total = total + jnp.where(condensing, jnp.sum(norms), 0.0)
    return total


def condense_loss(model: CondenseNet, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Losses [B] and logits [B, K] as `train_step` takes them: cross-entropy + 1e-5 `group_lasso`.

    >>> def loss():
    ...     model = CondenseNet(10, stages=(1,), growth=(4,), rngs=nnx.Rngs(0))
    ...     return condense_loss(model, jnp.zeros((2, 32, 32, 3)), jnp.zeros(2, jnp.int32))
    >>> losses, logits = nnx.eval_shape(loss)
    >>> losses.shape, logits.shape
    ((2,), (2, 10))
    """
    logits = model(images)
    return cross_entropies(logits, labels) + 1e-5 * group_lasso(model), logits


def convert(model: CondenseNet) -> CondensedNet:
    """The network that remains of a condensed `model`, in evaluation mode.

    The convolutions compute the same as before; the dense layer keeps the half of its inputs whose weights have
    the largest sum of magnitudes, which changes the logits, as in the authors' code.

    Raises:
        ValueError: the model is not condensed through all its G - 1 stages.

    >>> model = CondenseNet(10, stages=(1,), growth=(4,), groups=2, rngs=nnx.Rngs(0))
    >>> convert(condense(model))(jnp.zeros((2, 32, 32, 3))).shape
    (2, 10)
    """
    sizes = {"stages": model.stages, "growth": model.growth, "groups": model.groups, "stem_stride": model.stem_stride}
    make: Any = partial(CondensedNet, model.classifier.out_features)
    result: Any = abstract(partial(make, **sizes))
    _copy(model.init_conv, result.init_conv)
    _copy(model.norm_last, result.norm_last)
    for stage in range(1, len(model.stages) + 1):
        name = f"denseblock_{stage}"
        for source, target in zip(getattr(model, name), getattr(result, name), strict=True):
            _copy(source.norm, target.norm)
            _copy(source.conv_2, target.conv_2)
            _convert_convolution(source.conv_1, target.conv_1)
    kernel = np.asarray(model.classifier.kernel[...])
    index = np.argsort(np.abs(kernel).sum(1), kind="stable")[-(len(kernel) // 2) :]
    _set(result.index, index.astype(np.int32))
    _take(model.classifier, result.classifier, ("kernel",), index)
    _take(model.classifier, result.classifier, ("bias",), np.arange(model.classifier.out_features))
    result.eval()
    return result


def _set(variable: nnx.Variable, value: np.ndarray) -> None:
    variable.set_value(jnp.asarray(value))


def _take(source: nnx.Module, target: nnx.Module, names: Sequence[str], index: np.ndarray) -> None:
    for name in names:
        _set(getattr(target, name), np.asarray(getattr(source, name)[...])[index])


def _copy(source: nnx.Module, target: nnx.Module) -> None:
    nnx.update(target, jax.tree.map(jnp.copy, nnx.state(source)))


def _convert_convolution(source: _LearnedGroupConv, target: _IndexedGroupConv) -> None:
    mask = np.asarray(source.mask[...])
    inputs, groups = mask.shape
    kept = inputs // groups
    if not np.all(mask.sum(0) == kept):
        raise ValueError(f"model must be condensed {groups - 1} times before it is converted; see condense")
    rows = np.argsort(-mask, 0, kind="stable")[:kept]
    index = rows.T.reshape(-1)
    _set(target.index, index.astype(np.int32))
    kernel = np.asarray(source.kernel[...]).reshape(inputs, -1, groups)
    weights = np.take_along_axis(kernel, rows[:, None, :], axis=0)
    _set(target.conv.kernel, weights.swapaxes(1, 2).reshape(1, 1, kept, -1))
    _take(source.norm, target.norm, ("scale", "bias", "mean", "var"), index)
