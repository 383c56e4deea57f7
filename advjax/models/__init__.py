"""Networks of the papers, each family in a file of its own, and the files that their weights come from."""

from advjax.models.capsnet import CapsNet, capsule_loss, margin_loss
from advjax.models.condensenet import (
    CondensedNet,
    CondenseNet,
    condensation_steps,
    condense,
    condense_loss,
    convert,
    group_lasso,
)
from advjax.models.counting import abstract, count_macs, count_parameters
from advjax.models.densenet import DenseNet, densenet169
from advjax.models.googlenet import GoogLeNet, quick_solver
from advjax.models.inception import InceptionV3
from advjax.models.lenet import LeNet, LeNetRelu, caffe_solver
from advjax.models.madry import MadryNet
from advjax.models.mobilenet import MobileNetV1, MobileNetV2
from advjax.models.nasnet import NASNetA, nasnet_a_large, nasnet_a_mobile
from advjax.models.random_sign import HiddenRandomSign, RandomSignLayer, hidden_random_sign
from advjax.models.registry import NETWORKS, Network
from advjax.models.resnet import ResNet, resnet50, resnet101, resnet152
from advjax.models.senet import SENet, se_resnet50, senet154
from advjax.models.shaham import ShahamNet
from advjax.models.shufflenet import ShuffleNet
from advjax.models.squeezenet import SqueezeNet
from advjax.models.stochastic_depth import StochasticDepthResNet, stochastic_resnet110, stochastic_resnet152
from advjax.models.taps import Tap, Tapped, features, untapped
from advjax.models.vgg import Vgg16
from advjax.models.vgg_cifar import VggCifar
from advjax.models.weights import WeightsError, load, load_weights, save
from advjax.models.wide_resnet import WideResNet, wrn_16_8, wrn_28_10

__all__ = [
    "CapsNet",
    "CondenseNet",
    "CondensedNet",
    "DenseNet",
    "GoogLeNet",
    "InceptionV3",
    "LeNet",
    "LeNetRelu",
    "MadryNet",
    "MobileNetV1",
    "MobileNetV2",
    "NASNetA",
    "ResNet",
    "SENet",
    "ShahamNet",
    "ShuffleNet",
    "SqueezeNet",
    "StochasticDepthResNet",
    "Vgg16",
    "VggCifar",
    "WideResNet",
    "densenet169",
    "nasnet_a_large",
    "nasnet_a_mobile",
    "resnet50",
    "resnet101",
    "resnet152",
    "se_resnet50",
    "senet154",
    "stochastic_resnet110",
    "stochastic_resnet152",
    "wrn_16_8",
    "wrn_28_10",
    "HiddenRandomSign",
    "RandomSignLayer",
    "hidden_random_sign",
    "Tap",
    "Tapped",
    "features",
    "untapped",
    "NETWORKS",
    "Network",
    "abstract",
    "count_macs",
    "count_parameters",
    "WeightsError",
    "load",
    "load_weights",
    "save",
    "caffe_solver",
    "capsule_loss",
    "margin_loss",
    "quick_solver",
    "condensation_steps",
    "condense",
    "condense_loss",
    "convert",
    "group_lasso",
]
