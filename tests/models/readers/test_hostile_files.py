"""Hostile, damaged and truncated weight files of every format: refused with a clear error, no code of theirs run."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from advjax.models.readers import (
    WeightsError,
    read_caffemodel,
    read_npz,
    read_safetensors,
    read_torch,
    write_safetensors,
)
from advjax.models.readers.pickled import read_pickle
from advjax.models.resnet import ResNet
from advjax.models.weights import load_weights
from tests.models import torch_files as files
from tests.models.caffe_files import caffemodel


@pytest.fixture(scope="module")
def small():
    return nnx.eval_shape(lambda: ResNet((1, 1, 1, 1), 10, width=1, rngs=nnx.Rngs(0)))


class _Command:
    """Pickled by reference to a function that the reader must not call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _hostile_pickles(canary):
    touch = f"touch {canary}"
    opened = f"open({str(canary)!r}, 'w')"
    for protocol in range(6):
        yield pickle.dumps({"fc.weight": _Command(os.system, touch)}, protocol)
        yield pickle.dumps(_Command(eval, opened), protocol)
    yield b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR."
    yield b"\x80\x02cos\nsystem\nX" + len(touch).to_bytes(4, "little") + touch.encode() + b"\x85R."
    yield b"\x80\x02(X" + len(touch).to_bytes(4, "little") + touch.encode() + b"ios\nsystem\n."
    # The names that are allowed, used to reach others.
    allowed = files.name("torch._utils", "_rebuild_tensor_v2")
    attributes = b"}" + files.text("__code__") + files.text("x") + b"s"
    yield files.pickled(allowed + attributes + b"b")
    yield files.pickled(allowed + b"N" + attributes + b"\x86b")
    yield files.pickled(files.name("collections", "OrderedDict.__init__.__globals__") + b")R")
    yield files.pickled(files.name("collections", "OrderedDict") + allowed + b"\x85R")
    yield files.pickled(allowed + b")R")
    yield files.pickled(files.text("storage") + files.name("builtins", "eval") + b"\x86Q")


@pytest.mark.parametrize("wrapped", ["zip", "legacy", "bare"])
def test_no_code_of_a_pickle_runs(small, tmp_path, wrapped):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    for hostile in _hostile_pickles(canary):
        if wrapped == "zip":
            files.write_zip(path, hostile, {})
        elif wrapped == "legacy":
            path.write_bytes(files.legacy_bytes(b"", {}).replace(files.pickled(b""), hostile, 1))
        else:
            path.write_bytes(hostile)
        with pytest.raises(WeightsError):
            load_weights(small, path)
        assert not canary.exists()


def test_no_code_beside_the_weights_runs(small, tmp_path):
    canary, path, weights = tmp_path / "canary", tmp_path / "weights.pth", files.arrays()
    tensors = files.mapping([(key, files.tensor(key, array)) for key, array in weights.items()])
    for hostile in _hostile_pickles(canary):
        if not hostile.startswith(b"\x80\x02"):
            continue
        files.write_zip(path, files.pickled(files.mapping([("model", tensors), ("args", hostile[2:-1])])), weights)
        with pytest.raises(WeightsError, match=r"refused|damaged"):
            load_weights(small, path)
        assert not canary.exists()


