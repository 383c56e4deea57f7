"""Caffe's messages through Google's protobuf library: an encoder that knows nothing of our reader."""

import functools

import pytest

_TYPES = {"int64": 3, "float": 2, "double": 1, "string": 9}


def _message(file, name, fields):
    message = file.message_type.add(name=name)
    for field, number, kind, repeated, packed in fields:
        entry = message.field.add(name=field, number=number, label=3 if repeated else 1)
        if kind in _TYPES:
            entry.type = _TYPES[kind]
        else:
            entry.type, entry.type_name = 11, f".caffe.{kind}"
        if packed:
            entry.options.packed = True


@functools.cache
def _classes():
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe_subset.proto", package="caffe", syntax="proto2")
    _message(file, "BlobShape", [("dim", 1, "int64", True, True)])
    sides = [
        (side, number, "int64", False, False) for number, side in enumerate(("num", "channels", "height", "width"), 1)
    ]
    _message(
        file,
        "BlobProto",
        [
            *sides,
            ("data", 5, "float", True, True),
            ("diff", 6, "float", True, True),
            ("shape", 7, "BlobShape", False, False),
            ("double_data", 8, "double", True, True),
        ],
    )
    layer = [
        ("name", 1, "string", False, False),
        ("type", 2, "string", False, False),
        ("blobs", 7, "BlobProto", True, False),
    ]
    _message(file, "LayerParameter", layer)
    _message(file, "V1LayerParameter", [("name", 4, "string", False, False), ("blobs", 6, "BlobProto", True, False)])
    net = [("name", 1, "string", False, False), ("layer", 100, "LayerParameter", True, False)]
    _message(file, "NetParameter", [*net, ("layers", 2, "V1LayerParameter", True, False)])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in ("NetParameter",)
    }


def caffemodel(layers, *, legacy=False, double=False, diff=False):
    """The bytes of a net with `layers` {name: [array, ...]}; `legacy` writes V1 layers and shapes of four sides."""
    net = _classes()["NetParameter"](name="test")
    if not legacy:
        net.layer.add(name="data", type="Data")
    for name, arrays in layers.items():
        layer = (net.layers if legacy else net.layer).add(name=name)
        for array in arrays:
            blob = layer.blobs.add()
            (blob.double_data if double else blob.data).extend(array.ravel().tolist())
            if diff:
                blob.diff.extend([0.5] * array.size)
            if legacy:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
            else:
                blob.shape.dim.extend(array.shape)
    return net.SerializeToString()
