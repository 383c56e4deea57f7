"""How the networks of Di et al. are trained without their method: what their base rows cite, number by number."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import optax
from flax import nnx

from advjax.disturb import Chain, Disturbance, RandomCrop, RandomErasing, RandomFlip
from advjax.models import (
    CapsNet,
    CondenseNet,
    GoogLeNet,
    InceptionV3,
    LeNetRelu,
    MobileNetV1,
    ShuffleNet,
    StochasticDepthResNet,
    WideResNet,
    capsule_loss,
    condensation_steps,
    condense_loss,
    nasnet_a_large,
    senet154,
    stochastic_resnet152,
)
from advjax.training import cross_entropy, with_heads
from advjax.training.step import Loss

__all__ = ["RECIPES", "Recipe"]

# The two cores that the results here are of, or accelerators of 80 GB.
_CORES, _ONE, _EIGHT = "two CPU cores", "one H100", "eight H100"
Rate = Callable[[int, int], optax.ScalarOrSchedule]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One base network.

    Attributes:
        network: constructor, called with `rngs`; small ones of MNIST with `mean` and `std` of the images too.
        data: name of the data set; its images are of `shape` with `classes`.
        batch_size, epochs: of the training.
        optimizer: from the steps of all epochs and of one.
        augment: of the training images; None: as they are.
        loss: as for `train_step`.
        fgsm: epsilon of the FGSM row, in [0, 1] ([R]: the paper gives none).
        condensed: after which of so many steps CondenseNet's groups lose inputs.
        here: whether it is trained in the committed results.
        time: what a run of one network needs, and about how long (estimated from the operations, where not measured).
        source: of the recipe.
    """

    network: Callable[..., nnx.Module]
    data: str
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    epochs: int
    optimizer: Callable[[int, int], optax.GradientTransformation]
    time: str
    source: str
    augment: Disturbance | None = None
    loss: Loss = cross_entropy
    fgsm: float = 8 / 255
    condensed: Callable[[int], tuple[int, ...]] = lambda steps: ()
    here: bool = False


def sgd(
    rate: Rate, weight_decay: float, *, nesterov: bool = False
) -> Callable[[int, int], optax.GradientTransformation]:
    """SGD with momentum 0.9, whose decay is added to the gradient (PyTorch's and torch7's without dampening)."""

    def make(steps: int, epoch: int) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(rate(steps, epoch), momentum=0.9, nesterov=nesterov),
        )

    return make


def stairs(rate: float, falls: Mapping[float, float]) -> Rate:
    """A rate that is multiplied by so much at the start of each of these epochs, or shares of all if below 1."""

    def schedule(steps: int, epoch: int) -> optax.Schedule:
        places = {round(at * (steps if at < 1 else epoch)): factor for at, factor in falls.items()}
        return optax.piecewise_constant_schedule(rate, places)

    return schedule


def cosine(rate: float) -> Rate:
    """A rate that falls to 0 along half a cosine, step by step."""
    return lambda steps, epoch: optax.cosine_decay_schedule(rate, max(steps, 1))


def _warm_stairs(steps: int, epoch: int) -> optax.Schedule:
    """0.1, times 0.2 at epochs 60, 120 and 160, after one epoch from 0."""
    later = stairs(0.1, {60: 0.2, 120: 0.2, 160: 0.2})(steps, epoch)
    assert callable(later)
    return lambda step: later(step) * optax.linear_schedule(0.0, 1.0, epoch)(step)


def _adam(steps: int, epoch: int) -> optax.GradientTransformation:
    return optax.adam(1e-3)


def _capsules(steps: int, epoch: int) -> optax.GradientTransformation:
    return optax.adam(optax.exponential_decay(1e-3, 2000, 0.96, end_value=1e-6))


def _slim(steps: int, epoch: int) -> optax.GradientTransformation:
    """RMSProp of slim's NASNet for one replica: rate 0.015, times 0.97 every 2.4 epochs; gradients clipped at 10."""
    rate = optax.exponential_decay(0.015, max(round(2.4 * epoch), 1), 0.97, staircase=True)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.rmsprop(rate, decay=0.9, eps=1.0, momentum=0.9))


_CROP_AND_FLIP = Chain((RandomCrop(32, padding=4), RandomFlip()))
# The authors of Random Erasing fill standardized images with (0.4914, 0.4822, 0.4465): mean + deviation * that.
_FILL = tuple(mean + std * mean for mean, std in zip((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), strict=True))
_ERASED = Chain((*_CROP_AND_FLIP.steps, RandomErasing(fill=_FILL)))
_DIGIT, _SMALL, _LARGE = (28, 28, 1), (32, 32, 3), (224, 224, 3)
_WIDE = partial(sgd, stairs(0.1, {150: 0.1, 225: 0.1}), 5e-4)
_SVHN = "SVHN train and extra (604,388 images)"