def test_names_that_are_known_are_not_called(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    called = [
        files.name("pathlib", "PosixPath") + files.text(str(canary)) + b"\x85R",
        files.name("__builtin__", "set") + files.text("ab") + b"\x85R",
        files.name("_codecs", "encode") + files.text("a") + files.text("latin1") + b"\x86R",
        files.name("argparse", "Namespace") + b")\x81}" + files.text("__class__") + files.text("x") + b"sb",
        files.name("collections", "defaultdict")
        + files.name("__builtin__", "list")
        + b"\x85R"
        + files.text("k")
        + b"Ns",
        files.name("collections", "deque") + b")R(" + files.integer(1) + files.integer(2) + b"e",
    ]
    for value in called:
        files.write_zip(path, files.pickled(files.mapping([("x", value)])), {})
        with pytest.raises(WeightsError, match=r"it holds 'x' \(an? [a-z_]+\.[a-zA-Z]+\)"):
            read_torch(path)


def test_the_canary_would_have_been_touched(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(next(_hostile_pickles(canary)))
    assert canary.exists()


def test_what_is_refused_is_named(tmp_path):
    files.write_zip(tmp_path / "a.pth", pickle.dumps(_Command(os.system, "true"), 2), {})
    with pytest.raises(WeightsError, match=r"a\.pth: refused: the pickle asks for (posix|nt)\.system"):
        read_torch(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="refused: pickle protocol 4"):
        read_pickle(pickle.dumps({}, 4))
    content = {"epoch": 3, "scores": [0.5], "optimizer": {"state": {}}, 7: None}
    files.write_zip(tmp_path / "b.pth", pickle.dumps(content, 2), {})
    with pytest.raises(
        WeightsError,
        match=r"a state_dict of tensors, but it holds 'epoch' \(an int\), 'scores' \(a list\), 'optimizer' \(a dict\)$",
    ):
        read_torch(tmp_path / "b.pth")
    files.write_zip(tmp_path / "d.pth", pickle.dumps([1], 2), {})
    with pytest.raises(WeightsError, match=r"must hold a state_dict, got a list$"):
        read_torch(tmp_path / "d.pth")
    (tmp_path / "c.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match=r"is no file of torch\.save: it starts with b'<htm'"):
        read_torch(tmp_path / "c.pth")


_ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": (2, -3)},
        {"shape": (2, 4)},
        {"shape": (2**31 - 1, 2**31 - 1)},
        {"strides": (-3, 1)},
        {"strides": (3, 2)},
        {"strides": (1,)},
        {"strides": (0, 0), "shape": (2**31 - 1, 2**31 - 1)},
        {"strides": (0, 0, 0), "shape": (0, 2**31 - 1, 2**31 - 1)},
        {"strides": (0, 7), "shape": (3, 2)},
        {"offset": 1},
        {"offset": -1},
        {"size": 7},
        {"size": -6},
        {"storage": "DoubleStorage"},
        {"shape": (1,) * 40, "strides": (1,) * 40},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_beyond_their_storage_are_refused(tmp_path, lie, legacy):
    state = files.mapping([("x", files.tensor("0", _ARRAY, legacy=legacy, **lie))])
    path = tmp_path / "weights.pth"
    if legacy:
        path.write_bytes(files.legacy_bytes(state, {"0": _ARRAY}))
    else:
        files.write_zip(path, files.pickled(state), {"0": _ARRAY})
    with pytest.raises(WeightsError):
        read_torch(path)


def test_a_view_of_a_shared_storage_is_read(tmp_path):
    items = [("x", files.tensor("0", _ARRAY)), ("y", files.tensor("0", _ARRAY, shape=(3,), strides=(1,), offset=2))]
    files.write_zip(tmp_path / "weights.pth", files.pickled(files.mapping(items)), {"0": _ARRAY})
    np.testing.assert_array_equal(read_torch(tmp_path / "weights.pth")["y"], [2, 3, 4])


def test_zip_bombs_and_strange_archives_are_refused(tmp_path):
    path, zeros = tmp_path / "weights.pth", np.zeros(10**6, np.float32)
    pickled = files.pickled(files.mapping([("x", files.tensor("0", zeros))]))
    files.write_zip(path, pickled, {"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"is compressed, which torch\.save never does"):
        read_torch(path)
    files.write_zip(path, pickled, {"0": zeros}, byteorder=b"big")
    with pytest.raises(WeightsError, match="byte order b'big' is not read"):
        read_torch(path)
    files.write_zip(path, pickled, {})
    with pytest.raises(WeightsError, match="There is no item named 'archive/data/0'"):
        read_torch(path)
    files.write_zip(path, pickled + b"x", {"0": zeros})
    with pytest.raises(WeightsError, match=r"1 bytes follow the end of data\.pkl"):
        read_torch(path)
    twice = files.mapping([("x", files.tensor("0", _ARRAY))] * 2)
    files.write_zip(path, files.pickled(twice), {"0": _ARRAY})
    with pytest.raises(WeightsError, match="the key 'x' comes twice"):
        read_torch(path)
    # Two entries of one megabyte that point at the same bytes.
    files.write_zip(path, pickled, {"0": zeros, "1": zeros})
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(b"PK\x03\x04", len(raw) // 2 - 1000)] + raw[raw.index(b"PK\x01\x02") :])
    with pytest.raises(WeightsError):
        read_torch(path)


def test_legacy_headers_are_checked(tmp_path):
    path, state = tmp_path / "weights.pth", files.mapping([("x", files.tensor("0", _ARRAY, legacy=True))])
    for options, match in (
        ({"magic": 12345}, "its magic number is another"),
        ({"little_endian": False}, "byte orders other than little endian"),
    ):
        path.write_bytes(files.legacy_bytes(state, {"0": _ARRAY}, **options))
        with pytest.raises(WeightsError, match=match):
            read_torch(path)
    path.write_bytes(files.legacy_bytes(state, {"0": _ARRAY}) + b"more")
    with pytest.raises(WeightsError, match="4 bytes follow the last storage"):
        read_torch(path)


def _safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is no safetensors file"),
        (b"\xff" * 8 + b"{}", "is no safetensors file"),
        ((2**40).to_bytes(8, "little") + b"{}", "is no safetensors file"),
        (_safetensors(b"{"), "the header is no JSON object"),
        (_safetensors(b"[1]"), "the header must be a JSON object"),
        (_safetensors(b"[" * 100_000), "the header is no JSON object"),
        (_safetensors(b'{"a": ' + b"9" * 10_000 + b"}"), "the header is no JSON object|must have dtype"),
        (_safetensors(b"\xff\xfe{}"), "the header is no JSON object"),
        (_safetensors({"a": 3}), "must have dtype, shape and data_offsets"),
        (
            _safetensors({"a": _entry(0, 4, dtype="F4")}, b"1234"),
            r"'a' is of type 'F4', which is not read, only BOOL, ",
        ),
        (_safetensors({"a": {**_entry(0, 4), "dtype": []}}, b"1234"), r"'a' is of type \[\], which is not read"),
        (_safetensors({"a": _entry(0, 4, [-1])}, b"1234"), "must have sizes and offsets of 0 or more"),
        (_safetensors({"a": _entry(-4, 0)}, b"1234"), "must have sizes and offsets of 0 or more"),
        (_safetensors({"a": _entry(0, 4, [1.0])}, b"1234"), "must have sizes and offsets of 0 or more"),
        (_safetensors({"a": _entry(0, 4, [True])}, b"1234"), "must have sizes and offsets of 0 or more"),
        (_safetensors({"a": _entry(0, 4, [1] * 40)}, b"1234"), "must have sizes and offsets of 0 or more"),
        (_safetensors({"a": _entry(0, 4, [2])}, b"1234"), "cannot have 4 bytes"),
        (_safetensors({"a": _entry(4, 0)}, b"1234"), "cannot have -4 bytes"),
        (_safetensors({"a": _entry(0, 0, [0, 2**62])}), "is larger than any memory"),
        (_safetensors({"a": _entry(0, 0, [2])}), "cannot have 0 bytes"),
        (_safetensors({"a": _entry(0, 4, [0])}, b"1234"), "cannot have 4 bytes"),
        (_safetensors({"a": _entry(0, 400, [100])}, b"1234"), "the tensors take 400 bytes, the file has 4"),
        (_safetensors({"a": _entry(0, 4)}, b"12345678"), "the tensors take 4 bytes, the file has 8"),
        (_safetensors({"a": _entry(0, 4), "b": _entry(0, 4)}, b"1234"), "overlap or leave a gap"),
        (_safetensors({"a": _entry(4, 8)}, b"12345678"), "overlap or leave a gap"),
        (
            _safetensors(
                json.dumps({"a": _entry(0, 4)})[:-1].encode() + b", " + json.dumps({"a": _entry(0, 4)})[1:].encode(),
                b"1234",
            ),
            "the name 'a' comes twice",
        ),
    ],
)
def test_hostile_safetensors_are_refused(tmp_path, content, match):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        read_safetensors(tmp_path / "weights.safetensors")


def test_a_long_entry_is_not_quoted_in_full(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(_safetensors({"a": {"dtype": "F99", "shape": [0] * 10**6}}))
    with pytest.raises(WeightsError) as caught:
        read_safetensors(tmp_path / "weights.safetensors")
    assert len(str(caught.value)) < 1000


def _field(number, kind, payload):
    return bytes([number << 3 | kind]) + payload


def _bytes_field(number, payload):
    key = number << 3 | 2
    head = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    return head + len(payload).to_bytes(1, "little") + payload


def _net(blob):
    return _bytes_field(100, _bytes_field(1, b"fc") + _bytes_field(7, blob))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "has no layer with weights"),
        (b"\xff" * 20, "a number of more than 10 bytes"),
        (b"\x0b", "wire type 3"),
        (_net(_bytes_field(5, b"1234") + _bytes_field(7, b""))[:-3], "truncated"),
        (_net(_bytes_field(5, b"123")), "the numbers of a blob are cut"),
        (
            _net(_bytes_field(5, b"1234") + _bytes_field(7, _field(1, 0, b"\x02"))),
            r"a blob of 1 numbers has shape \(2,\)",
        ),
        (_net(_bytes_field(7, _field(1, 0, b"\x00"))), r"a blob of 0 numbers has shape \(0,\)"),
        (
            _net(_bytes_field(5, b"1234") + _bytes_field(7, _field(1, 0, b"\xff" * 9 + b"\x01") * 2)),
            "a blob of 1 numbers",
        ),
        (_net(_bytes_field(5, b"1234") + _bytes_field(7, _field(1, 0, b"\x01") * 40)), "a blob of 1 numbers"),
        (_net(_bytes_field(5, b"1234") + _bytes_field(7, _field(1, 0, b"\x01"))) * 2, r"blob fc\[0\] comes twice"),
        (_field(2, 0, b"\x01"), "a number where a message belongs"),
        (_net(_bytes_field(5, b"1234") + _bytes_field(8, b"12345678")), "numbers in both precisions"),
    ],
)
def test_hostile_caffemodels_are_refused(tmp_path, content, match):
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        read_caffemodel(tmp_path / "net.caffemodel")


def test_hostile_npz_are_refused(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "weights.npz"
    np.savez(path, x=np.array([_Command(os.system, f"touch {canary}")], object))
    with pytest.raises(WeightsError, match="Object arrays cannot be loaded"):
        read_npz(path)
    assert not canary.exists()
    np.savez_compressed(path, x=np.zeros(10**6, np.float32))
    with pytest.raises(WeightsError, match="refused: the arrays claim 4000128 bytes, the file has"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", b"")
    with pytest.raises(WeightsError, match="two entries of the zip archive have one name"):
        read_npz(path)


def _honest_files(folder):
    write_safetensors(folder / "a.safetensors", files.arrays())
    files.write_state(folder / "a.pth", files.arrays())
    files.write_state(folder / "b.pth", files.arrays(), legacy=True)
    layers = {"fc": list(files.arrays().values())}
    (folder / "a.caffemodel").write_bytes(caffemodel(layers))
    np.savez(folder / "a.npz", **files.arrays())
    np.savez_compressed(folder / "b.npz", **files.arrays())
    readers = {".safetensors": read_safetensors, ".pth": read_torch, ".caffemodel": read_caffemodel, ".npz": read_npz}
    return [(readers[path.suffix], path.read_bytes()) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return _honest_files(tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize("which", range(6))
def test_every_truncation_is_refused(honest, tmp_path, which):
    read, content = honest[which]
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if read is read_caffemodel and length == 6:
            continue  # protobuf: the whole field before the cut is a message of its own, without layers
        with pytest.raises(WeightsError):
            read(path)


@pytest.mark.parametrize("which", range(6))
def test_flipped_bytes_are_refused_or_read(honest, tmp_path_factory, which):
    read, content = honest[which]
    path = tmp_path_factory.mktemp("flipped") / "flipped"

    @given(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes):
        changed = bytearray(content)
        for position, byte in changes:
            changed[position] = byte
        path.write_bytes(changed)
        try:
            tensors = read(path)
        except WeightsError:
            return
        assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())

    check()


def test_dictionaries_in_themselves_take_no_time(tmp_path):
    # {"0": itself, "1": itself, ...}, and another of them inside.
    keys = [files.text(str(index)) for index in range(3000)]
    endless = b"}q\x00(" + b"".join(key + b"h\x00" for key in keys) + b"u"
    files.write_zip(tmp_path / "weights.pth", files.pickled(files.mapping([("a", endless), ("b", b"h\x00")])), {})
    with pytest.raises(WeightsError, match=r"it holds 'a' \(a dict\), 'b' \(a dict\)$"):
        read_torch(tmp_path / "weights.pth")


def _shared(depth):
    """The opcodes of a tuple with 2^depth ends that are all one: short to say, endless to write out or to hash."""
    return b")q\x00" + b"h\x00\x86q\x00" * depth


def test_tuples_of_shared_tuples_take_no_time(tmp_path):
    endless, honest = _shared(200), files.tensor("0", _ARRAY)
    described = files.text("storage") + endless + files.text("0") + files.text("cpu") + files.integer(6)
    for state in (
        files.mapping([("x", honest.replace(files.integers(_ARRAY.shape), endless, 1))]),
        files.mapping([("x", honest.replace(files.integer(0), endless, 1))]),
        files.mapping([("x", endless)]),
        endless,
        b"(" + described + b"tQ",
        files.EMPTY_MAPPING + endless + b"Ns",
        files.name("collections", "OrderedDict") + endless + b"R",
        endless + endless + b"R",
    ):
        files.write_zip(tmp_path / "weights.pth", files.pickled(state), {"0": _ARRAY})
        with pytest.raises(WeightsError):
            read_torch(tmp_path / "weights.pth")


@given(
    st.lists(
        st.sampled_from([bytes([b]) for b in b"(N\x88K\x01M\x02JGXT}su]aet)\x81\x85\x86\x87qhjrcRQb."]), max_size=60
    )
)
def test_random_pickles_are_refused_or_data(opcodes):
    try:
        value = read_pickle(b"\x80\x02" + b"".join(opcodes) + b".").value
    except WeightsError:
        return
    assert value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))
