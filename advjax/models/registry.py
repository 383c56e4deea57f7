"""All networks by name, with the paper, the input and the sizes that were published."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from flax import nnx

from advjax.data.crops import CenterCrop
from advjax.models.blocks import CIFAR10_MEAN, CIFAR10_STD
from advjax.models.capsnet import CapsNet
from advjax.models.condensenet import CondensedNet, CondenseNet
from advjax.models.counting import abstract, count_macs, count_parameters
from advjax.models.densenet import DenseNet, densenet169
from advjax.models.googlenet import GoogLeNet
from advjax.models.inception import InceptionV3
from advjax.models.lenet import LeNet, LeNetRelu
from advjax.models.madry import MadryNet
from advjax.models.mobilenet import MobileNetV1, MobileNetV2
from advjax.models.nasnet import nasnet_a_large, nasnet_a_mobile
from advjax.models.resnet import ResNet, resnet50, resnet101, resnet152
from advjax.models.senet import se_resnet50, senet154
from advjax.models.shaham import ShahamNet
from advjax.models.shufflenet import ShuffleNet
from advjax.models.squeezenet import SqueezeNet
from advjax.models.stochastic_depth import stochastic_resnet110, stochastic_resnet152
from advjax.models.vgg import Vgg16
from advjax.models.vgg_cifar import VggCifar
from advjax.models.wide_resnet import wrn_16_8, wrn_28_10

__all__ = ["Network", "NETWORKS", "table"]


@dataclasses.dataclass(frozen=True)
class Network:
    """One row of the table.

    Attributes:
        make: constructor; called with `rngs`.
        shape: [H, W, C] of one image.
        paper: where the network comes from.
        published_parameters: in the words of the paper or the authors' code; empty if neither says.
        published_macs: likewise.
        squash: photographs are brought to a square before the crop, whatever their shape, as BVLC's were in training.
        resize: the shorter side, or that square, before the crop; 8/7 of the crop's shorter side if None.
    """

    make: Callable[..., nnx.Module]
    shape: tuple[int, int, int]
    paper: str
    published_parameters: str = ""
    published_macs: str = ""
    squash: bool = False
    resize: int | None = None

    @property
    def crop(self) -> CenterCrop | None:
        """How a photograph becomes an input: its middle, 87.5 % of the shorter side unless `resize` says otherwise.

        None for networks of images below 128x128.

        >>> NETWORKS["resnet50"].crop
        CenterCrop(crop=(224, 224), resize=256)
        """
        height, width, _ = self.shape
        if min(height, width) < 128:
            return None
        resize = self.resize or round(min(height, width) / 0.875)
        return CenterCrop((height, width), (resize, resize) if self.squash else resize)


_DIGIT, _CIFAR, _IMAGENET = (28, 28, 1), (32, 32, 3), (224, 224, 3)
_SMALL: dict[str, Any] = {"small_images": True, "mean": CIFAR10_MEAN, "std": CIFAR10_STD}

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "lenet": Network(LeNet, _DIGIT, "Caffe's MNIST example; Rozsa et al. 2016", "431,080"),
        "lenet-relu": Network(LeNetRelu, _DIGIT, "Di et al. 2018"),
        "shaham": Network(ShahamNet, (32, 32, 1), "Shaham et al. 2015"),
        "madry": Network(MadryNet, _DIGIT, "Madry et al. 2018; Rothberg et al. 2019"),
        "capsnet": Network(CapsNet, _DIGIT, "Sabour et al. 2017", "8.2M"),
        "capsnet-no-decoder": Network(partial(CapsNet, decoder=False), _DIGIT, "Sabour et al. 2017", "6.8M"),
        "vgg-cifar": Network(VggCifar, _CIFAR, "cifar.torch; Shaham et al. 2015", "15.0M"),
        "wrn-28-10": Network(wrn_28_10, _CIFAR, "Zagoruyko and Komodakis 2016", "36.5M"),
        "wrn-28-10-cifar100": Network(partial(wrn_28_10, 100), _CIFAR, "Zagoruyko and Komodakis 2016", "36.5M"),
        "wrn-16-8": Network(wrn_16_8, _CIFAR, "Zagoruyko and Komodakis 2016", "11.0M"),
        "stochastic-resnet110": Network(stochastic_resnet110, _CIFAR, "Huang et al. 2016", "1.7M"),
        "stochastic-resnet152": Network(stochastic_resnet152, _CIFAR, "Huang et al. 2016"),
        "resnet50-cifar": Network(
            partial(ResNet, (3, 4, 6, 3), 10, **_SMALL), _CIFAR, "He et al. 2016; public CIFAR code"
        ),
        "resnet101-cifar": Network(
            partial(ResNet, (3, 4, 23, 3), 10, **_SMALL), _CIFAR, "He et al. 2016; public CIFAR code"
        ),
        "densenet169-cifar": Network(partial(DenseNet, (6, 12, 32, 32), 10, **_SMALL), _CIFAR, "Huang et al. 2017"),
        "vgg16": Network(Vgg16, _IMAGENET, "Simonyan and Zisserman 2015", "138,357,544"),
        "vgg16-caffe": Network(partial(Vgg16, caffe=True), _IMAGENET, "Simonyan and Zisserman 2015", "138,357,544"),
        "googlenet": Network(GoogLeNet, _IMAGENET, "Szegedy et al. 2015; BVLC", "13,378,280", squash=True),
        "googlenet-no-heads": Network(
            partial(GoogLeNet, aux=False), _IMAGENET, "Szegedy et al. 2015; BVLC", "6.99M", squash=True
        ),
        "resnet50": Network(resnet50, _IMAGENET, "He et al. 2016", "25,557,032", "4.09G"),
        "resnet50-caffe": Network(partial(resnet50, caffe=True), _IMAGENET, "He et al. 2016", "25,557,032", "3.86G"),
        "resnet101": Network(resnet101, _IMAGENET, "He et al. 2016", "44,549,160"),
        "resnet101-caffe": Network(partial(resnet101, caffe=True), _IMAGENET, "He et al. 2016", "44,549,160"),
        "resnet152": Network(resnet152, _IMAGENET, "He et al. 2016", "60,192,808"),
        "resnet152-caffe": Network(partial(resnet152, caffe=True), _IMAGENET, "He et al. 2016", "60,192,808", "11.3G"),
        "densenet169": Network(densenet169, _IMAGENET, "Huang et al. 2017", "14,149,480"),
        "densenet169-caffe": Network(
            partial(densenet169, caffe=True), _IMAGENET, "Huang et al. 2017; shicai/DenseNet-Caffe", "14,149,480"
        ),
        "inception-v3": Network(InceptionV3, (299, 299, 3), "Szegedy et al. 2016", "27,161,264"),
        "inception-v3-no-head": Network(
            partial(InceptionV3, aux=False), (299, 299, 3), "Szegedy et al. 2016", "23,834,568"
        ),
        "inception-v3-cifar100": Network(
            partial(InceptionV3, 100, aux=False, small_images=True), _CIFAR, "Szegedy et al. 2016; public CIFAR code"
        ),
        "condensenet-4": Network(CondensedNet, _IMAGENET, "Huang et al. 2018", "4.8M", "529M"),
        "condensenet-8": Network(partial(CondensedNet, groups=8), _IMAGENET, "Huang et al. 2018", "2.9M", "274M"),
        "condensenet-4-training": Network(CondenseNet, _IMAGENET, "Huang et al. 2018"),
        "condensenet-8-training": Network(partial(CondenseNet, groups=8), _IMAGENET, "Huang et al. 2018"),
        "nasnet-a-large": Network(nasnet_a_large, (331, 331, 3), "Zoph et al. 2018", "88.9M", "23.8G"),
        "nasnet-a-mobile": Network(nasnet_a_mobile, _IMAGENET, "Zoph et al. 2018", "5.3M", "564M"),
        "mobilenet": Network(MobileNetV1, _IMAGENET, "Howard et al. 2017", "4.2M", "569M"),
        "mobilenet-tflite": Network(partial(MobileNetV1, tflite=True), _IMAGENET, "Howard et al. 2017", "4.2M", "569M"),
        "mobilenet-0.25-128": Network(partial(MobileNetV1, width=0.25), (128, 128, 3), "Howard et al. 2017", "0.47M"),
        "mobilenet-0.25-128-tflite": Network(
            partial(MobileNetV1, width=0.25, tflite=True), (128, 128, 3), "Howard et al. 2017", "0.47M"
        ),
        "mobilenet-v2": Network(MobileNetV2, _IMAGENET, "Sandler et al. 2018", "3,504,872", "300M"),
        "mobilenet-v2-tflite": Network(
            partial(MobileNetV2, tflite=True), _IMAGENET, "Sandler et al. 2018", "3,489,097", "300M"
        ),
        "shufflenet-2x": Network(ShuffleNet, _IMAGENET, "Zhang et al. 2018", "5.4M", "524M"),
        "squeezenet": Network(SqueezeNet, _IMAGENET, "Iandola et al. 2016", "1,248,424"),
        "squeezenet-caffe": Network(
            partial(SqueezeNet, caffe=True), (227, 227, 3), "Iandola et al. 2016", "1,248,424", squash=True, resize=256
        ),
        "senet154": Network(senet154, (320, 320, 3), "Hu et al. 2018", "145.8M (the released net: 115.1M)", "42.3G"),
        "senet154-caffe": Network(
            partial(senet154, caffe=True),
            (320, 320, 3),
            "Hu et al. 2018",
            "145.8M (the released net: 115.1M)",
            "42.3G",
        ),
        "se-resnet50": Network(se_resnet50, _IMAGENET, "Hu et al. 2018", "28.1M", "3.87G"),
        "se-resnet50-caffe": Network(partial(se_resnet50, caffe=True), _IMAGENET, "Hu et al. 2018", "28.1M", "3.87G"),
    }
)
"""Every network of the library by name. CondenseNet's published sizes are those after `convert`, and its published
multiply-adds include ReLU and pools.

