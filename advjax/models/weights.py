"""Weights from files: published checkpoints into our networks, checked key by key, and our own saved and loaded."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.models.checkpoint_names import Names, Published, Source, plain_names, weight_paths
from advjax.models.readers import (
    WeightsError,
    read_caffemodel,
    read_npz,
    read_safetensors,
    read_torch,
    write_safetensors,
)

__all__ = ["WeightsError", "load", "load_weights", "save"]

M = TypeVar("M", bound=nnx.Module)
S = TypeVar("S")
Tensors = Mapping[str, np.ndarray]

_OTHERS: dict[str, tuple[str, Callable[[Path], dict[str, np.ndarray]]]] = {
    ".safetensors": ("torch", read_safetensors),
    ".npz": ("torch", read_npz),
    ".caffemodel": ("caffe", read_caffemodel),
}
_OF_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar")
# Batch norms count the batches that they saw and averaged networks those they are averages of; nothing reads the count.
_IGNORED = ("num_batches_tracked", "n_averaged")
_LISTED = 20


def load_weights(model: M, path: str | Path, *, entry: str | None = None, drop: str | Sequence[str] = ()) -> M:
    """The network with the weights of a published checkpoint, or of one that a training program left.

    Read are, by their suffixes,

    - `.safetensors` and `.pth`, `.pt`, `.bin`, `.ckpt`, `.th`, `.pth.tar`: state_dicts of torchvision and timm, also
      inside the dictionary of a training program (`{"state_dict": ..., "optimizer": ...}`, `{"model": ...}`), and with
      what wrappers put into their names: "module.", "_orig_mod." and any beginning of all names, as "model.";
    - `.npz`: the same names and layouts as NumPy arrays, also Caffe's LeNet and SqueezeNet by the names of their
      layers, and into MobileNets made with `tflite=True` the layers of Google's TensorFlow Lite files;
    - `.caffemodel`, of both formats: BVLC's LeNet and GoogLeNet, and into networks made with `caffe=True` VGG-16,
      SqueezeNet 1.0, ResNet-50, -101 and -152, DenseNet-169, SE-ResNet-50 and SENet-154 as their authors published
      them.

    PyTorch is not needed, and nothing in a file is executed. Kernels turn from [out, in, h, w] to [h, w, in, out],
    matrices from [out, in] to [in, out]; float8, float16, bfloat16 and float64 become the network's float32. Caffe's
    sums of means and variances become means and variances.

    Every tensor of the file must be used once or be named in `drop`, and every weight of the network be found, with its
    shape; tensors called num_batches_tracked and n_averaged are ignored. Infinite numbers, NaN and float64 beyond
    float32 are refused.

    Args:
        model: a network of `advjax.models`, which is left as it was. What `nnx.eval_shape` makes will do and takes no
            time; the keys of its dropout then come from seed 0.
        path: the file; its suffix says the format.
        entry: which state_dict of a training checkpoint, where it holds several ("state_dict_ema").
        drop: names of tensors to leave out, or patterns of them ("AuxLogits.*", "loss1/*"; `*`, `?` and `[...]` as in
            `fnmatch`), as they are called in the file. Each must be there.

    Raises:
        TypeError: `model` is no network that checkpoints are published for.
        WeightsError: the file is damaged or hostile, or its tensors are not those of the network; lists what is
            missing, what is left over, what has another shape and what is not finite.

    >>> import tempfile
    >>> from advjax.models.resnet import ResNet
    >>> small = nnx.eval_shape(lambda: ResNet((1, 1, 1, 1), 10, width=1, rngs=nnx.Rngs(0)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_safetensors(Path(folder, "some.safetensors"), {"fc.weight": np.ones((10, 7), np.float32)})
    ...     load_weights(small, Path(folder, "some.safetensors"))
    Traceback (most recent call last):
    advjax.models.readers.errors.WeightsError: ...
    86 weights of the network are missing: bn1.bias, bn1.running_mean, ...
    1 tensors have another shape or type: fc.weight (10, 7) float32 for fc/kernel (32, 10)
    """
    path = Path(path)
    if not isinstance(model, Published):
        raise TypeError(f"model must be a network that checkpoints are published for, got {type(model).__name__}")
    kind = _kind(path)
    spellings = model.checkpoint_names(kind)
    if not spellings:
        raise WeightsError(_no_spelling(model, path))
    tensors = _without(path, _read(path, entry), (drop,) if isinstance(drop, str) else drop)
    called = {key: key for key in tensors}
    if kind == "torch":
        called = _unwrapped(path, tensors, spellings)
        tensors = {name: tensors[key] for name, key in called.items()}
    names = max(spellings, key=lambda names: len(set(tensors) & _keys(names)))
    shapes = {name: leaf.shape for name, leaf in _weights(model).items()}
    arrays = {
        name: _as_ours(tensors, name, shapes[name], source)
        for name, source in names.items()
        if all(key in tensors for key in source.keys)
    }
    _check(path, names, shapes, tensors, arrays, called)
    found = {name: array for name, array in arrays.items() if array is not None}
    _check_finite(path, names, found)
    return _replaced(model, found)


def save(model: nnx.Module, path: str | Path) -> None:
    """Writes all variables of a network but its random streams to a `.safetensors` file, under their NNX paths.

    The file is written whole or not at all: what stood at `path` stands there until all of the new one is on the disk,
    and still does after a full disk or an interruption.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), f"{folder}/linear.safetensors")
    ...     load(nnx.Linear(2, 3, rngs=nnx.Rngs(1)), f"{folder}/linear.safetensors").kernel.shape
    (2, 3)
    """
    write_safetensors(_own(path), {name: np.asarray(leaf) for name, leaf in _weights(model).items()})


def load(model: M, path: str | Path) -> M:
    """The network with the weights that `save` wrote, bit by bit; `model` is left as it was.

    Raises:
        WeightsError: the file is damaged, or names, shapes or types are not those of the network.
    """
    tensors, wanted = read_safetensors(_own(path)), _weights(model)
    names = {name: Source(name) for name in wanted}
    arrays = {
        name: tensors[name] if (tensors[name].shape, tensors[name].dtype) == (leaf.shape, leaf.dtype) else None
        for name, leaf in wanted.items()
        if name in tensors
    }
    shapes = {name: leaf.shape for name, leaf in wanted.items()}
    _check(Path(path), names, shapes, tensors, arrays, {name: name for name in tensors})
    return _replaced(model, {name: array for name, array in arrays.items() if array is not None})


def _kind(path: Path) -> str:
    if path.suffix in _OF_TORCH:
        return "torch"
    if path.suffix in _OTHERS:
        return _OTHERS[path.suffix][0]
    raise WeightsError(f"path must end in one of {', '.join([*_OTHERS, *_OF_TORCH])}, got {path.name}")


def _no_spelling(model: Published, path: Path) -> str:
    name, kinds = type(model).__name__, {"torch": ".safetensors, .npz or .pth", "caffe": ".caffemodel"}
    read = [suffixes for kind, suffixes in kinds.items() if model.checkpoint_names(kind)]
    only = f", only {' and '.join(read)}" if read else ""
    options = {name: getattr(model, name) for name in ("caffe", "tflite") if hasattr(model, name)}
    hint = "".join(f"; with {name}={not value} it does" for name, value in options.items())
    return f"{name} with these options reads no {path.suffix} files{only}{hint}"


def _read(path: Path, entry: str | None) -> dict[str, np.ndarray]:
    if path.suffix in _OF_TORCH:
        tensors = read_torch(path, entry)
    elif entry is None:
        tensors = _OTHERS[path.suffix][1](path)
    else:
        raise WeightsError(f"entry must be None for {path.suffix} files, which hold one set of weights, got {entry!r}")
    return {key: tensor for key, tensor in tensors.items() if key.rsplit(".", 1)[-1] not in _IGNORED}


def _without(path: Path, tensors: Tensors, drop: Sequence[str]) -> Tensors:
    def named(key: str, pattern: str) -> bool:
        return key == pattern or fnmatch.fnmatchcase(key, pattern)  # a Caffe blob's name, "fc[0]", is no pattern of it

    idle = [pattern for pattern in drop if not any(named(key, pattern) for key in tensors)]
    if idle:
        some = ", ".join(sorted(tensors)[:_LISTED])
        raise WeightsError(f"drop must name tensors of {path}, which has none called {', '.join(idle)} but {some}, ...")
    return {key: tensor for key, tensor in tensors.items() if not any(named(key, pattern) for pattern in drop)}


def _unwrapped(path: Path, tensors: Tensors, spellings: Sequence[Names]) -> dict[str, str]:
    """From the names without wrappers to those in the file."""
    plain = plain_names(tensors, set().union(*map(_keys, spellings)))
    called: dict[str, str] = {}
    for key, name in plain.items():
        if called.setdefault(name, key) != key:
            raise WeightsError(f"{path} holds {called[name]} and {key}, which both are {name}: drop one of them")
    return called


def _keys(names: Names) -> set[str]:
    return {key for source in names.values() for key in source.keys}


def _own(path: str | Path) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    return Path(path)


def _weights(model: nnx.Module) -> dict[str, jax.Array]:
    weights = nnx.state(model, nnx.Not(nnx.RngState))
    return dict(zip(weight_paths(model), jax.tree.leaves(weights), strict=True))


def _replaced(model: M, arrays: Mapping[str, np.ndarray]) -> M:
    graphdef, *variables = nnx.split(model, nnx.Not(nnx.RngState), ...)
    weights, streams = variables
    leaves, structure = jax.tree.flatten(weights)
    new = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in zip(weight_paths(model), leaves, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, new), _started(streams), copy=True)


def _started(streams: S) -> S:
    """Random streams with a key each: those that `nnx.eval_shape` left without one get one of seed 0."""
    leaves, structure = jax.tree.flatten(streams)
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            leaves[index] = (
                jax.random.fold_in(jax.random.key(0), index) if is_key else jnp.zeros(leaf.shape, leaf.dtype)
            )
    return jax.tree.unflatten(structure, leaves)


def _as_ours(tensors: Tensors, name: str, shape: tuple[int, ...], source: Source) -> np.ndarray | None:
    """The tensor turned to our layout; None if it is not of the shape or not of a floating type."""
    tensor = tensors[source.key]
    if tensor.size != math.prod(shape) or not all(
        jnp.issubdtype(tensors[key].dtype, jnp.floating) for key in source.keys
    ):
        return None
    if source.divisor is not None:
        number = tensors[source.divisor]
        if number.size != 1:
            return None
        with np.errstate(all="ignore"):  # what is not finite is refused later, by name
            tensor = tensor / number.ravel()[0] if number.any() else np.zeros_like(tensor)
    if source.less is not None:
        if tensors[source.less].shape != tensor.shape:
            return None
        tensor = tensor - tensors[source.less]
    if name.rsplit("/", 1)[-1] != "kernel":
        return tensor if tensor.shape == shape else None
    if source.ours:
        return tensor.reshape(shape) if tensor.shape in (shape, (1, 1, *shape)) else None
    if len(shape) == 4:
        return tensor.transpose(2, 3, 1, 0) if tensor.shape == (shape[3], shape[2], *shape[:2]) else None
    # A matrix, or the same numbers as a convolution over the whole of the features that it reads.
    if len(shape) != 2 or tensor.ndim not in (2, 4) or len(tensor) != shape[1]:
        return None
    if source.flattened is not None:
        tensor = tensor.reshape(shape[1], *source.flattened).transpose(0, 2, 3, 1)
    return tensor.reshape(shape[1], shape[0]).T


def _check(
    path: Path,
    names: Names,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    arrays: Mapping[str, np.ndarray | None],
    called: Mapping[str, str],
) -> None:
    """Raises unless each array is there; `called` says what the tensors are called in the file."""
    wanted = {key: None for source in names.values() for key in source.keys}
    missing = [key for key in wanted if key not in tensors]
    left_over = sorted(called[key] for key in tensors if key not in wanted)
    other = [
        " and ".join(f"{called[key]} {tensors[key].shape} {tensors[key].dtype}" for key in names[name].keys)
        + f" for {name} {shapes[name]}"
        for name, array in arrays.items()
        if array is None
    ]
    lines = [
        f"{len(found)} {what}: {', '.join(found[:_LISTED])}" + (", ..." if len(found) > _LISTED else "")
        for found, what in (
            (missing, "weights of the network are missing"),
            (left_over, "tensors of the file are left over"),
            (other, "tensors have another shape or type"),
        )
        if found
    ]
    if lines:
        raise WeightsError("\n".join([f"{path} does not hold the weights of this network", *lines]))


def _check_finite(path: Path, names: Names, arrays: Mapping[str, np.ndarray]) -> None:
    with np.errstate(over="ignore"):
        wild = [names[name].key for name, array in arrays.items() if not np.isfinite(array.astype(np.float32)).all()]
    if wild:
        raise WeightsError(f"{path} holds numbers that are not finite in float32: {', '.join(wild[:_LISTED])}")
