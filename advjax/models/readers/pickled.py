"""The pickle opcodes that PyTorch writes for a state_dict or a training checkpoint, read as data.

Python's own unpickler imports what a file names and calls it. This one does not exist in that sense: it knows the few
opcodes of `torch.save` (protocol 2), a name is only looked up in a table of inert values, and no object of the file
is ever called. Whatever is not in the tables is refused.
"""

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax.models.readers.errors import WeightsError

__all__ = ["Inert", "Pickle", "Storage", "StoredTensor", "read_pickle"]


class Storage(NamedTuple):
    """A run of numbers in the file: its element type, its key, how many there are."""

    dtype: np.dtype
    key: str
    size: int


class StoredTensor(NamedTuple):
    """A tensor as a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor, given the numbers of its storage."""
        parts = (self.shape, self.strides)
        # Not quoted: tuples of tuples that share their parts can be longer than any memory once they are written out.
        if not all(type(part) is tuple and all(type(n) is int and n >= 0 for n in part) for part in parts):
            raise WeightsError("a tensor must have a shape and strides of integers of 0 or more")
        if type(self.offset) is not int or self.offset < 0:
            raise WeightsError("a tensor must have an offset of 0 or more")
        if len(self.shape) != len(self.strides) or len(self.shape) > 32:
            raise WeightsError(f"a tensor of {len(self.shape)} dimensions has {len(self.strides)} strides")
        # NumPy multiplies the sides of an empty array too.
        if math.prod(n for n in self.shape if n) * numbers.itemsize >= 2**63:
            raise WeightsError("a tensor is larger than any memory")
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.empty(self.shape, numbers.dtype)
        if last >= numbers.size:
            raise WeightsError(f"a tensor of shape {self.shape} reaches beyond its storage of {numbers.size} elements")
        # Strides of 0 repeat an element, as `torch.Tensor.expand` leaves it; the view takes no memory for them.
        steps = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps, writeable=False)


class Inert(NamedTuple):
    """What stands for an object that weights have no use for: the name of its class, and nothing of its content."""

    name: str


class Pickle(NamedTuple):
    """What `read_pickle` returns.

    Attributes:
        value: dict, list, tuple, str, int, float, bool, None, `StoredTensor`, `Inert`.
        end: where the pickle ends.
        storages: all that its tensors name, by key, those of tensors that are not in `value` too.
    """

    value: Any
    end: int
    storages: dict[str, Storage]


class _Name(NamedTuple):
    module: str
    name: str


_MAPPING = _Name("collections", "OrderedDict")
_TENSOR = _Name("torch._utils", "_rebuild_tensor")
_TENSOR_V2 = _Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _Name("torch._utils", "_rebuild_parameter")
# Files of before 2020 say where a storage was.
_STORAGES = {
    _Name(module, f"{name}Storage"): np.dtype(dtype)
    for module in ("torch", "torch.cuda")
    for name, dtype in {
        "Float": "<f4",
        "Double": "<f8",
        "Half": "<f2",
        "BFloat16": jnp.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
    }.items()
}
# What training programs keep beside the weights: options, counts, dates, NumPy's numbers. Known by name, so that any
# other name is still refused; never looked up, never called.
_BESIDE = {
    "argparse": "Namespace",
    "collections": "Counter defaultdict deque",
    "builtins": "bytearray complex dict float frozenset int list object set slice str tuple",
    "__builtin__": "bytearray complex dict float frozenset int list object set slice str tuple unicode",
    "_codecs": "encode",
    "copy_reg": "_reconstructor",
    "copyreg": "_reconstructor",
    "datetime": "date datetime timedelta",
    "pathlib": "Path PosixPath PurePosixPath WindowsPath",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "torch": "Size device bfloat16 float16 float32 float64 half float double int8 int16 int32 int64 uint8 bool",
    "lightning_fabric.utilities.data": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
}
_INERT = {_Name(module, name) for module, names in _BESIDE.items() for name in names.split()}
_NAMES = {_MAPPING, _TENSOR, _TENSOR_V2, _PARAMETER, *_STORAGES, *_INERT}
_KEYS = (str, int, float, bool, type(None), _Name)
_ADVICE = (
    "; if it is a whole module or a checkpoint with objects of another program, let that program save the weights"
    " alone: torch.save(model.state_dict(), path)"
)


def read_pickle(data: bytes, position: int = 0) -> Pickle:
    """The value of the pickle that starts at `position`, where it ends, and the storages that it names.

    Raises:
        WeightsError: the pickle is damaged, or has a name or an opcode that a checkpoint of weights does not need.

    >>> read_pickle(bytes.fromhex("80027d71005801000000614b01732e"))
    Pickle(value={'a': 1}, end=15, storages={})
    """
    machine = _Machine(data, position)
    try:
        return Pickle(machine.run(), machine.position, machine.storages)
    except WeightsError:
        raise
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise WeightsError(f"the pickle is damaged near byte {machine.position}: {error}") from None


