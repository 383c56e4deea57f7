"""advjax: an image goes in, a certified perturbation of it comes out, is scored as a person would score it."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from advjax.version import __version__ as __version__

if TYPE_CHECKING:
    from advjax.attacks import (
        Failure,
        Perturbation,
        added,
        apgd,
        auto_attack,
        boundary_attack,
        carlini_wagner,
        ddn,
        deepfool,
        di_fgsm,
        ead,
        estimated,
        expectation_over,
        fab,
        fgs,
        fgv,
        fmn,
        hard_positive,
        homography,
        hop_skip_jump,
        hot_cold,
        hot_cold_sign,
        jsma,
        lbfgs,
        localized_pgd,
        mi_fgsm,
        ni_fgsm,
        one_pixel,
        pasted,
        perturb,
        pgd,
        random_sign,
        si_fgsm,
        spatial,
        square,
        stack,
        steepest,
        targeted,
        ti_fgsm,
        universal_patch,
        universal_perturbation,
        vmi_fgsm,
    )
    from advjax.classifier import Classifier, ensemble, from_function, from_linen, from_nnx

__all__ = [
    "Classifier",
    "Failure",
    "Perturbation",
    "added",
    "apgd",
    "auto_attack",
    "boundary_attack",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "di_fgsm",
    "ead",
    "ensemble",
    "estimated",
    "expectation_over",
    "fab",
    "fgs",
    "fgv",
    "fmn",
    "from_function",
    "from_linen",
    "from_nnx",
    "hard_positive",
    "homography",
    "hop_skip_jump",
    "hot_cold",
    "hot_cold_sign",
    "jsma",
    "lbfgs",
    "localized_pgd",
    "mi_fgsm",
    "ni_fgsm",
    "one_pixel",
    "pasted",
    "perturb",
    "pgd",
    "random_sign",
    "si_fgsm",
    "spatial",
    "square",
    "stack",
    "steepest",
    "targeted",
    "ti_fgsm",
    "universal_patch",
    "universal_perturbation",
    "vmi_fgsm",
]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for: `advjax --help`, or Ctrl-C, need not wait for JAX."""
    if name in __all__:
        for module in ("advjax.attacks", "advjax.classifier"):
            found = importlib.import_module(module)
            if name in found.__all__:
                globals()[name] = getattr(found, name)
                return globals()[name]
    if not name.startswith("_") and importlib.util.find_spec(f"advjax.{name}") is not None:
        return importlib.import_module(f"advjax.{name}")
    raise AttributeError(f"module 'advjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
