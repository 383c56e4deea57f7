"""Files of `torch.save`: the zip archive of today and the chain of pickles before PyTorch 1.6, without PyTorch."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from advjax.models.readers.errors import WeightsError
from advjax.models.readers.pickled import Storage, StoredTensor, read_pickle

__all__ = ["read_torch"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# What zipfile raises on damaged archives, by its source: also for bad checksums, encryption and lying offsets.
_DAMAGED = (
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ArithmeticError,
    ValueError,
    LookupError,
    struct.error,
)


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a state_dict by name, read-only. Nothing in the file is executed, whatever it holds.

    Raises:
        WeightsError: the file is truncated or damaged, holds anything but a state_dict of tensors, or its sizes
            do not add up.
    """
    with path.open("rb") as file:
        start = file.read(4)
    try:
        if start == b"PK\x03\x04":
            return _read_zip(path)
        if start[:1] == b"\x80":
            return _read_legacy(path.read_bytes())
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    raise WeightsError(f"{path} is no file of torch.save: it starts with {start!r}")


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _from_archive(archive, path.stat().st_size)
    except WeightsError:
        raise
    except _DAMAGED as error:
        raise WeightsError(f"the zip archive is damaged: {error}") from None


def _from_archive(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise WeightsError("two entries of the zip archive have one name")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise WeightsError(f"refused: {entry.filename} is compressed, which torch.save never does")
    # Entries that share bytes could otherwise unfold into more than the file.
    if sum(entry.file_size for entry in entries.values()) > size:
        raise WeightsError(f"refused: the entries claim more than the {size} bytes of the file")
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsError(f"the zip archive has {len(roots)} entries data.pkl, a file of torch.save has one")
    order = f"{roots[0]}/byteorder"
    if order in entries and archive.read(order) != b"little":
        raise WeightsError(f"byte order {archive.read(order)[:16]!r} is not read, only b'little'")
    pickle = archive.read(f"{roots[0]}/data.pkl")
    state, end = read_pickle(pickle)
    if end != len(pickle):
        raise WeightsError(f"{len(pickle) - end} bytes follow the end of data.pkl")
    storages = _storages(state)
    numbers = {key: _numbers(storage, archive.read(f"{roots[0]}/data/{key}")) for key, storage in storages.items()}
    return {name: tensor.view(numbers[tensor.storage.key]) for name, tensor in state.items()}


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    position, parts = 0, []
    for _ in range(5):
        part, position = read_pickle(data, position)
        parts.append(part)
    magic, protocol, system, state, keys = parts
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise WeightsError("this pickle is no file of torch.save: its magic number is another")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("byte orders other than little endian are not read")
    storages = _storages(state)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise WeightsError("the storages in the file are not those that its tensors name")
    numbers = {}
    for key in keys:
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        start, position = position + 8, position + 8 + storages[key].size * storages[key].dtype.itemsize
        if count != storages[key].size or not start <= position <= len(data):
            raise WeightsError(f"storage {key} of {storages[key].size} elements is truncated or of another size")
        numbers[key] = _numbers(storages[key], data[start:position])
    if position != len(data):
        raise WeightsError(f"{len(data) - position} bytes follow the last storage")
    return {name: tensor.view(numbers[tensor.storage.key]) for name, tensor in state.items()}


def _storages(state: Any) -> dict[str, Storage]:
    if not isinstance(state, dict):
        raise WeightsError(f"the file must hold a state_dict, got a {type(state).__name__}")
    storages: dict[str, Storage] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, StoredTensor):
            raise WeightsError(f"the file must hold a state_dict of tensors, but {name!r} is a {type(tensor).__name__}")
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise WeightsError(f"storage {tensor.storage.key} is described in two ways")
    return storages


def _numbers(storage: Storage, data: bytes) -> np.ndarray:
    if len(data) != storage.size * storage.dtype.itemsize:
        raise WeightsError(f"storage {storage.key} has {len(data)} bytes for {storage.size} elements {storage.dtype}")
    return np.frombuffer(data, storage.dtype)
