"""GoogLeNet (Inception v1): BVLC's with local response normalization, and torchvision's with batch normalization."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.models.blocks import ConvNorm, caffe_input, flatten, normalize
from advjax.models.checkpoint_names import Names, names_of, torch_name
from advjax.models.layers import avg_pool, check_images, fan_in_uniform, max_pool
from advjax.models.lenet import is_bias
from advjax.models.taps import Tap, untapped

__all__ = ["GoogLeNet", "local_response_norm", "quick_solver"]

# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection: Szegedy et al. 2015, Table 1.
_BLOCKS = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
_AUXILIARY = {"inception4a": "aux1", "inception4d": "aux2"}

_XAVIER = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")  # Caffe's: U(+-sqrt(3 / fan_in))
_FIFTH = nnx.initializers.constant(0.2)
_NORMAL = nnx.initializers.normal(0.01)
# Caffe's ImageNet mean in gray levels: blue, green, red.
_BGR_MEAN = (104.0, 117.0, 123.0)


class GoogLeNet(nnx.Module):
    """The Inception network of 2014.

    conv 7x7/2 -> max pool 3/2 -> LRN -> conv 1x1 -> conv 3x3 -> LRN -> max pool 3/2 -> two Inception blocks -> max
    pool 3/2 -> five -> max pool 3/2 -> two -> mean over the image -> dropout 0.4 -> dense; ReLU after each
    convolution, pools in ceil mode. A block concatenates 1x1, 1x1 -> 3x3, 1x1 -> 5x5 and max pool 3/1 -> 1x1.
    13,378,280 parameters with both auxiliary heads, 6,998,552 and 1,583M multiply-adds without. Images become gray
    levels in blue, green, red minus (104, 117, 123); weights start as U(+-sqrt(3 / fan_in)), biases as 0.2, those
    of the last layers as 0 (Caffe).

    With `batch_norm` it is torchvision's network: batch norm (epsilon 0.001) in place of biases and LRN, 3x3 in place
    of 5x5 convolutions, the last max pool 2/2, dropout 0.2, images as (x - 0.5) / 0.5 (what its published weights
    expect of `transform_input`), kernels N(0, 0.01^2): 6,624,904 parameters without the heads.

    In training mode the heads after inception4a and inception4d give logits to the taps aux1 and aux2; add 0.3 times
    their losses, as in the paper. In evaluation mode they are not computed.

    Args:
        num_classes: number of logits.
        batch_norm: torchvision's network instead of BVLC's.
        aux: have the auxiliary heads, which need images of 224x224.
        width: factor on the channels of all convolutions; 1 in the paper.
        rngs: `nnx.Rngs`; the stream `params` draws the weights, `dropout` the masks.

    Taps: input, conv1, conv3, inception3a, ... inception5b, aux1 and aux2 (training), pool, penultimate. What each
    Inception block reads (before a pool, if one comes first) are the hidden ones: conv3 and all blocks but the last.

    Source: Szegedy et al. 2015, "Going deeper with convolutions"; BVLC/caffe, models/bvlc_googlenet; torchvision's
    googlenet.py.

    >>> nnx.eval_shape(lambda: GoogLeNet(10, rngs=nnx.Rngs(0))(jnp.zeros((2, 224, 224, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        batch_norm: bool = False,
        aux: bool = True,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.batch_norm = batch_norm
        unit = ConvNorm if batch_norm else _Conv
        init: dict[str, Any] = {"kernel_init": _NORMAL if batch_norm else _XAVIER, "rngs": rngs}
        first, last = round(64 * width), round(192 * width)
        self.conv1 = unit(3, first, (7, 7), 2, 3, **init)
        self.conv2 = unit(first, first, (1, 1), **init)
        self.conv3 = unit(first, last, (3, 3), **init)
        channels = last
        for name, sizes in _BLOCKS.items():
            block = _Inception(channels, tuple(round(size * width) for size in sizes), batch_norm, rngs)
            setattr(self, name, block)
            channels = block.outputs
            if aux and name in _AUXILIARY:
                setattr(self, _AUXILIARY[name], _Auxiliary(channels, round(128 * width), num_classes, batch_norm, rngs))
        self.aux = aux
        self.dropout = nnx.Dropout(0.2 if batch_norm else 0.4, rngs=rngs)
        self.fc = nnx.Linear(channels, num_classes, kernel_init=init["kernel_init"], rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, H, W, 3] in [0, 1]; 224x224 in the paper."""
        check_images(images, None, None, 3)
        x = tap("input", self._normalize(images))
        x = tap("conv1", self._response_norm(max_pool(self.conv1(x), 3, 2, ceil=True)))
        x = tap("conv3", max_pool(self._response_norm(self.conv3(self.conv2(x))), 3, 2, ceil=True))
        for name in _BLOCKS:
            if name == "inception4a":
                x = max_pool(x, 3, 2, ceil=True)
            if name == "inception5a":
                x = max_pool(x, 2 if self.batch_norm else 3, 2, ceil=True)
            x = tap(name, getattr(self, name)(x))
            if self.aux and name in _AUXILIARY and not self.dropout.deterministic:
                head = _AUXILIARY[name]
                tap(head, getattr(self, head)(x))
        x = tap("pool", self.dropout(x.mean((1, 2))))
        return tap("penultimate", self.fc(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each Inception block reads."""
        return ("conv3", *list(_BLOCKS)[:-1])

    def _normalize(self, images: jax.Array) -> jax.Array:
        if self.batch_norm:
            return normalize(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return caffe_input(images, _BGR_MEAN)

    def _response_norm(self, x: jax.Array) -> jax.Array:
        return x if self.batch_norm else local_response_norm(x, size=5, alpha=1e-4, beta=0.75)

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in torchvision's checkpoint with `batch_norm`, otherwise in bvlc_googlenet.caffemodel."""
        if kind != ("torch" if self.batch_norm else "caffe"):
            return []
        return [names_of(self, _torch_name if self.batch_norm else _caffe_name)]


def local_response_norm(x: jax.Array, *, size: int, alpha: float, beta: float) -> jax.Array:
    """Each channel over (1 + alpha / size * the sum of squares of the `size` channels around it)^beta.

    Args:
        x: [..., C].
        size: odd number of channels, cut at the first and the last one.
        alpha: weight of the mean square.
        beta: exponent.

    Source: Krizhevsky et al. 2012, sec. 3.3, with alpha divided by `size` as in Caffe and PyTorch.

    >>> local_response_norm(jnp.ones((1, 3)), size=3, alpha=3.0, beta=1.0).tolist()  # doctest: +ELLIPSIS
    [[0.3333..., 0.25, 0.3333...]]
    """
    window = (1,) * (x.ndim - 1) + (size,)
    squares = jax.lax.reduce_window(x * x, 0.0, jax.lax.add, window, (1,) * x.ndim, "SAME")
    return x * (1 + alpha / size * squares) ** -beta


class _Conv(nnx.Module):
    """Convolution -> ReLU, in a module of its own so that its weights are called as those of `ConvNorm`."""

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
            inputs, outputs, kernel, strides, padding=padding, kernel_init=kernel_init, bias_init=_FIFTH, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.conv(x))


class _Inception(nnx.Module):
    def __init__(self, inputs: int, sizes: tuple[int, ...], batch_norm: bool, rngs: nnx.Rngs) -> None:
        unit, init, large = (ConvNorm, _NORMAL, (3, 3)) if batch_norm else (_Conv, _XAVIER, (5, 5))
        one, reduce3, three, reduce5, five, project = sizes

        def conv(channels: int, outputs: int, kernel: tuple[int, int]) -> ConvNorm | _Conv:
            return unit(channels, outputs, kernel, kernel_init=init, rngs=rngs)

        self.branch1 = conv(inputs, one, (1, 1))
        self.branch2 = nnx.List([conv(inputs, reduce3, (1, 1)), conv(reduce3, three, (3, 3))])
        self.branch3 = nnx.List([conv(inputs, reduce5, (1, 1)), conv(reduce5, five, large)])
        self.branch4 = conv(inputs, project, (1, 1))
        self.outputs = one + three + five + project

    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [self.branch1(x)]
        for reduce, conv in (self.branch2, self.branch3):
            branches.append(conv(reduce(x)))
        branches.append(self.branch4(max_pool(x, 3, 1, 1)))
        return jnp.concatenate(branches, axis=-1)


class _Auxiliary(nnx.Module):
    """Pool to 4x4 -> conv 1x1 -> dense 1024 -> ReLU -> dropout 0.7 -> dense."""

    def __init__(self, inputs: int, channels: int, num_classes: int, batch_norm: bool, rngs: nnx.Rngs) -> None:
        self.batch_norm = batch_norm
        unit, init = (ConvNorm, _NORMAL) if batch_norm else (_Conv, _XAVIER)
        hidden_bias = fan_in_uniform(16 * channels) if batch_norm else _FIFTH
        self.conv = unit(inputs, channels, (1, 1), kernel_init=init, rngs=rngs)
        self.fc1 = nnx.Linear(16 * channels, 1024, kernel_init=init, bias_init=hidden_bias, rngs=rngs)
        self.fc2 = nnx.Linear(1024, num_classes, kernel_init=init, rngs=rngs)
        self.dropout = nnx.Dropout(0.7, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:3] != (14, 14):
            raise ValueError(
                f"images must be 224x224 for the auxiliary heads, which read 14x14 features, got {x.shape}"
            )
        x = _adaptive_avg_pool(x, 4) if self.batch_norm else avg_pool(x, 5, 3)
        x = nnx.relu(self.fc1(flatten(self.conv(x))))
        return self.fc2(self.dropout(x))


def _adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """PyTorch's: window i of `size` covers the pixels from floor(i H / size) to ceil((i + 1) H / size)."""

    def means(pixels: int) -> jax.Array:
        start = np.arange(size) * pixels // size
        stop = -(-(np.arange(size) + 1) * pixels // size)
        inside = (np.arange(pixels) >= start[:, None]) & (np.arange(pixels) < stop[:, None])
        return jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype)

    return jnp.einsum("ih,jw,bhwc->bijc", means(x.shape[1]), means(x.shape[2]), x)


def quick_solver(
    steps: int, learning_rate: float = 0.01, momentum: float = 0.9, weight_decay: float = 2e-4
) -> optax.GradientTransformation:
    """Caffe's SGD with the "poly" policy of BVLC-GoogLeNet's quick_solver, for a training of `steps` steps.

    At step t, with r_t = `learning_rate` sqrt(1 - t / `steps`), for each parameter w with gradient g:

        v <- momentum v + r_t (g + weight_decay w),    of biases v <- momentum v + 2 r_t g,        w <- w - v

    The rate is inside the momentum buffer, and a parameter is a bias, as in `caffe_solver`.

    Source: BVLC/caffe, models/bvlc_googlenet/quick_solver.prototxt and train_val.prototxt.

    >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
    >>> solver = quick_solver(10, learning_rate=0.1, weight_decay=1.0)
    >>> updates, _ = solver.update(params, solver.init(params), params)
    >>> {name: round(float(update[0]), 3) for name, update in updates.items()}
    {'bias': -0.2, 'kernel': -0.2}
    """

    def rate(count: jax.Array) -> jax.Array:
        share = jnp.asarray(count, jnp.float32) / steps
        return learning_rate * jnp.sqrt(jnp.maximum(1.0 - share, 0.0))

    def kernels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: not is_bias(path), params)

    def scaled(updates: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, leaf: 2.0 * leaf if is_bias(path) else leaf, updates)

    return optax.chain(
        optax.add_decayed_weights(weight_decay, kernels),
        optax.scale_by_schedule(rate),
        optax.stateless(scaled),
        optax.trace(momentum),
        optax.scale(-1.0),
    )


def _torch_name(path: str) -> str:
    # In torchvision the pool is layer 0 of the fourth branch.
    return torch_name(path.replace("branch4/", "branch4/1/"))


_CAFFE = {
    "conv1": "conv1/7x7_s2",
    "conv2": "conv2/3x3_reduce",
    "conv3": "conv2/3x3",
    "branch1": "1x1",
    "branch2/0": "3x3_reduce",
    "branch2/1": "3x3",
    "branch3/0": "5x5_reduce",
    "branch3/1": "5x5",
    "branch4": "pool_proj",
    "fc": "loss3/classifier",
    "aux1/conv": "loss1/conv",
    "aux1/fc1": "loss1/fc",
    "aux1/fc2": "loss1/classifier",
    "aux2/conv": "loss2/conv",
    "aux2/fc1": "loss2/fc",
    "aux2/fc2": "loss2/classifier",
}


def _caffe_name(path: str) -> str:
    module, leaf = path.rsplit("/", 1)
    if module not in _CAFFE:
        module = module.removesuffix("/conv")
    blob = {"kernel": 0, "bias": 1}[leaf]
    if module.startswith("inception"):
        block, branch = module.split("/", 1)
        return f"inception_{block.removeprefix('inception')}/{_CAFFE[branch]}[{blob}]"
    return f"{_CAFFE[module]}[{blob}]"
