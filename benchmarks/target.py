"""A network and a batch as each library wants them, other libraries' calls, and what their results are worth."""

import dataclasses
import functools
import importlib
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.entropy import cross_entropies
from benchmarks.floor import operations_of
from benchmarks.harness import Answers, Run
from benchmarks.networks import Known, arrays_of, images_for, network, settle, torch_copy

__all__ = ["Target", "import_peer", "torch_with_all_cores"]


def import_peer(name: str) -> Any:
    """A module of another library, without its warnings: they are of what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def torch_with_all_cores() -> Any:
    """PyTorch, with the threads that XLA has, and on the same device: a GPU where JAX has one, without TF32."""
    torch = import_peer("torch")
    if jax.default_backend() == "gpu":
        torch.set_default_device("cuda")
        torch.backends.cudnn.allow_tf32 = False
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
        images = images_for(known, count)
        settle(known, images)
        return cls(known, images, np.asarray(jnp.argmax(jax.jit(known.classifier)(images), -1), np.int32))

    @functools.cached_property
    def arrays(self) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.images), jnp.asarray(self.labels)

    @functools.cached_property
    def logits(self) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(self.known.classifier)

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
            model, batch = foolbox.PyTorchModel(self.copy, bounds=(0, 1), device=_device()), self.tensors
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
            device_type="gpu" if _device().type == "cuda" else "cpu",
        )
        made = getattr(evasion, attack)(wrapped, **options)
        images, labels = (tensor.cpu().numpy() for tensor in self.tensors)
        return lambda: made.generate(images, labels)

    def adv_lib(self, attack: str, **options: Any) -> Run:
        """adv-lib's attack of this name."""
        attacks, batch = _adv_lib_attacks(), self.tensors
        return lambda: getattr(attacks, attack)(self.copy, *batch, **options)

    def answers(self, result: Any) -> np.ndarray:
        """The network's own logits [B, K] of a result's images."""
        return np.asarray(self.logits(jnp.asarray(self.pixels(result))))

    def pixels(self, result: Any) -> np.ndarray:
        """The images [B, H, W, C] of a `Perturbation`, of a tensor or of an array, in whichever layout."""
        found = getattr(result, "image", result)
        found = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found)
        return found if found.shape == self.images.shape else found.transpose(0, 2, 3, 1)

    def judge(self, epsilon: float = 1.0) -> Callable[[Any], Answers]:
        """The share fooled and the mean loss, for images that must lie in the linf ball and in [0, 1]."""

        def judged(result: Any) -> Answers:
            pixels = self.pixels(result)
            distance, least, most = float(np.abs(pixels - self.images).max()), pixels.min(), pixels.max()
            if not (distance <= epsilon + 1e-5 and least >= 0 and most <= 1):
                raise ValueError(f"images must lie within {epsilon} and [0, 1], got {distance} and [{least}, {most}]")
            logits = self.answers(result)
            losses = cross_entropies(jnp.asarray(logits), self.arrays[1])
            return {"fooled": float(np.mean(logits.argmax(-1) != self.labels)), "loss": float(losses.mean())}

        return judged

    def gradient_operations(self) -> float:
        """Of one plain gradient of the loss of all images with respect to them."""
        classifier, labels = self.known.classifier, self.arrays[1]
        return operations_of(jax.grad(lambda x: cross_entropies(classifier(x), labels).sum()), self.arrays[0])

    def forward_operations(self) -> float:
        """Of the logits of all images."""
        return operations_of(self.known.classifier, self.arrays[0])

    def bytes(self, passes: int) -> float:
        """The weights, and the images in and out, once a pass."""
        weights = sum(array.nbytes for array in arrays_of(self.known.model).values())
        return float(passes * (weights + 2 * self.images.nbytes))


def _device() -> Any:
    return torch_with_all_cores().get_default_device()


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
