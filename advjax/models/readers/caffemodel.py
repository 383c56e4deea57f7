"""Caffe's `.caffemodel`: the few fields of a NetParameter message that hold weights, from protobuf's wire format.

Written by hand because the wire format is a dozen lines, and Caffe's message classes would have to be generated and
shipped for five fields of hundreds. Field numbers: BVLC/caffe, src/caffe/proto/caffe.proto.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advjax.models.readers.errors import WeightsError

__all__ = ["read_caffemodel"]

# NetParameter -> (LayerParameter | V1LayerParameter): field of the layers, of a layer's name, of its blobs.
_LAYER_FIELDS = {100: (1, 7), 2: (4, 6)}
# BlobProto
_DATA, _SHAPE, _DOUBLE_DATA = 5, 7, 8
_LEGACY_SHAPE = (1, 2, 3, 4)
# BlobShape
_DIM = 1
_MOST_SIDES = 32  # Caffe's own limit
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int | memoryview]


def read_caffemodel(path: Path) -> dict[str, np.ndarray]:
    """All blobs of all layers, as `layer[0]` (weights, outputs first), `layer[1]` (biases) and so on, read-only.

    Layers of both formats are read, `layer` and the older `layers`. The older one gives all shapes four
    sides: [1, 1, out, in] is a matrix and [1, 1, 1, n] a vector.

    Raises:
        WeightsError: the file is truncated or damaged, a layer's name comes twice, or a shape does not fit its data.
    """
    tensors: dict[str, np.ndarray] = {}
    try:
        for field, _, layer in _fields(memoryview(path.read_bytes())):
            if field in _LAYER_FIELDS:
                for name, blob in _blobs(_message(layer), *_LAYER_FIELDS[field]):
                    if name in tensors:
                        raise WeightsError(f"blob {name} comes twice")
                    tensors[name] = blob
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    if not tensors:
        raise WeightsError(f"{path} is no caffemodel: it has no layer with weights")
    return tensors


def _blobs(layer: memoryview, name_field: int, blob_field: int) -> Iterator[tuple[str, np.ndarray]]:
    name, blobs = "", []
    for field, _, value in _fields(layer):
        if field == name_field:
            name = bytes(_message(value)).decode("utf-8", "replace")
        elif field == blob_field:
            blobs.append(_blob(_message(value)))
    for index, blob in enumerate(blobs):
        yield f"{name}[{index}]", blob


def _blob(blob: memoryview) -> np.ndarray:
    data = {_DATA: bytearray(), _DOUBLE_DATA: bytearray()}
    legacy = dict.fromkeys(_LEGACY_SHAPE, 0)
    shape: list[int] | None = None
    for field, kind, value in _fields(blob):
        if field in data:
            size, single = (4, _FIXED32) if field == _DATA else (8, _FIXED64)
            if kind not in (_BYTES, single) or len(_message(value)) % size:
                raise WeightsError("the numbers of a blob are cut")
            data[field] += _message(value)
        elif field == _SHAPE:
            packed = (numbers for number, _, numbers in _fields(_message(value)) if number == _DIM)
            shape = list(itertools.islice((dim for numbers in packed for dim in _varints(numbers)), _MOST_SIDES + 1))
        elif field in legacy and kind == _VARINT and isinstance(value, int):
            legacy[field] = value
    if all(data.values()):
        raise WeightsError("a blob has numbers in both precisions")
    used, dtype = (_DOUBLE_DATA, "<f8") if data[_DOUBLE_DATA] else (_DATA, "<f4")
    numbers = np.frombuffer(bytes(data[used]), dtype)
    sides = tuple(legacy.values()) if shape is None else tuple(shape)
    # int64 as protobuf writes it: a negative number is one of 2^63 or more.
    if any(not 0 < side < 2**63 for side in sides) or len(sides) > _MOST_SIDES or math.prod(sides) != numbers.size:
        raise WeightsError(f"a blob of {numbers.size} numbers has shape {sides}")
    if shape is None and sides[:2] == (1, 1):
        sides = sides[3:] if sides[2] == 1 else sides[2:]
    return numbers.reshape(sides)


def _fields(message: memoryview) -> Iterator[Field]:
    """(number, wire type, value) of each field of a message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise WeightsError(f"no protobuf message: wire type {kind}")
        if length > len(message) - position:
            raise WeightsError(f"truncated: {length} bytes announced, {len(message) - position} left")
        yield number, kind, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(message):
            raise WeightsError("truncated: a number is cut")
        byte = message[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise WeightsError("no protobuf message: a number of more than 10 bytes")


def _varints(packed: int | memoryview) -> Iterator[int]:
    if isinstance(packed, int):
        yield packed
        return
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise WeightsError("no caffemodel: a number where a message belongs")
    return value
