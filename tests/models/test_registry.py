"""Sizes of all networks against published and independently computed numbers; counting; the printed table."""

import collections
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import Literal

from advjax.models import NETWORKS, LeNet, WideResNet, abstract, count_macs, count_parameters
from advjax.models.checkpoint_names import weight_paths
from advjax.models.registry import table

# Parameters and multiply-adds (millions) computed layer by layer from the originals' definitions, apart from this code.
_SIZES = {
    "lenet": (431_080, 2.293),
    "lenet-relu": (431_080, 2.293),
    "shaham": (105_506, 1.9604),
    "madry": (3_274_634, 13.9),
    "capsnet": (8_215_568, 202),
    "capsnet-no-decoder": (6_804_224, 202),
    "vgg-cifar": (14_991_946, 313.5),
    "wrn-28-10": (36_479_194, 5_243),
    "wrn-28-10-cifar100": (36_536_884, 5_243),
    "wrn-16-8": (10_961_370, 1_548),
    "stochastic-resnet110": (1_732_010, 253),
    "stochastic-resnet152": (2_414_090, 352),
    "resnet50-cifar": (23_520_842, 1_298),
    "resnet101-cifar": (42_512_970, 2_510),
    "densenet169-cifar": (12_493_322, 1_060),
    "vgg16": (138_357_544, 15_470),
    "vgg16-caffe": (138_357_544, 15_470),
    "googlenet": (13_378_280, 1_582.7),
    "googlenet-no-heads": (6_998_552, 1_582.7),
    "resnet50": (25_557_032, 4_089),
    "resnet50-caffe": (25_557_032, 3_858),
    "resnet101": (44_549_160, 7_801),
    "resnet101-caffe": (44_549_160, 7_570),
    "resnet152": (60_192_808, 11_514),
    "resnet152-caffe": (60_192_808, 11_282),
    "densenet169": (14_149_480, 3_360),
    "densenet169-caffe": (14_149_480, 3_360),
    "inception-v3": (27_161_264, 5_713),
    "inception-v3-no-head": (23_834_568, 5_713),
    "inception-v3-cifar100": (21_990_468, 3_096),
    "condensenet-4": (4_773_944, 516.6),
    "condensenet-8": (2_935_416, 261.5),
    "condensenet-4-training": (11_922_680, 1_268),
    "condensenet-8-training": (11_103_608, 1_138),
    "nasnet-a-large": (88_753_150, 23_783),
    "nasnet-a-mobile": (5_289_978, 563.6),
    "mobilenet": (4_231_976, 568.7),
    "mobilenet-tflite": (4_222_057, 568.7),
    "mobilenet-0.25-128": (470_072, 13.57),
    "mobilenet-0.25-128-tflite": (467_593, 13.57),
    "mobilenet-v2": (3_504_872, 300.8),
    "mobilenet-v2-tflite": (3_489_097, 300.8),
    "shufflenet-2x": (5_450_776, 524.0),
    "squeezenet": (1_248_424, 818.9),
    "squeezenet-caffe": (1_248_424, 861.3),
    "senet154": (115_088_984, 42_212),
    "senet154-caffe": (115_088_984, 42_212),
    "se-resnet50": (28_088_024, 3_860),
    "se-resnet50-caffe": (28_088_024, 3_860),
}
# The families that checkpoints are published for.
_PUBLISHED = ("vgg16", "googlenet", "resnet", "densenet", "inception", "nasnet", "senet", "se-resnet", "squeezenet")
_OTHERS_PUBLISHED = ("lenet", "mobilenet-tflite", "mobilenet-0.25-128-tflite", "mobilenet-v2", "mobilenet-v2-tflite")
# SqueezeNet ends in a convolution, CapsNet in the capsules' lengths; all others in a dense layer, of which CondensedNet
# picks the inputs (in a function of its own, "jit") and TensorFlow's MobileNets drop the background's logit.
_NO_DENSE_END = ("squeezenet", "capsnet")
_DENSE = {"dot_general", "reshape", "broadcast_in_dim", "add", "jit", "slice"}
_SCALE = {"G": 1e9, "M": 1e6}
# Of the size of their twins: they differ in what they read.
_TWINS = (
    "vgg16-caffe",
    "resnet101-caffe",
    "densenet169-caffe",
    "senet154-caffe",
    "se-resnet50-caffe",
    "mobilenet-0.25-128-tflite",
)
# Others are made of the same code.
_ONE_OF_EACH = (
    "lenet",
    "lenet-relu",
    "shaham",
    "madry",
    "capsnet",
    "vgg-cifar",
    "wrn-16-8",
    "stochastic-resnet110",
    "vgg16",
    "googlenet",
    "resnet50",
    "densenet169",
    "inception-v3",
    "condensenet-4",
    "condensenet-4-training",
    "nasnet-a-mobile",
    "mobilenet-tflite",
    "mobilenet-v2",
    "shufflenet-2x",
    "squeezenet",
    "se-resnet50",
)