def _imagenet(network: Callable[..., nnx.Module], source: str, **more: Any) -> Recipe:
    """What no paper's recipe is written down for here: SGD of 90 epochs along a cosine ([R])."""
    settings: dict[str, Any] = {
        "batch_size": 256,
        "epochs": 90,
        "optimizer": sgd(cosine(0.1), 4e-5),
        "time": f"ImageNet; {_EIGHT}, days",
        "augment": Chain((RandomCrop(224), RandomFlip())),
        **more,
    }
    return Recipe(network, "imagenet", settings.pop("shape", _LARGE), 1000, source=source, **settings)


def _condense(groups: int) -> Recipe:
    return _imagenet(
        partial(CondenseNet, groups=groups),
        "ShichenLiu/CondenseNet, README",
        epochs=120,
        optimizer=sgd(cosine(0.1), 1e-4, nesterov=True),
        loss=condense_loss,
        condensed=partial(condensation_steps, groups=groups),
    )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mnist/LeNet": Recipe(
            LeNetRelu, "mnist", _DIGIT, 10, 128, 50, _adam, f"MNIST; {_CORES}, 8 seconds an epoch",
            "[R] Adam at 1e-3, 50 epochs; Di do not describe their LeNet with dropout", fgsm=0.1, here=True,
        ),
        "mnist/CapsNet": Recipe(
            partial(CapsNet, decoder=False), "mnist", _DIGIT, 10, 128, 2, _capsules,
            f"MNIST; {_CORES}, 10 minutes an epoch",
            "Sabour et al. 2017; its code (50 epochs and more); Di's 0.35 is the network without a decoder",
            augment=RandomCrop(28, padding=2), loss=capsule_loss, fgsm=0.1, here=True,
        ),
        "svhn/S-ResNet": Recipe(
            stochastic_resnet152, "svhn_cropped", _SMALL, 10, 128, 50,
            sgd(stairs(0.1, {0.6: 0.1, 0.7: 0.1}), 1e-4, nesterov=True), f"{_SVHN}; {_ONE}, a day",
            "yueatsprograms/Stochastic_Depth: 152 layers, which Di call 110",
        ),
        "svhn/W-ResNet": Recipe(
            partial(WideResNet, 16, 8, dropout=0.4), "svhn_cropped", _SMALL, 10, 128, 160,
            sgd(stairs(0.01, {80: 0.1, 120: 0.1}), 5e-4, nesterov=True), f"{_SVHN}; {_ONE}, two days",
            "Zagoruyko and Komodakis 2016; without the standard augmentation that Di tick",
        ),
        "cifar10/ResNet-20": Recipe(
            partial(StochasticDepthResNet, 20, death_rate=0.0, conv_bias=False), "cifar10", _SMALL, 10, 128, 10,
            sgd(cosine(0.1), 1e-4), f"CIFAR-10; {_CORES}, 75 seconds an epoch",
            "not in the paper: a network that two cores can train (He et al. 2016: 164 epochs)",
            augment=_CROP_AND_FLIP, here=True,
        ),
        "cifar10/W-ResNet": Recipe(
            partial(WideResNet, 28, 10, dropout=0.3), "cifar10", _SMALL, 10, 128, 300, _WIDE(),
            f"CIFAR-10; {_ONE}, two days",
            "Zhong et al. 2017, Random Erasing; its code has no dropout, which Di tick (0.3: Zagoruyko)",
            augment=_ERASED,
        ),
        "cifar100/InceptionV3": Recipe(
            partial(InceptionV3, 100, aux=False, small_images=True), "cifar100", _SMALL, 100, 128, 200,
            sgd(_warm_stairs, 5e-4), f"CIFAR-100; {_ONE}, a day",
            "[R] weiaicunzai/pytorch-cifar100 without its rotations; Di's source is not known", augment=_CROP_AND_FLIP,
        ),
        "cifar100/W-ResNet": Recipe(
            partial(WideResNet, 28, 10, 100, dropout=0.3), "cifar100", _SMALL, 100, 128, 300, _WIDE(),
            f"CIFAR-100; {_ONE}, two days", "as on CIFAR-10", augment=_ERASED,
        ),
        "imagenet/CondenseNet(8)": _condense(8),
        "imagenet/CondenseNet(4)": _condense(4),
        "imagenet/NASNet-A": _imagenet(
            partial(nasnet_a_large, aux=True),
            "tensorflow/models, slim (250,000 steps of 100 replicas); without its drop-path", shape=(331, 331, 3),
            batch_size=32, epochs=300, optimizer=_slim, loss=with_heads(0.4), augment=RandomFlip(),
        ),
        "imagenet/SENet": _imagenet(senet154, "[R]; Hu et al. 2018", shape=(320, 320, 3), augment=RandomFlip()),
        "imagenet/Inception V1": _imagenet(GoogLeNet, "[R]; Szegedy et al. 2015", loss=with_heads(0.3)),
        "imagenet/MobileNet": _imagenet(MobileNetV1, "[R]; Howard et al. 2017"),
        "imagenet/ShuffleNet": _imagenet(ShuffleNet, "[R]; Zhang et al. 2018"),
    }
)  # fmt: skip
