"""Caffe's LeNet for MNIST and the solver it was published with; the same with ReLU and dropout."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from advjax.models.checkpoint_names import Names, Source
from advjax.models.layers import check_images, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["LeNet", "LeNetRelu", "caffe_solver", "is_bias"]

# Caffe's "xavier": U(-sqrt(3/fan_in), sqrt(3/fan_in)), by fan_in alone. One object for all networks, because
# graph definitions compare their initializers by identity and a new definition would mean a new trace.
_XAVIER = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
_ZEROS = nnx.initializers.zeros_init()


class LeNet(nnx.Module):
    """LeNet as in Caffe's MNIST example: no non-linearity but the pools and one ReLU, 431,080 parameters.

    conv 5x5x20 (valid) -> max pool 2/2 -> conv 5x5x50 (valid) -> max pool 2/2 -> dense 500 -> ReLU -> dense
    `num_classes`. Weights start as U(+-sqrt(3/fan_in)), biases as 0. Caffe multiplies gray levels 0..255 by
    1/256; an image in [0, 1] is therefore multiplied by 255/256 inside.

    Args:
        num_classes: number of logits.
        rngs: `nnx.Rngs`; the stream `params` draws the weights.

    Taps: input (scaled), pool1, pool2, dense1, penultimate; the hidden ones are pool1, pool2 and dense1.

    Source: BVLC/caffe, examples/mnist/lenet_train_test.prototxt; Rozsa et al. 2016, sec. 5.2.

    >>> LeNet(rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("pool1", "pool2", "dense1")

    def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs) -> None:
        init: dict[str, Any] = {"kernel_init": _XAVIER, "bias_init": _ZEROS, "rngs": rngs}
        self.conv1 = nnx.Conv(1, 20, (5, 5), padding="VALID", **init)
        self.conv2 = nnx.Conv(20, 50, (5, 5), padding="VALID", **init)
        self.dense1 = nnx.Linear(4 * 4 * 50, 500, **init)
        self.dense2 = nnx.Linear(500, num_classes, **init)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, 28, 28, 1] in [0, 1]."""
        check_images(images, 28, 28, 1)
        x = tap("input", images * (255 / 256))
        x = tap("pool1", nnx.max_pool(self.conv1(x), (2, 2), strides=(2, 2)))
        x = tap("pool2", nnx.max_pool(self.conv2(x), (2, 2), strides=(2, 2)))
        x = tap("dense1", nnx.relu(self.dense1(x.reshape(x.shape[0], -1))))
        return tap("penultimate", self.dense2(x))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The names in Caffe's lenet_iter_10000.caffemodel, whose ip1 reads the features channels first.

        Its layers converted to PyTorch's layout are called conv1.weight, conv1.bias, ..., ip2.bias.
        """
        layers = {"conv1": "conv1", "conv2": "conv2", "dense1": "ip1", "dense2": "ip2"}
        ends = {"caffe": ("[0]", "[1]"), "torch": (".weight", ".bias")}[kind]
        return [
            {
                f"{ours}/{leaf}": Source(theirs + end, (50, 4, 4) if (ours, leaf) == ("dense1", "kernel") else None)
                for ours, theirs in layers.items()
                for leaf, end in zip(("kernel", "bias"), ends, strict=True)
            }
        ]


class LeNetRelu(nnx.Module):
    """LeNet with a ReLU after each convolution and dropout 0.5 before the last layer; 431,080 parameters.

    (image - mean) / std -> conv 5x5x20 (valid) -> ReLU -> max pool 2/2 -> conv 5x5x50 (valid) -> ReLU -> max pool 2/2
    -> dense 500 -> ReLU -> dropout 0.5 -> dense `num_classes`. The weights start as those of `LeNet`. It stands for the
    LeNet "with dropout" of Di et al., who do not say more of it.

    Args:
        num_classes: number of logits.
        mean, std: of the gray levels in [0, 1], taken from and divided out of the images; with 0 and 1 the network
            reads them as they are. Those of MNIST's training images are 0.1307 and 0.3081.
        rngs: `nnx.Rngs`; the streams `params` (weights) and `dropout`.

    Raises:
        ValueError: the standard deviation is not positive.

    Taps: input (standardized), pool1, pool2, dense1, penultimate; the hidden ones are pool1, pool2 and dense1.

    Source: Di, Yu and Tian 2018, Table 4; the layers of BVLC/caffe, examples/mnist.

    >>> LeNetRelu(mean=0.1307, std=0.3081, rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("pool1", "pool2", "dense1")

    def __init__(self, num_classes: int = 10, *, mean: float = 0.0, std: float = 1.0, rngs: nnx.Rngs) -> None:
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean, self.std = float(mean), float(std)
        init: dict[str, Any] = {"kernel_init": _XAVIER, "bias_init": _ZEROS, "rngs": rngs}
        self.conv1 = nnx.Conv(1, 20, (5, 5), padding="VALID", **init)
        self.conv2 = nnx.Conv(20, 50, (5, 5), padding="VALID", **init)
        self.dense1 = nnx.Linear(4 * 4 * 50, 500, **init)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense2 = nnx.Linear(500, num_classes, **init)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, 28, 28, 1] in [0, 1]."""
        check_images(images, 28, 28, 1)
        x = tap("input", (images - self.mean) / self.std)
        x = tap("pool1", max_pool(nnx.relu(self.conv1(x)), 2, 2))
        x = tap("pool2", max_pool(nnx.relu(self.conv2(x)), 2, 2))
        x = tap("dense1", nnx.relu(self.dense1(x.reshape(x.shape[0], -1))))
        return tap("penultimate", self.dense2(self.dropout(x)))


def caffe_solver(
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    gamma: float = 1e-4,
    power: float = 0.75,
    bias_multiplier: float = 2.0,
) -> optax.GradientTransformation:
    """Caffe's SGD with the "inv" policy; the defaults are those of its LeNet (10,000 steps of batch 64).

    At step t, with r_t = `learning_rate` (1 + `gamma` t)^-`power`, for each parameter w with gradient g:

        v <- momentum v + m r_t (g + weight_decay w),        w <- w - v

    where m = `bias_multiplier` for biases and 1 otherwise. The decay applies to biases too. The rate is
    inside the momentum buffer, unlike `optax.sgd`, where a change of the rate also rescales the past steps.

    A parameter is a bias if the last key of its path is "bias", as in NNX states and Linen variables alike.

    Source: BVLC/caffe, src/caffe/solvers/sgd_solver.cpp and examples/mnist/lenet_solver.prototxt.

    >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
    >>> solver = caffe_solver(learning_rate=0.1, weight_decay=0.0)
    >>> updates, _ = solver.update(params, solver.init(params), params)
    >>> {name: round(float(update[0]), 3) for name, update in updates.items()}
    {'bias': -0.2, 'kernel': -0.1}
    """

    def rate(count: jax.Array) -> jax.Array:
        return learning_rate * (1 + gamma * jnp.asarray(count, jnp.float32)) ** -power

    def scale_bias(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * bias_multiplier if is_bias(path) else update

    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_schedule(rate),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale_bias, updates)),
        optax.trace(decay=momentum),
        optax.scale(-1.0),
    )


def is_bias(path: tuple[Any, ...]) -> bool:
    """Whether the last key of a parameter's path is "bias"."""
    names = [str(getattr(entry, "key", getattr(entry, "name", None))) for entry in path]
    # In an nnx.State each path ends with the attribute that holds the Variable's array.
    return names[-1:] == ["bias"] or names[-2:] == ["bias", "value"]
