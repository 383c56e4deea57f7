"""Weight files: PyTorch's and Caffe's own writers read back, key-by-key checks, and hostile files of every kind."""

import argparse
import collections
import datetime
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.models import LeNet, nasnet_a_large, se_resnet50, senet154
from advjax.models.checkpoint_names import names_of, torch_name, weight_paths
from advjax.models.counting import abstract
from advjax.models.densenet import densenet169
from advjax.models.inception import InceptionV3
from advjax.models.readers import read_caffemodel, read_safetensors, read_torch, write_safetensors
from advjax.models.resnet import resnet152
from advjax.models.vgg import Vgg16
from advjax.models.weights import WeightsError, load, load_weights, save
from tests.full_disk import full_disk
from tests.models import torch_files as files
from tests.models.caffe_files import caffemodel
from tests.models.torchvision_models import torchvision_models


class Small(nnx.Module):
    """One layer of each kind; `spelled` is what its checkpoints call them."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (5, 4), rngs=rngs)
        self.bn = nnx.BatchNorm(3, rngs=rngs)
        self.fc = nnx.Linear(12, 5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def checkpoint_names(self, kind):
        if kind == "torch":
            return [names_of(self, torch_name), names_of(self, lambda path: "old." + torch_name(path))]
        return []


def _state(seed=0, prefix=""):
    rng = np.random.default_rng(seed)
    shapes = {
        "conv.weight": (3, 2, 5, 4),
        "conv.bias": (3,),
        "bn.weight": (3,),
        "bn.bias": (3,),
        "bn.running_mean": (3,),
        "bn.running_var": (3,),
        "fc.weight": (5, 12),
        "fc.bias": (5,),
    }
    state = {prefix + key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    return state | {f"{prefix}bn.num_batches_tracked": np.array([7], np.int64)}


@pytest.fixture(scope="module")
def small():
    return nnx.eval_shape(lambda: Small(nnx.Rngs(0)))


def _assert_holds(model, state, prefix=""):
    np.testing.assert_array_equal(model.conv.kernel[...], state[f"{prefix}conv.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.fc.kernel[...], state[f"{prefix}fc.weight"].T)
    for ours, theirs in (
        (model.conv.bias, "conv.bias"),
        (model.bn.scale, "bn.weight"),
        (model.bn.bias, "bn.bias"),
        (model.bn.mean, "bn.running_mean"),
        (model.bn.var, "bn.running_var"),
        (model.fc.bias, "fc.bias"),
    ):
        np.testing.assert_array_equal(ours[...], state[prefix + theirs])


def _write(path, state, form):
    if form == "safetensors":
        write_safetensors(path, state)
    else:
        files.write_state(path, state, legacy=form == "legacy")


@pytest.mark.parametrize("prefix", ["", "old."])
@pytest.mark.parametrize(("form", "suffix"), [("safetensors", ".safetensors"), ("zip", ".pth"), ("legacy", ".pt")])
def test_weights_arrive_in_our_layout(small, tmp_path, form, suffix, prefix):
    path = tmp_path / f"weights{suffix}"
    _write(path, _state(prefix=prefix), form)
    model = load_weights(small, path)
    _assert_holds(model, _state(prefix=prefix), prefix)
    assert jax.dtypes.issubdtype(model.drop.rngs.key[...].dtype, jax.dtypes.prng_key)
    once, again = model.drop(jnp.ones(1000)), model.drop(jnp.ones(1000))
    assert once.mean() == pytest.approx(1, abs=0.2)
    assert not np.array_equal(once, again)


def test_the_model_given_stays_as_it_was(tmp_path):
    model = Small(nnx.Rngs(0))
    before = np.asarray(model.fc.kernel[...])
    write_safetensors(tmp_path / "weights.safetensors", _state())
    _assert_holds(load_weights(model, tmp_path / "weights.safetensors"), _state())
    np.testing.assert_array_equal(model.fc.kernel[...], before)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floating_types_become_float32(small, tmp_path, dtype):
    state = {key: value.astype(dtype) if value.dtype == np.float32 else value for key, value in _state().items()}
    files.write_state(tmp_path / "weights.pth", state)
    model = load_weights(small, tmp_path / "weights.pth")
    assert model.fc.kernel.dtype == jnp.float32
    np.testing.assert_array_equal(model.fc.bias[...], state["fc.bias"].astype(np.float32))


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(small, tmp_path, number):
    state = _state()
    state["fc.bias"] = np.array([1, 2, number, 4, 5])
    write_safetensors(tmp_path / "weights.safetensors", state)
    with pytest.raises(WeightsError, match=r"numbers that are not finite in float32: fc\.bias$"):
        load_weights(small, tmp_path / "weights.safetensors")


def test_missing_left_over_and_misshapen_tensors_are_listed(small, tmp_path):
    state = _state()
    del state["bn.running_var"]
    state["extra.weight"] = np.ones(2, np.float32)
    state["fc.weight"] = state["fc.weight"].T.copy()
    state["fc.bias"] = np.arange(5)
    state["conv.weight"] = state["conv.weight"].transpose(2, 3, 1, 0).copy()
    write_safetensors(tmp_path / "weights.safetensors", state)
    with pytest.raises(WeightsError) as caught:
        load_weights(small, tmp_path / "weights.safetensors")
    message = str(caught.value)
    assert "1 weights of the network are missing: bn.running_var\n" in message
    assert "1 tensors of the file are left over: extra.weight\n" in message
    assert "fc.weight (12, 5) float32 for fc/kernel (12, 5)" in message
    assert "conv.weight (5, 4, 2, 3) float32 for conv/kernel (5, 4, 2, 3)" in message
    assert "fc.bias (5,) int64 for fc/bias (5,)" in message
    assert "num_batches_tracked" not in message


def test_a_missing_file_a_strange_suffix_and_a_strange_model(small, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(small, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"path must end in one of \.safetensors, .*, got weights\.npy"):
        load_weights(small, tmp_path / "weights.npy")
    with pytest.raises(
        WeightsError, match=r"Small with these options reads no \.caffemodel files, only \.safetensors, \.npz or"
    ):
        load_weights(small, tmp_path / "weights.caffemodel")
    with pytest.raises(TypeError, match="model must be a network that checkpoints are published for, got Linear"):
        load_weights(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), tmp_path / "weights.pth")


def test_own_files_come_back_bit_by_bit(tmp_path):
    model, other = Small(nnx.Rngs(0)), Small(nnx.Rngs(1))
    save(model, tmp_path / "own.safetensors")
    back = load(other, tmp_path / "own.safetensors")
    for ours, theirs in zip(
        jax.tree.leaves(nnx.state(model, nnx.Param)), jax.tree.leaves(nnx.state(back, nnx.Param)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(other.fc.kernel[...], back.fc.kernel[...])
    assert set(read_safetensors(tmp_path / "own.safetensors")) >= {"conv/kernel", "bn/var"}
    save(nnx.Linear(12, 5, rngs=nnx.Rngs(0)), tmp_path / "linear.safetensors")
    with pytest.raises(WeightsError, match=r"3 weights of the network are missing: mean, scale, var"):
        load(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), tmp_path / "linear.safetensors")
    with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
        save(model, tmp_path / "own.npz")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path, model = tmp_path / "own.safetensors", nnx.Linear(100, 30, rngs=nnx.Rngs(0))
    save(model, path)
    before = path.read_bytes()
    with full_disk(4096), pytest.raises(OSError, match="File too large"):
        save(nnx.Linear(100, 30, rngs=nnx.Rngs(1)), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["own.safetensors"]
    np.testing.assert_array_equal(load(model, path).kernel[...], model.kernel[...])


# Training checkpoints


def _wrapped(prefix, seed=0):
    return {prefix + key: array for key, array in _state(seed).items()}


@pytest.mark.parametrize(
    ("entry", "prefix", "suffix", "legacy"),
    [
        ("state_dict", "module.", ".pth.tar", False),
        ("state_dict", "module.", ".pth.tar", True),
        ("model_state_dict", "", ".pt", False),
        ("model", "_orig_mod.", ".pth", False),
        ("net", "module._orig_mod.", ".th", True),
        ("state_dict", "model.", ".ckpt", False),
        ("state_dict", "module.net.backbone.", ".ckpt", False),
        ("state_dict_ema", "old.", ".pth", False),
        ("generator.model", "", ".pth", False),
    ],
)
def test_training_checkpoints_are_read(small, tmp_path, entry, prefix, suffix, legacy):
    path = tmp_path / f"weights{suffix}"
    files.checkpoint(path, {entry: _wrapped(prefix)}, legacy=legacy)
    _assert_holds(load_weights(small, path), _state())
    files.checkpoint(path, {entry: _wrapped(prefix)}, legacy=legacy, beside=False)
    _assert_holds(load_weights(small, path, entry=entry), _state())


def test_wrappers_inside_names_and_an_averaged_network(small, tmp_path):
    state = {key.replace("fc.", "fc.module.").replace("bn.", "bn._orig_mod."): value for key, value in _state().items()}
    files.write_state(tmp_path / "parallel_part.pth", state)
    _assert_holds(load_weights(small, tmp_path / "parallel_part.pth"), _state())
    files.write_state(tmp_path / "averaged.pth", {"n_averaged": np.array([3]), **_wrapped("module.")})
    _assert_holds(load_weights(small, tmp_path / "averaged.pth"), _state())
    both = _state() | {"module.fc.bias": np.ones(5, np.float32)}
    files.write_state(tmp_path / "both.pth", both)
    with pytest.raises(WeightsError, match=r"holds fc\.bias and module\.fc\.bias, which both are fc\.bias: drop one"):
        load_weights(small, tmp_path / "both.pth")
    _assert_holds(load_weights(small, tmp_path / "both.pth", drop="module.*"), _state())


def test_of_several_state_dicts_one_must_be_chosen(small, tmp_path):
    path = tmp_path / "weights.pth"
    files.checkpoint(path, {"state_dict": _state(0), "state_dict_ema": _state(1)})
    listed = r"'state_dict' \(9 tensors\), 'state_dict_ema' \(9 tensors\)"
    with pytest.raises(WeightsError, match=f"several state_dicts, choose by entry=: {listed}"):
        load_weights(small, path)
    _assert_holds(load_weights(small, path, entry="state_dict"), _state(0))
    _assert_holds(load_weights(small, path, entry="state_dict_ema"), _state(1))
    with pytest.raises(WeightsError, match=f"has no state_dict 'ema'; it holds {listed}"):
        load_weights(small, path, entry="ema")
    write_safetensors(tmp_path / "weights.safetensors", _state())
    with pytest.raises(WeightsError, match=r"entry must be None for \.safetensors files, .*, got 'model'"):
        load_weights(small, tmp_path / "weights.safetensors", entry="model")


def test_a_whole_module_is_said_to_be_one(small, tmp_path):
    module = files.name("torchvision.models.resnet", "ResNet") + b")\x81}b"
    files.write_zip(tmp_path / "weights.pth", files.pickled(files.mapping([("model", module)])), {})
    with pytest.raises(
        WeightsError, match=r"asks for torchvision\.models\.resnet\.ResNet, .* whole module .*state_dict\(\)"
    ):
        load_weights(small, tmp_path / "weights.pth")


def test_tensors_are_dropped_by_name(small, tmp_path):
    head = {"module.head.weight": np.ones((2, 2), np.float32), "module.head.bias": np.ones(2, np.float32)}
    files.write_state(tmp_path / "weights.pth", _wrapped("module.") | head)
    with pytest.raises(
        WeightsError, match=r"2 tensors of the file are left over: module\.head\.bias, module\.head\.weight$"
    ):
        load_weights(small, tmp_path / "weights.pth")
    for drop in ("module.head.*", ["module.head.bias", "*head.w*"]):
        _assert_holds(load_weights(small, tmp_path / "weights.pth", drop=drop), _state())
    with pytest.raises(
        WeightsError, match=r"drop must name tensors of .*, which has none called haed\.\* but module\.bn"
    ):
        load_weights(small, tmp_path / "weights.pth", drop=["haed.*"])
    with pytest.raises(WeightsError, match=r"1 weights of the network are missing: fc\.bias"):
        load_weights(small, tmp_path / "weights.pth", drop=["*head*", "module.fc.bias"])


# Tensors of all kinds


def test_expanded_and_empty_tensors_are_read(small, tmp_path):
    array = np.float32([1, 2, 3, 4])
    items = [
        ("rows", files.tensor("0", array, shape=(3, 2), strides=(0, 1), offset=1)),
        ("windows", files.tensor("0", array, shape=(3, 2), strides=(1, 1))),
        ("million", files.tensor("0", array, shape=(1000, 1000), strides=(0, 0), offset=3)),
        ("empty", files.tensor("0", array, shape=(0, 3), strides=(3, 1))),
    ]
    files.write_zip(tmp_path / "a.pth", files.pickled(files.mapping(items)), {"0": array})
    read = read_torch(tmp_path / "a.pth")
    np.testing.assert_array_equal(read["rows"], [[2, 3]] * 3)
    np.testing.assert_array_equal(read["windows"], [[1, 2], [2, 3], [3, 4]])
    million = read["million"]
    assert (million.shape, million.strides, million.max()) == ((1000, 1000), (0, 0), 4)
    assert (read["empty"].shape, read["empty"].dtype) == ((0, 3), np.float32)
    state = _state()
    state["bn.weight"] = np.float32([3])
    items = [(key, files.tensor(key, value)) for key, value in state.items() if key != "bn.weight"]
    items.append(("bn.weight", files.tensor("bn.weight", state["bn.weight"], shape=(3,), strides=(0,))))
    files.write_zip(tmp_path / "b.pth", files.pickled(files.mapping(items)), state)
    np.testing.assert_array_equal(load_weights(small, tmp_path / "b.pth").bn.scale[...], [3, 3, 3])


def test_all_types_and_empty_tensors_of_safetensors_are_read(small, tmp_path):
    eighths = np.arange(-4, 4).reshape(2, 4) / 8
    types = [jnp.float8_e4m3fn, jnp.float8_e5m2, np.uint16, np.uint64, np.float16, jnp.bfloat16, np.int8, bool]
    tensors = {np.dtype(kind).name: eighths.astype(kind) for kind in types}
    tensors |= {"empty": np.empty((0, 3), np.float32), "none": np.empty((2, 0), jnp.float8_e5m2)}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    read = read_safetensors(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert read[name].tobytes() == tensor.tobytes()
    state = _state()
    state["conv.bias"] = np.float32([0.5, -0.75, 6]).astype(jnp.float8_e4m3fn)
    write_safetensors(tmp_path / "b.safetensors", state)
    np.testing.assert_array_equal(load_weights(small, tmp_path / "b.safetensors").conv.bias[...], [0.5, -0.75, 6])
    state["fc.weight"] = np.empty((0, 12), np.float32)
    write_safetensors(tmp_path / "b.safetensors", state)
    with pytest.raises(WeightsError, match=r"another shape or type: fc\.weight \(0, 12\) float32 for fc/kernel"):
        load_weights(small, tmp_path / "b.safetensors")


# The originals as writers


@pytest.mark.peers
@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_are_read(small, tmp_path, legacy):
    torch = pytest.importorskip("torch")
    state = {key: torch.tensor(value) for key, value in _state().items()}
    state["bn.weight"] = torch.nn.Parameter(state["bn.weight"])
    state["conv.weight"] = state["conv.weight"].contiguous(memory_format=torch.channels_last)
    shared = torch.cat([state["fc.bias"], state["conv.bias"]])
    state["fc.bias"], state["conv.bias"] = shared[:5], shared[5:]
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    _assert_holds(load_weights(small, tmp_path / "weights.pth"), _state())


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile, about itself
@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoints_of_torch_are_read(small, tmp_path, legacy):
    torch = pytest.importorskip("torch")
    modules = {"conv": torch.nn.Conv2d(2, 3, (5, 4)), "bn": torch.nn.BatchNorm2d(3), "fc": torch.nn.Linear(12, 5)}
    network = torch.nn.Sequential(collections.OrderedDict(modules))
    network.load_state_dict({key: torch.tensor(value) for key, value in _state().items()})
    optimizers = [torch.optim.AdamW(network.parameters()), torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    beside = {
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), dtype=torch.float32, folder=tmp_path),
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizers[1], 0.1, total_steps=9).state_dict(),
        "random": (torch.get_rng_state(), np.random.default_rng(0).bit_generator.state, random.getstate()),
        "best": [torch.tensor(76.1), np.float64(76.1), np.arange(3), 2**80, torch.Size([1, 2])],
        "others": {"when": datetime.datetime.now(), "bytes": b"\xff", "set": {1}, "by": collections.defaultdict(list)},
    }
    cases = {
        "parallel": {"state_dict": torch.nn.DataParallel(network).state_dict()},
        "compiled": {"model": torch.compile(network).state_dict()},
        "averaged": averaged.state_dict(),
    }
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.param_groups[0]["weight_decay"] = 0.0
        optimizer.step()
    for name, content in cases.items():
        if name != "averaged":
            content |= beside | {f"optimizer{i}": each.state_dict() for i, each in enumerate(optimizers)}
        torch.save(content, tmp_path / f"{name}.pth.tar", _use_new_zipfile_serialization=not legacy)
        _assert_holds(load_weights(small, tmp_path / f"{name}.pth.tar"), _state())
    expanded = network.state_dict() | {"bn.weight": torch.tensor([3.0]).expand(3)}
    torch.save(expanded, tmp_path / "expanded.pth", _use_new_zipfile_serialization=not legacy)
    np.testing.assert_array_equal(load_weights(small, tmp_path / "expanded.pth").bn.scale[...], [3, 3, 3])


@pytest.mark.peers
def test_a_module_and_bfloat16_of_torch_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).to(torch.bfloat16)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    tensors = read_torch(tmp_path / "weights.pth")
    assert list(tensors) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(tensors[name].astype(np.float32), tensor.float().numpy())


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("resnet152", resnet152),
        ("densenet169", densenet169),
        ("vgg16", Vgg16),
        ("inception_v3", lambda rngs: InceptionV3(aux=False, rngs=rngs)),
        ("legacy_senet154", senet154),
        ("legacy_seresnet50", se_resnet50),
        ("nasnetalarge", nasnet_a_large),
    ],
)
def test_names_and_sizes_are_those_of_timm(name, make):
    torchvision_models()
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    theirs = {key: tensor.numel() for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    model = abstract(make)
    sizes = dict(
        zip(
            weight_paths(model),
            (leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Not(nnx.RngState)))),
            strict=True,
        )
    )
    spellings = [
        {source.key: sizes[path] for path, source in names.items()} for names in model.checkpoint_names("torch")
    ]
    assert theirs in spellings


@pytest.mark.peers
def test_safetensors_agree_with_the_package_of_that_name(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    tensors = _state() | {"half": np.float16([[1, 2]]), "flags": np.array([True, False])}
    write_safetensors(tmp_path / "ours.safetensors", tensors)
    package.save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    for read in (read_safetensors(tmp_path / "theirs.safetensors"), package.load_file(tmp_path / "ours.safetensors")):
        assert set(read) == set(tensors)
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize("options", [{}, {"legacy": True}, {"double": True}, {"diff": True}])
def test_caffemodels_of_protobuf_are_read(tmp_path, rng, options):
    layers = {
        "conv1": [rng.normal(size=(4, 3, 2, 2)).astype(np.float32), rng.normal(size=4).astype(np.float32)],
        "ip/1": [rng.normal(size=(5, 16)).astype(np.float32)],
    }
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(layers, **options))
    read = read_caffemodel(tmp_path / "net.caffemodel")
    assert set(read) == {"conv1[0]", "conv1[1]", "ip/1[0]"}
    np.testing.assert_array_equal(read["conv1[0]"], layers["conv1"][0])
    np.testing.assert_array_equal(read["conv1[1]"], layers["conv1"][1])
    np.testing.assert_array_equal(read["ip/1[0]"], layers["ip/1"][0])


@pytest.mark.parametrize("file", ["lenet.caffemodel", "lenet.npz"])
def test_lenet_from_caffes_layers_equals_numpy(tmp_path, rng, file):
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}
    layers = {
        name: [rng.normal(0, 0.05, shape).astype(np.float32), rng.normal(0, 0.05, shape[0]).astype(np.float32)]
        for name, shape in shapes.items()
    }
    (tmp_path / "lenet.caffemodel").write_bytes(caffemodel(layers))
    blobs = {
        f"{name}.{end}": own for name, both in layers.items() for end, own in zip(("weight", "bias"), both, strict=True)
    }
    np.savez(tmp_path / "lenet.npz", **blobs)
    model = load_weights(LeNet(rngs=nnx.Rngs(0)), tmp_path / file)
    images = rng.uniform(0, 1, (2, 28, 28, 1)).astype(np.float32)

    x = np.float64(images).transpose(0, 3, 1, 2) * 255 / 256
    for name in ("conv1", "conv2"):
        kernel, bias = layers[name]
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (2, 3))
        x = np.einsum("bihwuv,oiuv->bohw", windows, kernel) + bias[:, None, None]
        x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max((3, 5))
    x = np.maximum(x.reshape(2, -1) @ layers["ip1"][0].T + layers["ip1"][1], 0)
    expected = x @ layers["ip2"][0].T + layers["ip2"][1]
    np.testing.assert_allclose(model(jnp.asarray(images)), expected, rtol=1e-4, atol=1e-5)