NASNet-B (N = 4; 488M and 5.3M in Table 3 of Di et al.) and NASNet-C (N = 3; 558M and 4.9M) are not here. Zoph et al.
draw their cells in the appendix and give the channels before the dense layer; the authors' code (tensorflow/models,
slim) builds NASNet-A alone, and what the drawings leave open (the stem, what a cell reads after a reduction, which sums
are joined) would have to be chosen until the counts fit the numbers that they are to be held against."""


def table(networks: Mapping[str, Network] = NETWORKS) -> str:
    """The table that `python -m advjax.models` prints; each network is built and traced in shapes alone.

    >>> print(table({"lenet": NETWORKS["lenet"]}))
    network parameters published multiply-adds published input   paper
    lenet      431,080   431,080          2.3M           28x28x1 Caffe's MNIST example; Rozsa et al. 2016
    """
    rows = [("network", "parameters", "published", "multiply-adds", "published", "input", "paper")]
    for name, network in networks.items():
        model = abstract(network.make)
        parameters, macs = f"{count_parameters(model):,}", f"{count_macs(model, network.shape) / 1e6:,.1f}M"
        size = "x".join(map(str, network.shape))
        rows.append((name, parameters, network.published_parameters, macs, network.published_macs, size, network.paper))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, 5, 6)
    lines = [
        " ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
