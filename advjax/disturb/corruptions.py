"""The common corruptions of Hendrycks and Dietterich 2019 by name, at their five severities."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from advjax.disturb.blur import DefocusBlur, MotionBlur
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.jpeg import Jpeg
from advjax.disturb.noise import GaussianNoise, ImpulseNoise, ShotNoise
from advjax.disturb.pixelate import Pixelate
from advjax.disturb.tone import Brightness, Contrast

__all__ = ["CORRUPTIONS", "Scale", "corruption"]

Scale: TypeAlias = Literal["imagenet", "cifar"]

# What each is made with at severities 1 to 5: of ImageNet-C, for photographs of 224x224; of CIFAR-10-C, for 32x32.
_SETTINGS: dict[str, tuple[Callable[..., Disturbance], dict[str, tuple[Any, ...]]]] = {
    "gaussian_noise": (
        GaussianNoise,
        {"imagenet": (0.08, 0.12, 0.18, 0.26, 0.38), "cifar": (0.04, 0.06, 0.08, 0.09, 0.10)},
    ),
    "shot_noise": (ShotNoise, {"imagenet": (60, 25, 12, 5, 3), "cifar": (500, 250, 100, 75, 50)}),
    "impulse_noise": (
        ImpulseNoise,
        {"imagenet": (0.03, 0.06, 0.09, 0.17, 0.27), "cifar": (0.01, 0.02, 0.03, 0.05, 0.07)},
    ),
    "defocus_blur": (
        DefocusBlur,
        {
            "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        },
    ),
    "motion_blur": (
        MotionBlur,
        {
            "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        },
    ),
    "brightness": (Brightness, {"imagenet": (0.1, 0.2, 0.3, 0.4, 0.5), "cifar": (0.05, 0.1, 0.15, 0.2, 0.3)}),
    "contrast": (Contrast, {"imagenet": (0.4, 0.3, 0.2, 0.1, 0.05), "cifar": (0.75, 0.5, 0.4, 0.3, 0.15)}),
    "pixelate": (Pixelate, {"imagenet": (0.6, 0.5, 0.4, 0.3, 0.25), "cifar": (0.95, 0.9, 0.85, 0.75, 0.65)}),
    "jpeg": (Jpeg, {"imagenet": (25, 18, 15, 10, 7), "cifar": (80, 65, 58, 50, 40)}),
}

CORRUPTIONS = tuple(_SETTINGS)
"""Their names."""


def corruption(name: str, severity: int, scale: Scale = "imagenet") -> Disturbance:
    """The corruption of a name (see `CORRUPTIONS`) and severity, a disturbance like any other.

    Args:
        name: one of `CORRUPTIONS`.
        severity: 1 (weak) to 5.
        scale: whose constants: "imagenet" for photographs of 224x224, "cifar" for images of 32x32. Images of other
            sizes are taken too.

    The published sets hold these images cut (not rounded) to 8 bits, those of ImageNet saved as JPEG files of quality
    85 besides; here they are the numbers themselves. Their draws are others.

    Raises:
        ValueError: a name, severity or scale that there is not.

    Source: Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations; the constants of their code.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.full((2, 32, 32, 3), 0.5)
    >>> corruption("contrast", 3, "cifar")(jax.random.key(0), images).shape
    (2, 32, 32, 3)
    """
    if name not in _SETTINGS:
        raise ValueError(f"name must be one of {', '.join(CORRUPTIONS)}, got {name!r}")
    make, settings = _SETTINGS[name]
    if scale not in settings:
        raise ValueError(f"scale must be one of {', '.join(settings)}, got {scale!r}")
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be an integer from 1 to 5, got {severity!r}")
    setting = settings[scale][severity - 1]
    return make(*setting) if isinstance(setting, tuple) else make(setting)
