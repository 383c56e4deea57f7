"""Files of `torch.save`: the zip archive of today and the chain of pickles before PyTorch 1.6, without PyTorch."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advjax.models.readers.errors import WeightsError
from advjax.models.readers.pickled import Inert, Storage, StoredTensor, read_pickle

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
# {"state_dict": ...} and {"generator": {"model": ...}}; what optimizers keep lies deeper, under numbers.
_DEEPEST = 2
_LISTED = 12

StateDict = dict[str, StoredTensor]


def read_torch(path: Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """All tensors of a state_dict by name, read-only. Nothing in the file is executed, whatever it holds.

    Args:
        path: a file of `torch.save`: a state_dict, or a dictionary of a training program that holds one or more.
        entry: which of them; its keys joined by dots ("state_dict_ema"). Needed where there are several.

    Raises:
        WeightsError: the file is truncated or damaged, holds no state_dict of tensors or several and no `entry`,
            or its sizes do not add up.
    """
    with path.open("rb") as file:
        start = file.read(4)
    try:
        if start == b"PK\x03\x04":
            return _read_zip(path, entry)
        if start[:1] == b"\x80":
            return _read_legacy(path.read_bytes(), entry)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    raise WeightsError(f"{path} is no file of torch.save: it starts with {start!r}")


def _read_zip(path: Path, entry: str | None) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _from_archive(archive, path.stat().st_size, entry)
    except WeightsError:
        raise
    except _DAMAGED as error:
        raise WeightsError(f"the zip archive is damaged: {error}") from None


def _from_archive(archive: zipfile.ZipFile, size: int, entry: str | None) -> dict[str, np.ndarray]:
    root, names = _checked(archive, size)
    order = f"{root}/byteorder"
    if order in names and archive.read(order) != b"little":
        raise WeightsError(f"byte order {archive.read(order)[:16]!r} is not read, only b'little'")
    pickle = archive.read(f"{root}/data.pkl")
    value, end, _ = read_pickle(pickle)
    if end != len(pickle):
        raise WeightsError(f"{len(pickle) - end} bytes follow the end of data.pkl")
    state = _state_dict(value, entry)
    storages = {tensor.storage.key: tensor.storage for tensor in state.values()}
    numbers = {key: _numbers(storage, archive.read(f"{root}/data/{key}")) for key, storage in storages.items()}
    return {name: tensor.view(numbers[tensor.storage.key]) for name, tensor in state.items()}


def _checked(archive: zipfile.ZipFile, size: int) -> tuple[str, set[str]]:
    """The folder that all of a file of torch.save lies in, and the names of all members."""
    members = archive.infolist()
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise WeightsError("two entries of the zip archive have one name")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise WeightsError(f"refused: {member.filename} is compressed, which torch.save never does")
    # Entries that share bytes could otherwise unfold into more than the file.
    if sum(member.file_size for member in members) > size:
        raise WeightsError(f"refused: the entries claim more than the {size} bytes of the file")
    roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsError(f"the zip archive has {len(roots)} entries data.pkl, a file of torch.save has one")
    return roots[0], names


def _read_legacy(data: bytes, entry: str | None) -> dict[str, np.ndarray]:
    position, parts = 0, []
    for _ in range(5):
        parts.append(read_pickle(data, position))
        position = parts[-1].end
    magic, protocol, system, value, keys = (part.value for part in parts)
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise WeightsError("this pickle is no file of torch.save: its magic number is another")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("byte orders other than little endian are not read")
    storages = parts[3].storages
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
    state = _state_dict(value, entry)
    return {name: tensor.view(numbers[tensor.storage.key]) for name, tensor in state.items()}


def _state_dict(value: Any, entry: str | None) -> StateDict:
    """The state_dict that the file is, or the one that it holds."""
    if not isinstance(value, dict):
        raise WeightsError(f"the file must hold a state_dict, got {_kind(value)}")
    if not value:
        return {}
    found = _state_dicts(value)
    if entry is not None and entry not in found:
        raise WeightsError(f"the file has no state_dict {entry!r}; it holds {_content(value, found)}")
    if len(found) == 1 or entry is not None:
        return found[next(iter(found)) if entry is None else entry]
    if found:
        raise WeightsError(f"the file holds several state_dicts, choose by entry=: {_content(value, found)}")
    raise WeightsError(f"the file must hold a state_dict of tensors, but it holds {_content(value, found)}")


def _state_dicts(value: dict[Any, Any]) -> dict[str, StateDict]:
    found: dict[str, StateDict] = {}
    seen: set[int] = set()  # a pickle may hold a dictionary in itself

    def search(mapping: dict[Any, Any], path: tuple[str, ...]) -> None:
        seen.add(id(mapping))
        if mapping and all(type(key) is str and type(each) is StoredTensor for key, each in mapping.items()):
            # A network has matrices or kernels; the scores that a callback keeps are numbers.
            if not path or any(type(each.shape) is tuple and len(each.shape) > 1 for each in mapping.values()):
                found[".".join(path)] = mapping
        elif len(path) < _DEEPEST:
            for key, each in mapping.items():
                if type(key) is str and type(each) is dict and id(each) not in seen:
                    search(each, (*path, key))

    search(value, ())
    return found


def _content(value: dict[Any, Any], found: Mapping[str, StateDict]) -> str:
    if found and "" not in found:
        parts = [f"{name!r} ({len(state)} tensors)" for name, state in found.items()]
    else:
        strange_first = sorted(value.items(), key=lambda item: type(item[1]) is StoredTensor)
        parts = [f"{key!r} ({_kind(each)})" for key, each in strange_first if type(key) is str]
    return ", ".join(parts[:_LISTED]) + (", ..." if len(parts) > _LISTED else "")


def _kind(value: Any) -> str:
    if type(value) is StoredTensor:
        return "a tensor"
    name = value.name if type(value) is Inert else type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _numbers(storage: Storage, data: bytes) -> np.ndarray:
    if len(data) != storage.size * storage.dtype.itemsize:
        raise WeightsError(f"storage {storage.key} has {len(data)} bytes for {storage.size} elements {storage.dtype}")
    return np.frombuffer(data, storage.dtype) if data else np.empty(0, storage.dtype)
