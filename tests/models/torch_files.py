"""Files in the formats of `torch.save`, written opcode by opcode, so that they can be wrong in every way."""

import argparse
import collections
import pathlib
import pickle
import struct
import zipfile

import numpy as np

_STORAGES = {"float32": "Float", "float16": "Half", "int64": "Long", "float64": "Double"}


def text(string):
    encoded = string.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(number):
    return b"J" + struct.pack("<i", number)


def integers(numbers):
    return b"(" + b"".join(map(integer, numbers)) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


EMPTY_MAPPING = name("collections", "OrderedDict") + b")R"


def tensor(key, array, *, shape=None, strides=None, offset=0, size=None, storage=None, legacy=False):
    """The opcodes of one tensor; what is not given is told truly."""
    steps = [step // array.itemsize for step in array.strides]
    kind = name("torch", storage or f"{_STORAGES[array.dtype.name]}Storage")
    described = text("storage") + kind + text(key) + text("cpu") + integer(array.size if size is None else size)
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"(("
        + described
        + (b"N" if legacy else b"")
        + b"tQ"
        + integer(offset)
        + integers(array.shape if shape is None else shape)
        + integers(steps if strides is None else strides)
        + b"\x89"
        + EMPTY_MAPPING
        + b"tR"
    )


def mapping(items):
    return EMPTY_MAPPING + b"(" + b"".join(text(key) + value for key, value in items) + b"u"


def pickled(value):
    return b"\x80\x02" + value + b"."


def write_zip(path, pickle, storages, *, byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def legacy_bytes(state, storages, *, magic=0x1950A86A20F9469CFC6C, little_endian=True):
    system = EMPTY_MAPPING + text("little_endian") + (b"\x88" if little_endian else b"\x89") + b"s"
    parts = [
        pickled(b"\x8a\x0a" + magic.to_bytes(10, "little", signed=True)),
        pickled(integer(1001)),
        pickled(system),
        pickled(state),
        pickled(b"](" + b"".join(map(text, storages)) + b"e"),
    ]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join(parts)


def write_state(path, arrays, *, legacy=False):
    """An honest file of contiguous arrays."""
    storages = {str(index): array for index, array in enumerate(arrays.values())}
    items = zip(arrays, (tensor(key, array, legacy=legacy) for key, array in storages.items()), strict=True)
    if legacy:
        path.write_bytes(legacy_bytes(mapping(items), storages))
    else:
        write_zip(path, pickled(mapping(items)), storages)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {"fc.weight": rng.normal(size=(3, 2)).astype(np.float32), "fc.bias": np.float32([1, 2, 3])}


def plain(value):
    """Anything without tensors, as Python pickles it."""
    return pickle.dumps(value, 2)[2:-1]


def dictionary(items):
    """A dict whose keys need not be text."""
    return b"}(" + b"".join(plain(key) + value for key, value in items) + b"u"


def checkpoint(path, weights, *, legacy=False, beside=True):
    """What a training program leaves: `weights` are {entry: {name: array}}, an entry "a.b" lies in a of the file.

    Beside them lie what optimizers, schedulers and options leave, with tensors that belong to no network.
    """
    storages, entries = {}, {}

    def stored(array):
        storages[str(len(storages))] = array
        return tensor(str(len(storages) - 1), array, legacy=legacy)

    for entry, arrays in weights.items():
        encoded = mapping([(key, stored(array)) for key, array in arrays.items()])
        for part in reversed(entry.split(".")[1:]):
            encoded = mapping([(part, encoded)])
        entries[entry.split(".")[0]] = encoded
    if beside:
        momentum = dictionary([("step", plain(7)), ("exp_avg", stored(np.zeros((2, 2), np.float32)))])
        groups = plain([{"lr": 0.1, "params": [0, 1], "nesterov": False}])
        entries |= {
            "epoch": plain(90),
            "arch": plain("resnet50"),
            "best_acc1": stored(np.array([76.1], np.float32)),
            "callbacks": mapping([("checkpoint", mapping([("best_score", stored(np.array([0.5], np.float32)))]))]),
            "score": plain(np.float64(0.5)),
            "curve": plain(np.arange(3.0)),
            "args": plain(argparse.Namespace(lr=0.1, seen={1, 2}, folder=pathlib.PurePosixPath("runs"))),
            "scheduler": plain({"milestones": collections.Counter([30, 60]), "by": collections.defaultdict(list)}),
            "optimizer": dictionary([("state", dictionary([(0, momentum), (1, momentum)])), ("param_groups", groups)]),
        }
    value = mapping(entries.items())
    if legacy:
        path.write_bytes(legacy_bytes(value, storages))
    else:
        write_zip(path, pickled(value), storages)
