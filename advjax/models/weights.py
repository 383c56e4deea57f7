"""Weights from files: published checkpoints into our networks, checked key by key, and our own saved and loaded."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.models.checkpoint_names import Names, Published, Source, weight_paths
from advjax.models.readers import WeightsError, read_caffemodel, read_safetensors, read_torch, write_safetensors

__all__ = ["WeightsError", "load", "load_weights", "save"]

M = TypeVar("M", bound=nnx.Module)
S = TypeVar("S")

_READERS: dict[str, tuple[str, Callable[[Path], dict[str, np.ndarray]]]] = {
    ".safetensors": ("torch", read_safetensors),
    ".pth": ("torch", read_torch),
    ".pt": ("torch", read_torch),
    ".bin": ("torch", read_torch),
    ".caffemodel": ("caffe", read_caffemodel),
}
# PyTorch's batch norms count the batches they saw in training; nothing reads the count where momentum is fixed.
_IGNORED = "num_batches_tracked"
_LISTED = 20


def load_weights(model: M, path: str | Path) -> M:
    """The network with the weights of a published checkpoint.

    Read are state_dicts of torchvision and timm (`.safetensors`, `.pth`, `.pt`, `.bin`) and Caffe's `.caffemodel`.
    PyTorch is not needed, and nothing in a file is executed. Kernels turn from [out, in, h, w] to [h, w, in, out],
    matrices from [out, in] to [in, out]; float16, bfloat16 and float64 become the network's float32.

    Every tensor of the file must be used once and every weight of the network be found, with its shape; tensors called
    num_batches_tracked are ignored. Infinite numbers, NaN and float64 beyond float32 are refused.

    Args:
        model: a network of `advjax.models`, which is left as it was. What `nnx.eval_shape` makes will do and takes no
            time; the keys of its dropout then come from seed 0.
        path: the file; its suffix says the format.

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
    if path.suffix not in _READERS:
        raise WeightsError(f"path must end in one of {', '.join(_READERS)}, got {path.name}")
    kind, read = _READERS[path.suffix]
    spellings = model.checkpoint_names(kind)
    if not spellings:
        raise WeightsError(f"{type(model).__name__} with these options has no published {path.suffix} files")
    tensors = {key: tensor for key, tensor in read(path).items() if key.rsplit(".", 1)[-1] != _IGNORED}
    names = max(spellings, key=lambda names: sum(source.key in tensors for source in names.values()))
    shapes = {name: leaf.shape for name, leaf in _weights(model).items()}
    arrays = {
        name: _as_ours(tensors[source.key], name, shapes[name], source)
        for name, source in names.items()
        if source.key in tensors
    }
    _check(path, names, shapes, tensors, arrays)
    found = {name: array for name, array in arrays.items() if array is not None}
    _check_finite(path, names, found)
    return _replaced(model, found)


def save(model: nnx.Module, path: str | Path) -> None:
    """Writes all variables of a network but its random streams to a `.safetensors` file, under their NNX paths.

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
    _check(Path(path), names, {name: leaf.shape for name, leaf in wanted.items()}, tensors, arrays)
    return _replaced(model, {name: array for name, array in arrays.items() if array is not None})


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


def _as_ours(tensor: np.ndarray, name: str, shape: tuple[int, ...], source: Source) -> np.ndarray | None:
    """The tensor turned to our layout; None if it is not of the shape or not of a floating type."""
    if tensor.size != math.prod(shape) or not jnp.issubdtype(tensor.dtype, jnp.floating):
        return None
    if name.rsplit("/", 1)[-1] != "kernel":
        return tensor if tensor.shape == shape else None
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
    tensors: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray | None],
) -> None:
    missing = [source.key for source in names.values() if source.key not in tensors]
    left_over = sorted(set(tensors) - {source.key for source in names.values()})
    other = [
        f"{names[name].key} {tensors[names[name].key].shape} {tensors[names[name].key].dtype} for {name} {shapes[name]}"
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
