"""NASNet-A for ImageNet: the large network 6@4032 and the mobile one 4@1056."""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import normalize
from advjax.models.checkpoint_names import Names, names_of, torch_name
from advjax.models.layers import avg_pool, batch_norm, check_images, fan_in_uniform, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["NASNetA", "nasnet_a_large", "nasnet_a_mobile"]

# slim's variance scaling counts a depthwise kernel's outputs by its multiplier, 1; in Flax that is its fan-in.
_HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
_HE_DEPTHWISE = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
_HALF = (0.5, 0.5, 0.5)

_Drop: TypeAlias = Callable[[jax.Array], jax.Array]


class NASNetA(nnx.Module):
    """NASNet-A of three stages of `cells` normal cells, for images of 3 channels.

    conv 3x3/2 (valid) of `stem` channels -> BN -> two reduction cells with a quarter and a half of the filters
    -> three stages, with a reduction cell before the second and the third, each of which doubles the filters
    -> ReLU -> mean over the image -> dense. The first stage has `penultimate` / 24 filters. A cell reads the two
    outputs before it, h' and h; with both brought to its filters F by ReLU, conv 1x1 and BN, s_k a separable
    convolution kxk applied twice (ReLU, depthwise, pointwise, BN), and pools 3x3,

        normal:     [h', s5(h) + s3(h'), s5(h') + s3(h'), avg(h) + h', avg(h') + avg(h'), s3(h) + h]     6F channels
        reduction:  [max(h) + s7(h'), avg(h) + s5(h'), avg(a) + max(h) + s7(h'), s3(a) + max(h)]         4F channels
                    where a = s5(h) + s7(h'), all but what reads `a` with stride 2.

    Where h' is larger than h it is halved by two 1x1 convolutions at every second pixel, the second one pixel off.
    Pools and convolutions pad as TensorFlow's "SAME"; mean pools leave the padding out. Images are scaled to
    [-1, 1]. The dropout of 0.5 before the dense layer, of the original training, is left out.

    Two things of the original training act in training mode alone, where they are asked for. The auxiliary head after
    the last cell of the second stage gives logits to the tap aux1: ReLU -> mean pool 5/3 -> conv 1x1x128 -> BN -> ReLU
    -> conv 768 over all that is left -> BN -> ReLU -> dense; add 0.4 times their loss (`with_heads(0.4)`). Drop-path
    sets what a separable convolution or a pool gives to 0, image by image, with probability 1 - k, and divides it by k
    otherwise; in cell c of C, stem and reduction cells included,

        k = 1 - t (c / C) (1 - keep_path),

    with t the variable `progress`, the share of the training that is done (t = step / 250,000 in the original, at most
    1). It starts at 1, and who trains sets it: `model.progress[...] = t`, which needs no new trace.

    Args:
        cells: normal cells of a stage.
        penultimate: channels before the dense layer.
        stem: channels of the first convolution.
        num_classes: number of logits.
        skip_reduction_input: whether the first cell after a reduction reads, as h', the output before the one that
            the reduction read (the large network) or that one itself (the mobile network).
        aux_size: height and width of what is left for the second convolution of the auxiliary head: 6 for images of
            331x331, 4 for 224x224; 0 for no head.
        keep_path: k at the end of the training in the last cell: 0.7 for the original large network, 1 for the mobile
            one, no drop-path.
        rngs: `nnx.Rngs`; the streams `params` (weights) and `dropout` (drop-path).

    Raises:
        ValueError: a number of penultimate channels that is no multiple of 96; a `keep_path` that is not in (0, 1].

    Taps: input (scaled), conv0, cell_stem_0, cell_stem_1, cell_0, ... reduction_cell_0, ..., aux1 (training), pool,
    penultimate.
    What the cells read are the hidden ones: conv0 and all cells but the last, each of which the next two cells read.
    They are sums of batch norms, of either sign: each cell begins with the ReLU of its own.

    Source: Zoph et al. 2018, "Learning transferable architectures for scalable image recognition", Fig. 4 and
    appendix; tensorflow/models, research/slim/nets/nasnet.

    >>> nnx.eval_shape(lambda: NASNetA(1, 96, 8, 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))).shape
    (1, 10)
    """

    def __init__(
        self,
        cells: int,
        penultimate: int,
        stem: int,
        num_classes: int = 1000,
        *,
        skip_reduction_input: bool = True,
        aux_size: int = 0,
        keep_path: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        if not 0 < keep_path <= 1:
            raise ValueError(f"keep_path must be in (0, 1], got {keep_path}")
        if penultimate < 96 or penultimate % 96:
            raise ValueError(f"penultimate must be a multiple of 96, got {penultimate}")
        filters = penultimate // 24
        self.cells, self.skip_reduction_input = cells, skip_reduction_input
        self.deterministic, self.keep_path = False, keep_path
        if keep_path < 1:
            self.draws, self.progress = rngs.dropout.fork(), nnx.Variable(jnp.float32(1))
        self.conv0 = _ConvNorm(3, stem, 3, 2, "VALID", rngs)
        self.cell_stem_0 = _Cell(stem, stem, filters // 4, rngs, previous="as it is", reduction=True)
        self.cell_stem_1 = _Cell(filters, stem, filters // 2, rngs, previous="halved", reduction=True)
        before, inputs = filters, 2 * filters
        for stage in range(3):
            if stage:
                name = f"reduction_cell_{stage - 1}"
                setattr(self, name, _Cell(inputs, before, 2 * filters, rngs, reduction=True))
                before = before if skip_reduction_input else inputs
                filters, inputs = 2 * filters, 8 * filters
            for index in range(cells):
                previous = "convolved" if index else "halved"
                setattr(self, f"cell_{stage * cells + index}", _Cell(inputs, before, filters, rngs, previous=previous))
                before, inputs = inputs, 6 * filters
            if stage == 1 and aux_size:
                self.aux_head = _Auxiliary(inputs, aux_size, num_classes, rngs)
        init = fan_in_uniform(inputs)
        self.last_linear = nnx.Linear(inputs, num_classes, kernel_init=init, bias_init=init, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 331x331, mobile 224x224."""
        check_images(images, None, None, 3)
        drops = self._drops()
        conv0 = tap("conv0", self.conv0(tap("input", normalize(images, _HALF, _HALF))))
        before = tap("cell_stem_0", self.cell_stem_0(conv0, conv0, next(drops)))
        x = tap("cell_stem_1", self.cell_stem_1(before, conv0, next(drops)))
        for stage in range(3):
            if stage:
                name = f"reduction_cell_{stage - 1}"
                reduced = tap(name, getattr(self, name)(x, before, next(drops)))
                before, x = before if self.skip_reduction_input else x, reduced
            for index in range(self.cells):
                name = f"cell_{stage * self.cells + index}"
                before, x = x, tap(name, getattr(self, name)(x, before, next(drops)))
            if stage == 1 and hasattr(self, "aux_head") and not self.deterministic:
                tap("aux1", self.aux_head(x))
        x = tap("pool", nnx.relu(x).mean((1, 2)))
        return tap("penultimate", self.last_linear(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What the cells read."""
        names = ["conv0", "cell_stem_0", "cell_stem_1"]
        for stage in range(3):
            names += [f"reduction_cell_{stage - 1}"] if stage else []
            names += [f"cell_{stage * self.cells + index}" for index in range(self.cells)]
        return tuple(names[:-1])

    def _drops(self) -> Iterator[_Drop]:
        """For each cell, in the order of the forward pass, what happens to its convolutions and pools."""
        if self.keep_path == 1 or self.deterministic:
            return itertools.repeat(_kept)
        key, count = self.draws(), 3 * self.cells + 4
        share = self.progress[...] * (1 - self.keep_path) / count
        return (_DropPath(jax.random.fold_in(key, cell), 1 - share * (cell + 1)) for cell in range(count))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in timm's checkpoint of the large network (`nasnetalarge`), which has no auxiliary head.

        With drop-path the network has a variable that no file has: load them without, and `nnx.update` the network that
        is to be trained by the `nnx.state` of the one loaded.
        """
        training = self.keep_path < 1 or hasattr(self, "aux_head")
        return [names_of(self, torch_name)] if kind == "torch" and not training else []


class _Cell(nnx.Module):
    # The attributes are called as in published checkpoints, which number the sums of the paper's Fig. 4.
    def __init__(
        self,
        inputs: int,
        before: int,
        filters: int,
        rngs: nnx.Rngs,
        *,
        previous: str = "convolved",
        reduction: bool = False,
    ) -> None:
        self.previous, self.reduction = previous, reduction
        self.conv_1x1 = _ConvNorm(inputs, filters, 1, 1, "SAME", rngs)
        if previous == "convolved":
            self.conv_prev_1x1 = _ConvNorm(before, filters, 1, 1, "SAME", rngs)
        elif previous == "halved":
            self.path_1 = _Path(before, filters // 2, 0, rngs)
            self.path_2 = _Path(before, filters // 2, 1, rngs)
            self.final_path_bn = _norm(filters, rngs)
        left = before if previous == "as it is" else filters
        if reduction:
            self.comb_iter_0_left = _Separable(filters, filters, 5, 2, rngs)
            self.comb_iter_0_right = _Separable(left, filters, 7, 2, rngs)
            self.comb_iter_1_right = _Separable(left, filters, 7, 2, rngs)
            self.comb_iter_2_right = _Separable(left, filters, 5, 2, rngs)
        else:
            self.comb_iter_0_left = _Separable(filters, filters, 5, 1, rngs)
            self.comb_iter_0_right = _Separable(filters, filters, 3, 1, rngs)
            self.comb_iter_1_left = _Separable(filters, filters, 5, 1, rngs)
            self.comb_iter_1_right = _Separable(filters, filters, 3, 1, rngs)
        self.comb_iter_4_left = _Separable(filters, filters, 3, 1, rngs)

    def __call__(self, x: jax.Array, before: jax.Array, drop: _Drop) -> jax.Array:
        x_in = self.conv_1x1(nnx.relu(x))
        if self.previous == "convolved":
            before = self.conv_prev_1x1(nnx.relu(before))
        elif self.previous == "halved":
            before = nnx.relu(before)
            before = self.final_path_bn(jnp.concatenate([self.path_1(before), self.path_2(before)], -1))
        return self._reduce(x_in, before, drop) if self.reduction else self._combine(x_in, before, drop)

    def _combine(self, x: jax.Array, before: jax.Array, drop: _Drop) -> jax.Array:
        smooth = _mean(before, 1)
        sums = [
            before,
            drop(self.comb_iter_0_left(x)) + drop(self.comb_iter_0_right(before)),
            drop(self.comb_iter_1_left(before)) + drop(self.comb_iter_1_right(before)),
            drop(_mean(x, 1)) + before,
            drop(smooth) + drop(smooth),
            drop(self.comb_iter_4_left(x)) + x,
        ]
        return jnp.concatenate(sums, -1)

    def _reduce(self, x: jax.Array, before: jax.Array, drop: _Drop) -> jax.Array:
        largest = max_pool(x, 3, 2, "SAME")
        first = drop(self.comb_iter_0_left(x)) + drop(self.comb_iter_0_right(before))
        second = drop(largest) + drop(self.comb_iter_1_right(before))
        third = drop(_mean(x, 2)) + drop(self.comb_iter_2_right(before))
        fourth = drop(_mean(first, 1)) + second
        return jnp.concatenate([second, third, fourth, drop(self.comb_iter_4_left(first)) + drop(largest)], -1)


def _kept(x: jax.Array) -> jax.Array:
    return x


class _DropPath:
    """Drop-path in one cell: each call keeps the features of an image, divided by `keep`, or sets them to 0."""

    def __init__(self, key: jax.Array, keep: jax.Array) -> None:
        self.key, self.keep, self.calls = key, keep, 0

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls += 1
        kept = jax.random.bernoulli(jax.random.fold_in(self.key, self.calls), self.keep, (x.shape[0], 1, 1, 1))
        return jnp.where(kept, x / self.keep, 0)


class _Auxiliary(nnx.Module):
    def __init__(self, inputs: int, size: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.size = size
        self.proj = _ConvNorm(inputs, 128, 1, 1, "SAME", rngs)
        self.full = _ConvNorm(128, 768, size, 1, "VALID", rngs)
        self.fc = nnx.Linear(768, num_classes, kernel_init=_HE_FAN_OUT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = avg_pool(nnx.relu(x), 5, 3)
        if pooled.shape[1:3] != (self.size, self.size):
            raise ValueError(f"images must leave aux_size={self.size} rows to the auxiliary head, got {pooled.shape}")
        x = nnx.relu(self.full(nnx.relu(self.proj(pooled))))
        return self.fc(x.reshape(x.shape[0], -1))


class _ConvNorm(nnx.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: str, rngs: nnx.Rngs) -> None:
        self.conv = _conv(inputs, outputs, size, stride, rngs, padding=padding)
        self.bn = _norm(outputs, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class _Path(nnx.Module):
    def __init__(self, inputs: int, outputs: int, offset: int, rngs: nnx.Rngs) -> None:
        self.offset = offset
        self.conv = _conv(inputs, outputs, 1, 1, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pad, start = (0, self.offset), self.offset
        return self.conv(jnp.pad(x, ((0, 0), pad, pad, (0, 0)))[:, start::2, start::2])


class _Separable(nnx.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        # The first pass already has the last one's channels where they change, in the first stem cell alone.
        self.separable_1 = _Once(inputs, outputs, size, stride, rngs)
        self.bn_sep_1 = _norm(outputs, rngs)
        self.separable_2 = _Once(outputs, outputs, size, 1, rngs)
        self.bn_sep_2 = _norm(outputs, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.bn_sep_1(self.separable_1(nnx.relu(x)))
        return self.bn_sep_2(self.separable_2(nnx.relu(x)))


class _Once(nnx.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        self.depthwise_conv2d = _conv(inputs, inputs, size, stride, rngs, groups=inputs)
        self.pointwise_conv2d = _conv(inputs, outputs, 1, 1, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pointwise_conv2d(self.depthwise_conv2d(x))


def _mean(x: jax.Array, stride: int) -> jax.Array:
    return avg_pool(x, 3, stride, "SAME", count_padding=False)


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return batch_norm(channels, epsilon=1e-3, momentum=0.9997, rngs=rngs)


def _conv(
    inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs, *, padding: str = "SAME", groups: int = 1
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        stride,
        padding=padding,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=_HE_FAN_OUT if groups == 1 else _HE_DEPTHWISE,
        rngs=rngs,
    )


def nasnet_a_large(num_classes: int = 1000, *, aux: bool = False, keep_path: float = 1.0, rngs: nnx.Rngs) -> NASNetA:
    """NASNet-A 6@4032: 88,753,150 parameters, 93,320,934 with the auxiliary head; 23,783M multiply-adds at 331x331.

    The original training has the head and a `keep_path` of 0.7.

    >>> from advjax.models.counting import abstract
    >>> abstract(nasnet_a_large).last_linear.kernel.shape
    (4032, 1000)
    """
    return NASNetA(6, 4032, 96, num_classes, aux_size=6 if aux else 0, keep_path=keep_path, rngs=rngs)


def nasnet_a_mobile(num_classes: int = 1000, *, aux: bool = False, keep_path: float = 1.0, rngs: nnx.Rngs) -> NASNetA:
    """NASNet-A 4@1056: 5,289,978 parameters, 7,701,218 with the auxiliary head; 563.6M multiply-adds at 224x224.

    The original training has the head and no drop-path.

    >>> from advjax.models.counting import abstract
    >>> abstract(nasnet_a_mobile).last_linear.kernel.shape
    (1056, 1000)
    """
    size = 4 if aux else 0
    return NASNetA(4, 1056, 32, num_classes, skip_reduction_input=False, aux_size=size, keep_path=keep_path, rngs=rngs)