class _Machine:
    """The stack machine that a pickle is a program of."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        while (opcode := self.take(1)) != b".":
            if opcode not in _OPCODES:
                raise WeightsError(f"refused: opcode {opcode!r} is none that weights of PyTorch need")
            _OPCODES[opcode](self)
        return self.stack.pop()

    def take(self, count: int) -> bytes:
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            raise WeightsError(f"the pickle is truncated at byte {len(self.data)}")
        self.position += count
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.position) if b"\n" in self.data[self.position : self.position + 200] else -1
        if end < 0:
            raise WeightsError("the pickle has a name without an end")
        return self.take(end + 1 - self.position)[:-1].decode("ascii")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        """The value on top; None if it is an object whose content is not kept."""
        if type(self.stack[-1]) is Inert:
            return None
        if type(self.stack[-1]) is not kind:
            raise WeightsError(f"refused: {type(self.stack[-1]).__name__} where a checkpoint has a {kind.__name__}")
        return self.stack[-1]

    def set_items(self, flat: list[Any]) -> None:
        mapping = self.top(dict)
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Tuples are no keys: the hash of a tuple of shared tuples may take for ever.
            if type(key) not in _KEYS:
                raise WeightsError(f"refused: a key of type {type(key).__name__}")
            if mapping is None:
                continue
            if key in mapping:
                raise WeightsError(f"the key {key!r} comes twice")
            mapping[key] = value

    def find_name(self) -> None:
        name = _Name(self.line(), self.line())
        if name not in _NAMES:
            raise WeightsError(
                f"refused: the pickle asks for {name.module}.{name.name}, which weights do not need{_ADVICE}"
            )
        self.push(name)

    def build_up(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(name) is not _Name:
            raise WeightsError(f"refused: a call of a {type(name).__name__}")
        if name in _INERT:
            self.push(Inert(f"{name.module}.{name.name}"))
            return
        if name == _MAPPING and arguments == ():
            self.push({})
        elif name in (_TENSOR, _TENSOR_V2) and len(arguments) >= 4 and type(arguments[0]) is Storage:
            self.push(StoredTensor(*arguments[:4]))
        elif name == _PARAMETER and arguments and type(arguments[0]) is StoredTensor:
            self.push(arguments[0])
        else:
            raise WeightsError(f"refused: {name.module}.{name.name} with arguments that a state_dict does not have")

    def find_storage(self) -> None:
        described = self.stack.pop()
        # ("storage", type, key, device, size), and before 2018 a view of another storage or None.
        if type(described) is not tuple or len(described) not in (5, 6) or described[5:] not in ((), (None,)):
            raise WeightsError("refused: a storage that is not described as PyTorch does")
        word, kind, key, _, size = described[:5]
        # The types come first: the hash of a tuple of shared tuples may take for ever.
        if type(kind) is not _Name or kind not in _STORAGES or type(key) is not str or type(size) is not int:
            raise WeightsError("refused: a storage that is not described as PyTorch does")
        if word != "storage":
            raise WeightsError("refused: a storage that is not described as PyTorch does")
        storage = Storage(_STORAGES[kind], key, size)
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsError(f"storage {key} is described in two ways")
        self.push(storage)

    def drop_attributes(self) -> None:
        self.stack.pop()
        self.top(dict)  # the attribute of a state_dict is `_metadata`, the versions of the modules

    def tuple_of(self, count: int) -> None:
        values = tuple(self.stack[len(self.stack) - count :])
        if len(values) < count:
            raise WeightsError("the pickle is damaged: a tuple of more than there is")
        del self.stack[len(self.stack) - count :]
        self.push(values)


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: _check_protocol(m.number("B")),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.take(m.number("<I")).decode("utf-8")),
    b"U": lambda m: m.push(m.take(m.number("B")).decode("latin-1")),
    b"T": lambda m: m.push(m.take(m.number("<I")).decode("latin-1")),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"]": lambda m: m.push([]),
    b"a": lambda m: _append(m, [m.stack.pop()]),
    b"e": lambda m: _append(m, m.since_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"q": lambda m: m.memo.__setitem__(m.number("B"), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.number("<I"), m.stack[-1]),
    b"h": lambda m: m.push(m.memo[m.number("B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": lambda m: m.find_name(),
    b"R": lambda m: m.build_up(),
    b"\x81": lambda m: m.build_up(),
    b"Q": lambda m: m.find_storage(),
    b"b": lambda m: m.drop_attributes(),
}


def _append(machine: _Machine, values: list[Any]) -> None:
    found = machine.top(list)
    if found is not None:
        found.extend(values)


def _check_protocol(protocol: int) -> None:
    if protocol != 2:
        raise WeightsError(f"refused: pickle protocol {protocol}; PyTorch writes a state_dict in protocol 2")
