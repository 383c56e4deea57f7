"""What an evaluation found wrong with a model, said once: not for every batch, attack and restart."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import numpy as np

from advjax.attacks.faults import Fault, model_texts

__all__ = ["model_bits", "naming", "warn_of_models"]

_RANDOM = (
    "the model draws random numbers: an attack climbs one fixed draw, unless it is one on the mean over many "
    "(`expectation_over`), which robustness needs; {answers}"
)


def model_bits(faults: np.ndarray) -> Fault:
    """The faults that any of the results has."""
    return Fault(int(np.bitwise_or.reduce(faults, axis=None, initial=0)))


def warn_of_models(found: Mapping[str, Fault], answers: str, stacklevel: int) -> None:
    """Warns of each fault of each model.

    Args:
      found: the faults by the name that a message begins with, `models['a']`.
      answers: how those of a random model were judged.
      stacklevel: as of `warnings.warn`, from the caller of this function.
    """
    for name, faults in found.items():
        for fault, text in model_texts(faults).items():
            said = _RANDOM.format(answers=answers) if fault is Fault.RANDOM else text
            warnings.warn(f"{name}: {said}", stacklevel=stacklevel + 1)


@contextlib.contextmanager
def naming(part: str) -> Iterator[None]:
    """Errors inside say that they are about `part`, `attacks['fgs']`, whatever raises them."""
    try:
        yield
    except Exception as error:
        if type(error) in (TypeError, ValueError):
            raise type(error)(f"{part}: {error}") from error
        # Other errors may need more than a text to be made.
        error.add_note(f"This happened with {part}.")
        raise