@functools.cache
def _abstract(name):
    model = abstract(NETWORKS[name].make)
    model.eval()
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in _TWINS else name for name in NETWORKS]
)
def test_sizes(name):
    network, model = NETWORKS[name], _abstract(name)
    parameters, macs = _SIZES[name]
    assert count_parameters(model) == parameters
    counted = count_macs(model, network.shape)
    assert counted == pytest.approx(macs * 1e6, abs=0.5e6 if isinstance(macs, int) else 0.05e6)
    published = network.published_macs
    if published and not name.startswith("condensenet"):  # theirs include ReLU and pools; see test_condensenet
        assert counted == pytest.approx(float(published[:-1]) * _SCALE[published[-1]], rel=0.01)
    digits = network.published_parameters.replace(",", "")
    if digits.isdigit():
        assert parameters == int(digits)
    elif digits and name != "senet154":
        assert parameters == pytest.approx(float(digits[:-1]) * 1e6, rel=0.02)


@pytest.mark.parametrize(
    "name", [name if name in _ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_taps_begin_with_the_input_and_end_with_the_logits(name):
    network, model = NETWORKS[name], _abstract(name)
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, *network.shape), jnp.float32)
    hidden, shapes = model.hidden_taps, {}

    def logits(state, images, factors):
        given = []

        def tap(name, x):
            assert name not in shapes
            shapes[name] = x.shape
            given.append(x * factors[name] if name in factors else x)
            return given[-1]

        return nnx.merge(graphdef, state, copy=True)(images, tap), given[-2]

    factors = dict.fromkeys(hidden, jax.ShapeDtypeStruct((), jnp.float32))
    jaxpr = jax.make_jaxpr(logits)(state, images, factors).jaxpr
    read = list(shapes)
    assert read[0] == "input"
    assert read[-1] == "penultimate"
    assert shapes["input"] == images.shape
    assert len(shapes["penultimate"]) == 2
    assert len(read) >= 4
    # Hidden space is neither end, and what comes back from its taps is what the network goes on with.
    assert hidden == tuple(tap for tap in read if tap in hidden)
    assert not {"input", "pool", "penultimate"} & set(hidden)
    assert len(hidden) >= 2
    output, before = jaxpr.outvars
    used, _ = _used(jaxpr, output)
    assert all(used[-len(hidden) :])
    # The tap before the logits is what the last dense layer reads: between them is that layer alone.
    if not name.startswith(_NO_DENSE_END):
        used, primitives = _used(jaxpr, output, before)
        assert not any(used[-1 - len(hidden) :])
        assert primitives["dot_general"] == 1
        assert set(primitives) <= _DENSE
        assert len(shapes[read[-2]]) == 2


