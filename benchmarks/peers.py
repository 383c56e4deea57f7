"""What other libraries need for the same attack: the network's copy, the batch in their layout, and their calls."""

import dataclasses
import functools
import importlib
import os
import sys
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Run
from benchmarks.networks import Known, images_for, network, torch_copy

__all__ = ["Target", "import_peer", "torch_with_all_cores"]


def import_peer(name: str) -> Any:
    """A module of another library, without its warnings: they are of what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def torch_with_all_cores() -> Any:
    """PyTorch, with the threads that XLA has."""
    torch = import_peer("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return torch


@dataclasses.dataclass
class Target:
    """A network with images float32 [B, H, W, C] and its own answers as labels int32 [B], for JAX and for PyTorch."""

    known: Known
    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, name: str, count: int) -> "Target":
        known = network(name)
        return cls(known, *images_for(known, count))

    @functools.cached_property
    def arrays(self) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.images), jnp.asarray(self.labels)

    @functools.cached_property
    def copy(self) -> Any:
        torch_with_all_cores()
        return torch_copy(self.known)

    @functools.cached_property
    def tensors(self) -> tuple[Any, Any]:
        torch = torch_with_all_cores()
        return torch.tensor(self.images.transpose(0, 3, 1, 2).copy()), torch.tensor(self.labels).long()

    def foolbox(self, attack: str, on_jax: bool = False, *, epsilon: float | None = None, **options: Any) -> Run:
        """Foolbox's attack of this name, on the PyTorch copy or on the jitted network itself."""
        foolbox = import_peer("foolbox")
        made = getattr(foolbox.attacks, attack)(**options)
        if on_jax:
            model, batch = foolbox.JAXModel(jax.jit(self.known.classifier), bounds=(0, 1)), self.arrays
        else:
            model, batch = foolbox.PyTorchModel(self.copy, bounds=(0, 1), device="cpu"), self.tensors
        return lambda: made(model, *batch, epsilons=epsilon)[1]

    def torchattacks(self, attack: str, **options: Any) -> Run:
        """torchattacks' attack of this name."""
        made = getattr(import_peer("torchattacks"), attack)(self.copy, **options)
        return lambda: made(*self.tensors)

    def art(self, attack: str, **options: Any) -> Run:
        """The Adversarial Robustness Toolbox's attack of this name on the PyTorch copy; it takes NumPy arrays."""
        torch, evasion = torch_with_all_cores(), import_peer("art.attacks.evasion")
        wrapped = import_peer("art.estimators.classification").PyTorchClassifier(
            self.copy,
            torch.nn.CrossEntropyLoss(),
            self.tensors[0].shape[1:],
            int(self.copy(self.tensors[0][:1]).shape[-1]),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        made = getattr(evasion, attack)(wrapped, **options)
        images, labels = (tensor.numpy() for tensor in self.tensors)
        return lambda: made.generate(images, labels)

    def adv_lib(self, attack: str, **options: Any) -> Run:
        """adv-lib's attack of this name."""
        attacks, batch = _adv_lib_attacks(), self.tensors
        return lambda: getattr(attacks, attack)(self.copy, *batch, **options)

    def answers(self, result: Any) -> np.ndarray:
        """The network's own logits [B, K] of a result's images."""
        return np.asarray(jax.jit(self.known.classifier)(jnp.asarray(self.pixels(result))))

    def pixels(self, result: Any) -> np.ndarray:
        """The images [B, H, W, C] of a `Perturbation`, of a tensor or of an array, in whichever layout."""
        found = np.asarray(getattr(result, "image", result))
        return found if found.shape == self.images.shape else found.transpose(0, 2, 3, 1)


def _adv_lib_attacks() -> Any:
    """adv-lib's attacks, without what it imports for plots and perceptual distances.

    Its dependency visdom 0.2.4 has no wheel and does not build with today's setuptools: `pip install --no-deps`.
    """
    for name in ("visdom", "torchvision"):
        try:
            import_peer(name)
        except (ImportError, RuntimeError):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].models = None
    return import_peer("adv_lib.attacks")
