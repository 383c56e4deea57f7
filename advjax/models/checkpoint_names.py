"""How our weights are called in published checkpoints: the small language in which each family says it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from flax import nnx

__all__ = ["Names", "Published", "Source", "names_of", "torch_name", "weight_paths"]


class Source(NamedTuple):
    """Where one of our arrays comes from.

    Attributes:
        key: the tensor's name in the checkpoint; `layer[i]` is blob i of a Caffe layer.
        flattened: channels, height and width that a fully connected layer's inputs are flattened from, for a layer
            that takes them channels last; the checkpoint has them channels first.
    """

    key: str
    flattened: tuple[int, int, int] | None = None


Names = Mapping[str, Source]
"""From the path of each of our weights (`layer1/0/conv1/kernel`) to its source."""


@runtime_checkable
class Published(Protocol):
    """A network that published checkpoints exist for."""

    def checkpoint_names(self, kind: str) -> list[Names]:
        """The spellings in use in checkpoints of `kind` ("torch" or "caffe"); none where there are no such files."""


_TORCH = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def torch_name(path: str) -> str:
    """PyTorch's name for a weight of a network whose modules are called alike.

    >>> torch_name("layer1/0/bn1/var"), torch_name("fc/kernel")
    ('layer1.0.bn1.running_var', 'fc.weight')
    """
    *modules, leaf = path.split("/")
    return ".".join([*modules, _TORCH.get(leaf, leaf)])


def weight_paths(model: nnx.Module) -> list[str]:
    """The paths of all variables of a network but its random streams, parts joined by "/".

    >>> weight_paths(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    ['bias', 'kernel']
    """
    weights = nnx.state(model, nnx.Not(nnx.RngState))
    return ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(weights)]


def names_of(model: nnx.Module, name: Callable[[str], str]) -> Names:
    """The spelling that `name` gives to each path of `model`.

    >>> names_of(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), torch_name)["kernel"]
    Source(key='weight', flattened=None)
    """
    return {path: Source(name(path)) for path in weight_paths(model)}