def _used(jaxpr, output, before=None):
    """Whether `output` of a program depends on each of its inputs, and by which primitives.

    As far as whole equations tell, and other than by way of `before`.
    """
    needed, primitives = {output}, collections.Counter()
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars) and before not in equation.outvars:
            primitives[equation.primitive.name] += 1
            needed |= {each for each in equation.invars if not isinstance(each, Literal)}
    return [each in needed for each in jaxpr.invars], primitives


@pytest.mark.parametrize("name", [*_OTHERS_PUBLISHED, *(name for name in NETWORKS if name.startswith(_PUBLISHED))])
def test_every_weight_has_a_tensor_of_its_own_in_checkpoints(name):
    model = _abstract(name)
    spellings = [names for kind in ("torch", "caffe") for names in model.checkpoint_names(kind)]
    assert bool(spellings)
    wrappers = {"module", "_orig_mod"}  # `load_weights` takes these out of names
    for names in spellings:
        assert set(names) == set(weight_paths(model))
        assert len({source.key for source in names.values()}) == len(names)
        assert not any(wrappers & set(key.split(".")) for source in names.values() for key in source.keys)


def test_options_change_the_size_as_published():
    from advjax.models import StochasticDepthResNet, senet154

    for depth, parameters in ((110, 1_727_962), (152, 2_408_474)):
        model = abstract(lambda rngs, depth=depth: StochasticDepthResNet(depth, conv_bias=False, rngs=rngs))
        assert count_parameters(model) == parameters
    assert count_macs(abstract(senet154), (224, 224, 3)) == pytest.approx(20_688e6, rel=0.01)


def test_abstract_construction_has_the_shapes_of_the_real_one():
    make = lambda rngs: WideResNet(10, 1, dropout=0.3, rngs=rngs)  # noqa: E731
    real = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(model)) for model in (abstract(make), real)]
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, *shapes))
    assert nnx.split(abstract(make))[0] == nnx.split(real)[0]


class _Loop(nnx.Module):
    def __init__(self, kind):
        self.kind, self.kernel = kind, nnx.Param(jnp.ones((3, 3)))

    def __call__(self, images):
        x, kernel = images.reshape(1, 3), self.kernel[...]
        if self.kind == "scan":
            return jax.lax.scan(lambda x, _: (x @ kernel, None), x, length=5)[0]
        if self.kind == "cond":
            return jax.lax.cond(x[0, 0] > 0, lambda x: x @ kernel @ kernel, lambda x: x @ kernel, x)
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ kernel, x)


def test_multiply_adds_of_loops_and_branches():
    assert count_macs(_Loop("scan"), (1, 1, 3)) == 45
    assert count_macs(_Loop("cond"), (1, 1, 3)) == 18
    with pytest.raises(ValueError, match="loop of unknown length"):
        count_macs(_Loop("while"), (1, 1, 3))


def test_multiply_adds_of_groups_and_strides():
    conv = nnx.eval_shape(lambda: nnx.Conv(8, 12, (3, 3), 2, feature_group_count=4, rngs=nnx.Rngs(0)))
    assert count_macs(conv, (10, 10, 8)) == 5 * 5 * 12 * 9 * 2


def test_table_shows_counted_beside_published():
    lines = table({"lenet": NETWORKS["lenet"], "wrn-16-8": NETWORKS["wrn-16-8"]}).splitlines()
    assert lines[0].split() == ["network", "parameters", "published", "multiply-adds", "published", "input", "paper"]
    assert lines[1].split()[:5] == ["lenet", "431,080", "431,080", "2.3M", "28x28x1"]
    assert lines[2].split()[:5] == ["wrn-16-8", "10,961,370", "11.0M", "1,548.1M", "32x32x3"]


@pytest.mark.slow
def test_command_prints_every_network():
    text = subprocess.run([sys.executable, "-m", "advjax.models"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(NETWORKS)
    assert "431,080" in text


def test_lenet_is_counted_by_hand():
    macs = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 500 + 800 * 500 + 500 * 10
    assert count_macs(abstract(LeNet), (28, 28, 1)) == macs
