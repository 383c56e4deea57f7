"""Residual networks for 32x32 images trained with stochastic depth: ResNet-110 and ResNet-152."""

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.models.blocks import CIFAR10_MEAN, CIFAR10_STD, HE_FAN_IN, normalize
from advjax.models.layers import avg_pool, batch_norm, check_images, fan_in_uniform
from advjax.models.taps import Tap, untapped

__all__ = ["StochasticDepthResNet", "stochastic_resnet110", "stochastic_resnet152"]

# torch7's start of batch normalization.
_UNIT = nnx.initializers.uniform(1.0)


class StochasticDepthResNet(nnx.Module):
    """Residual network of depth 6n + 2 whose blocks are skipped at random while it trains.

    conv 3x3x16 -> BN -> ReLU -> three stages of n blocks with 16, 32 and 64 channels -> mean over the image ->
    dense. Block l of L = 3n, with f_l = BN o conv 3x3 o relu o BN o conv 3x3 and survival probability p_l, is

        training:    x <- relu(b_l f_l(x) + shortcut(x)),   b_l ~ Bernoulli(p_l), one draw for the whole batch
        evaluation:  x <- relu(p_l f_l(x) + shortcut(x)),   p_l = 1 - (l / L) death_rate.

    A skipped block leaves its batch statistics as they were. The second and the third stage begin by halving
    the image, where the shortcut is a mean pool 2/2 and zeros for the new channels (option A).

    Args:
        depth: 6n + 2.
        num_classes: number of logits.
        death_rate: of the last block, 1 - p_L; 0 is an ordinary residual network.
        conv_bias: whether convolutions have biases, as in the authors' code.
        mean, std: of the images' channels; the defaults are those of CIFAR-10's training images.
        rngs: `nnx.Rngs`; the streams `params` (weights) and `dropout` (the draws b_l).

    Raises:
        ValueError: a depth or a death rate that cannot be.

    Taps: input (normalized), stem, block1/0, block1/1, ... block3/n-1, pool, penultimate. All of them follow a ReLU,
    so that what a block reads after its activation, the hidden ones, are stem and all blocks but the last.

    Source: Huang et al. 2016, "Deep networks with stochastic depth", eqs. 2-5; yueatsprograms/Stochastic_Depth.

    >>> nnx.eval_shape(lambda: StochasticDepthResNet(8, rngs=nnx.Rngs(0))).survival
    (0.8333..., 0.6666..., 0.5)
    >>> nnx.eval_shape(lambda: StochasticDepthResNet(8, rngs=nnx.Rngs(0))(jnp.zeros((2, 32, 32, 3)))).shape
    (2, 10)
    """

    def __init__(
        self,
        depth: int = 110,
        num_classes: int = 10,
        *,
        death_rate: float = 0.5,
        conv_bias: bool = True,
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        std: tuple[float, float, float] = CIFAR10_STD,
        rngs: nnx.Rngs,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        if not 0 <= death_rate <= 1:
            raise ValueError(f"death_rate must be in [0, 1], got {death_rate}")
        self.mean, self.std = tuple(mean), tuple(std)
        count = (depth - 2) // 2
        self.survival = tuple(1 - (index + 1) / count * death_rate for index in range(count))
        self.deterministic = False
        self.draws = rngs.dropout.fork()
        self.conv1 = _conv(3, 16, 1, conv_bias, rngs)
        self.bn1 = batch_norm(16, scale_init=_UNIT, rngs=rngs)
        inputs = 16
        for stage in (1, 2, 3):
            outputs, blocks = 16 * 2 ** (stage - 1), []
            for _ in range(count // 3):
                blocks.append(_Residual(inputs, outputs, conv_bias, rngs))
                inputs = outputs
            setattr(self, f"block{stage}", nnx.List(blocks))
        init = fan_in_uniform(inputs)
        self.fc = nnx.Linear(inputs, num_classes, kernel_init=init, bias_init=init, rngs=rngs)

    def trunk(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """The features before the mean, float32 [B, H/4, W/4, 64], of images as in a call."""
        check_images(images, None, None, 3)
        open_gates = None
        if not self.deterministic:
            open_gates = jax.random.bernoulli(self.draws(), jnp.array(self.survival, jnp.float32))
        x = tap("input", normalize(images, self.mean, self.std))
        x = tap("stem", nnx.relu(self.bn1(self.conv1(x))))
        count = 0
        for stage in (1, 2, 3):
            for index, block in enumerate(getattr(self, f"block{stage}")):
                if open_gates is None:
                    residual = self.survival[count] * block(x)
                else:
                    residual = nnx.cond(open_gates[count], _run, _skip, block, x)
                x = tap(f"block{stage}/{index}", nnx.relu(residual + _shortcut(x, residual.shape)))
                count += 1
        return x

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of images float32 [B, H, W, 3] in [0, 1]; 32x32 in the paper."""
        x = tap("pool", self.trunk(images, tap).mean((1, 2)))
        return tap("penultimate", self.fc(x))

    @property
    def hidden_taps(self) -> tuple[str, ...]:
        """What each block reads."""
        blocks = [f"block{stage}/{index}" for stage in (1, 2, 3) for index in range(len(self.survival) // 3)]
        return ("stem", *blocks[:-1])


class _Residual(nnx.Module):
    def __init__(self, inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs) -> None:
        self.conv1 = _conv(inputs, outputs, 1 if inputs == outputs else 2, bias, rngs)
        self.bn1 = batch_norm(outputs, scale_init=_UNIT, rngs=rngs)
        self.conv2 = _conv(outputs, outputs, 1, bias, rngs)
        self.bn2 = batch_norm(outputs, scale_init=_UNIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))


def _run(block: _Residual, x: jax.Array) -> jax.Array:
    return block(x)


def _skip(block: _Residual, x: jax.Array) -> jax.Array:
    shape = jax.eval_shape(lambda x: block.conv1(x), x).shape
    return jnp.zeros(shape, x.dtype)


def _shortcut(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if x.shape == shape:
        return x
    return jnp.pad(avg_pool(x, 2, 2), ((0, 0), (0, 0), (0, 0), (0, shape[3] - x.shape[3])))


def _conv(inputs: int, outputs: int, stride: int, bias: bool, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), stride, padding=1, use_bias=bias, kernel_init=HE_FAN_IN, rngs=rngs)


def stochastic_resnet110(num_classes: int = 10, *, death_rate: float = 0.5, rngs: nnx.Rngs) -> StochasticDepthResNet:
    """ResNet-110 with stochastic depth: 1,732,010 parameters, 253M multiply-adds at 32x32.

    >>> from advjax.models.counting import abstract
    >>> len(abstract(stochastic_resnet110).survival)
    54
    """
    return StochasticDepthResNet(110, num_classes, death_rate=death_rate, rngs=rngs)


def stochastic_resnet152(num_classes: int = 10, *, death_rate: float = 0.5, rngs: nnx.Rngs) -> StochasticDepthResNet:
    """ResNet-152 with stochastic depth, the authors' SVHN network: 2,414,090 parameters, 352M multiply-adds.

    >>> from advjax.models.counting import abstract
    >>> len(abstract(stochastic_resnet152).survival)
    75
    """
    return StochasticDepthResNet(152, num_classes, death_rate=death_rate, rngs=rngs)
