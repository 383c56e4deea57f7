"""The safetensors format, read and written here in full.

A header of JSON says type, shape and place of each tensor, then come the bytes. The package of the same name is not
used: it takes the last of two tensors of one name in silence, and its NumPy half knows no bfloat16.
"""

import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from advjax.files import write_whole
from advjax.models.readers.errors import WeightsError

__all__ = ["read_safetensors", "write_safetensors"]

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file by name, read-only.

    Raises:
        WeightsError: the file is truncated, its header is not what the format asks for, a name comes twice, or the
            tensors do not fill the file exactly.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "weights.safetensors"
    ...     write_safetensors(path, {"scale": np.float32([1, 2])})
    ...     read_safetensors(path)
    {'scale': array([1., 2.], dtype=float32)}
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_LONGEST_HEADER, len(data) - 8):
        raise WeightsError(f"{path} is no safetensors file: a header of {length} bytes in a file of {len(data)} bytes")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the header is no JSON object with a name for each tensor: {error}") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: the header must be a JSON object, got {type(header).__name__}")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    entries = {name: _entry(path, name, entry) for name, entry in header.items()}
    _check_places(path, [(begin, end) for _, _, begin, end in entries.values()], len(body))
    return {name: _array(body[begin:end], dtype, shape) for name, (dtype, shape, begin, end) in entries.items()}


def _array(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape) if len(data) else np.empty(shape, dtype)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise WeightsError(f"the name {name!r} comes twice")
        mapping[name] = value
    return mapping


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    short = reprlib.repr(entry)
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path}: tensor {name!r} must have dtype, shape and data_offsets, got {short}") from None
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise WeightsError(
            f"{path}: tensor {name!r} is of type {reprlib.repr(kind)}, which is not read, only {', '.join(_DTYPES)}"
        )
    numbers, dtype = [*shape, begin, end], _DTYPES[kind]
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers) or len(shape) > 32:
        raise WeightsError(f"{path}: tensor {name!r} must have sizes and offsets of 0 or more, got {short}")
    # NumPy multiplies the sides of an empty array too.
    if math.prod(side for side in shape if side) * dtype.itemsize >= 2**63:
        raise WeightsError(f"{path}: tensor {name!r} of shape {shape} is larger than any memory")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise WeightsError(f"{path}: tensor {name!r} of shape {shape} and {dtype} cannot have {end - begin} bytes")
    return dtype, shape, begin, end


def _check_places(path: Path, places: list[tuple[int, int]], size: int) -> None:
    position = 0
    for begin, end in sorted(places):
        if begin != position:
            raise WeightsError(f"{path}: the tensors overlap or leave a gap at byte {min(begin, position)} of the data")
        position = end
    if position != size:
        raise WeightsError(f"{path}: the tensors take {position} bytes, the file has {size}")


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under their names, the whole file or nothing of it; `read_safetensors` gives them back."""
    header, position = {}, 0
    for name, tensor in tensors.items():
        dtype = _NAMES.get(tensor.dtype)
        if dtype is None:
            raise ValueError(f"tensors[{name!r}] must be of a type of the format, got {tensor.dtype}")
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": (position, position + tensor.nbytes)}
        position += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())

    write_whole(path, write)
