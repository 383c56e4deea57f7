"""How our weights are called in published checkpoints: the small language in which each family says it."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from flax import nnx

__all__ = ["Names", "Published", "Source", "caffe_names", "names_of", "plain_names", "torch_name", "weight_paths"]


class Source(NamedTuple):
    """Where one of our arrays comes from.

    Attributes:
        key: the tensor's name in the checkpoint; `layer[i]` is blob i of a Caffe layer.
        flattened: channels, height and width that a fully connected layer's inputs are flattened from, for a layer
            that takes them channels last; the checkpoint has them channels first.
        divisor: the name of a tensor of one number that the tensor is divided by; a number of 0 makes all of it 0.
            Caffe's batch norms keep sums of means and of variances, and what they are sums of.
        less: the name of a tensor of the same shape that is subtracted afterwards: the bias of a convolution, from the
            mean of the batch norm that follows it.
        ours: the tensor is a kernel laid out as ours are, [h, w, in, out], in a file of TensorFlow; a matrix may be a
            convolution of 1x1.
    """

    key: str
    flattened: tuple[int, int, int] | None = None
    divisor: str | None = None
    less: str | None = None
    ours: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of all tensors that the array is made of."""
        return tuple(key for key in (self.key, self.divisor, self.less) if key is not None)


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

    >>> names_of(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), torch_name)["kernel"].key
    'weight'
    """
    return {path: Source(name(path)) for path in weight_paths(model)}


def caffe_names(model: nnx.Module, layer: Callable[[str], str | tuple[str, str]]) -> Names:
    """The spelling of a Caffe network whose batch norms are a BatchNorm layer and a Scale layer each.

    Args:
        model: one of our networks.
        layer: from the path of each of its modules to the name of Caffe's layer, or to both of a batch norm's.

    >>> caffe_names(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), lambda module: "fc")["bias"].key
    'fc[1]'
    """
    names = {}
    for path in weight_paths(model):
        module, _, leaf = path.rpartition("/")
        found = layer(module)
        if isinstance(found, str):
            names[path] = Source(f"{found}[{('kernel', 'bias').index(leaf)}]")
        elif leaf in ("mean", "var"):
            norm, _ = found
            names[path] = Source(f"{norm}[{('mean', 'var').index(leaf)}]", divisor=f"{norm}[2]")
        else:
            _, scale = found
            names[path] = Source(f"{scale}[{('scale', 'bias').index(leaf)}]")
    return names


# Components that PyTorch's wrappers put into names: (Distributed)DataParallel, AveragedModel; torch.compile.
_WRAPPERS = ("module", "_orig_mod")


def plain_names(keys: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """What the tensors of a PyTorch checkpoint are called without the wrappers that the network was trained in.

    The components `module` and `_orig_mod` fall away wherever they stand, and then as many components that begin all
    keys ("model.", "net.backbone.") as make the most keys meet `wanted`.

    >>> plain_names(["module.net.fc.bias", "module.net.fc.weight"], ["fc.weight", "fc.bias"])
    {'module.net.fc.bias': 'fc.bias', 'module.net.fc.weight': 'fc.weight'}
    """
    parts = {key: [part for part in key.split(".") if part not in _WRAPPERS] for key in keys}
    shortest = min((len(each) for each in parts.values()), default=0)
    first = next(iter(parts.values()), [])
    shared = 0
    while shared + 1 < shortest and all(each[shared] == first[shared] for each in parts.values()):
        shared += 1
    wanted = set(wanted)
    candidates = [{key: ".".join(each[start:]) for key, each in parts.items()} for start in range(shared + 1)]
    return max(candidates, key=lambda names: len(wanted & set(names.values())))
