"""The networks that are attacked and trained here, and their copies in PyTorch: same weights, equal logits."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from advjax import Classifier, from_nnx
from advjax.data import load
from advjax.models import NETWORKS
from advjax.models.blocks import IMAGENET_MEAN, IMAGENET_STD, conv, normalize
from advjax.models.checkpoint_names import Names, names_of, torch_name
from advjax.models.layers import batch_norm, fan_in_uniform
from advjax.models.weights import load_weights

__all__ = ["Known", "arrays_of", "images_for", "network", "settle", "torch_copy"]


class Known(NamedTuple):
    """A network, the shape [H, W, C] of its images, and what is to be said of its weights."""

    name: str
    model: nnx.Module
    shape: tuple[int, int, int]
    weights: str

    @property
    def classifier(self) -> Classifier:
        """The network in evaluation mode."""
        return from_nnx(self.model)


_FILES = {"lenet": "caffe_lenet_iter_10000.npz", "resnet20": "resnet20.npz"}


def network(name: str, seed: int | None = None) -> Known:
    """A network of the library by the registry's name, or "resnet20".

    Without a seed LeNet and ResNet-20 read published weights, where these are found; with one, training starts there.
    """
    make, shape = (ResNet20, (32, 32, 3)) if name == "resnet20" else (NETWORKS[name].make, NETWORKS[name].shape)
    # The generator `rbg` compiles several times faster than the usual one.
    first = 0 if seed is None else seed
    model = make(rngs=nnx.Rngs(jax.random.key(first, impl="rbg"), dropout=first))
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nnx.Dropout):
            part.rate = 0.0  # two libraries draw other masks: their results could not be compared
    known = Known(name, model, shape, "random weights")
    return _published(known, _FILES[name]) if seed is None and name in _FILES else known


def images_for(known: Known, count: int) -> np.ndarray:
    """Images float32 [B, H, W, C] on the grid k/255.

    The first test images where TFDS_DATA_DIR names a folder that has them; photographs where ADVJAX_IMAGENET_SAMPLES
    names a folder; else random ones.
    """
    stored = {(28, 28, 1): "mnist", (32, 32, 3): "cifar10"}.get(known.shape, "")
    photographs = sorted(Path(os.environ.get("ADVJAX_IMAGENET_SAMPLES") or os.devnull).glob("*.jpg"))
    if stored and Path(os.environ.get("TFDS_DATA_DIR") or os.devnull, stored).is_dir():
        levels = load(stored, "test").images[:count]
    elif known.shape == (224, 224, 3) and len(photographs) >= count:
        levels = np.stack([_central_crop(path) for path in photographs[:count]])
    else:
        levels = np.random.default_rng(0).integers(0, 256, (count, *known.shape))
    return (levels / np.float32(255)).astype(np.float32)


def settle(known: Known, images: np.ndarray) -> None:
    """Lets the batch norms of random weights know the images: else the signal dies or explodes on its way."""
    if known.weights.startswith("random"):
        known.model.train(momentum=0.0)
        nnx.jit(lambda model: model(jnp.asarray(images)))(known.model)
        known.model.eval(momentum=0.9)


def _central_crop(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    left, top = ((side - 224) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


class ResNet20(nnx.Module):
    """ResNet-20 for CIFAR-10 (He et al. 2016, sec. 4.2), option A, as in akamaster/pytorch_resnet_cifar10."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv1, self.bn1 = conv(3, 16, 3, rngs=rngs), batch_norm(16, rngs=rngs)
        inputs = 16
        for stage in (1, 2, 3):
            outputs, blocks = 8 * 2**stage, []
            for index in range(3):
                blocks.append(_Block(inputs, outputs, 2 if stage > 1 and index == 0 else 1, rngs))
                inputs = outputs
            setattr(self, f"layer{stage}", nnx.List(blocks))
        uniform = fan_in_uniform(64)
        self.linear = nnx.Linear(64, 10, kernel_init=uniform, bias_init=uniform, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(normalize(images, IMAGENET_MEAN, IMAGENET_STD))))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                x = block(x)
        return self.linear(x.mean((1, 2)))

    def checkpoint_names(self, kind: str) -> list[Names]:
        return [names_of(self, torch_name)] if kind == "torch" else []


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride, rngs=rngs), batch_norm(outputs, rngs=rngs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, rngs=rngs), batch_norm(outputs, rngs=rngs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        more = ((0, 0), (0, 0), (0, 0), (self.more, self.more))
        shortcut = jnp.pad(x[:, :: self.stride, :: self.stride], more)
        x = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        return nnx.relu(x + shortcut)


def _published(known: Known, file: str) -> Known:
    """The network with the weights of a file below $ADVJAX_NETWORKS, if it is there."""
    folder = os.environ.get("ADVJAX_NETWORKS")
    files = sorted(Path(folder).rglob(file)) if folder else []
    if not files:
        return known._replace(weights=f"random weights (no {file} below ADVJAX_NETWORKS)")
    return known._replace(model=load_weights(known.model, files[0]), weights="published weights")


def torch_copy(known: Known) -> Any:
    """The network in PyTorch, in evaluation mode, images [B, C, H, W]; its logits are checked to be equal.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: the logits differ.
    """
    import torch

    from benchmarks.torch_networks import Copy

    copy = Copy(known.name, arrays_of(known.model)).eval().requires_grad_(False)
    images = images_for(known, 8)
    ours = np.asarray(jax.jit(known.classifier)(images))
    with torch.no_grad():
        theirs = copy(torch.tensor(images.transpose(0, 3, 1, 2).copy())).cpu().numpy()
    if (apart := np.abs(ours - theirs).max()) > 1e-3 * np.abs(ours).max():
        raise ValueError(f"{known.name}'s copy in PyTorch must give the same logits, got some {apart:.2g} apart")
    return copy


def arrays_of(model: nnx.Module, kinds: Any = (nnx.Param, nnx.BatchStat)) -> dict[str, np.ndarray]:
    """Parameters and batch statistics by name, "conv1/kernel" and so on."""
    return {
        "/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model, kinds))
    }
