"""What makes a training that goes on the same training: everything that decides its bits and can be named."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from advjax.data.pipeline import Resident
from advjax.data.stream import Stream
from advjax.fingerprint import fingerprint
from advjax.training.state import TrainState

__all__ = ["identity_of"]


def identity_of(
    config: Mapping[str, Any] | None,
    key: jax.Array,
    batch_size: int,
    data: Resident | Stream,
    states: TrainState,
    validation: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Any]:
    """The JSON values that a checkpoint of this training holds; a `Stream` names itself in its own state.

    The steps to make are not among them: a finished training may go on.
    """
    try:
        # As a checkpoint will give them back: tuples are lists.
        known = json.loads(json.dumps(dict(config or {})))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config must be a mapping of JSON values, got {config!r}: {error}") from error
    identity: dict[str, Any] = {f"config.{name}": setting for name, setting in known.items()}
    identity |= {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "batch_size": batch_size,
        "networks": int(states.step.shape[0]),
        "validation": None if validation is None else [_told(array) for array in validation],
    }
    if isinstance(data, Resident):
        members = data.members if data.members is not None else []
        identity |= {
            "images": _told(data.images),
            "labels": _told(data.labels),
            "members": [_told(np.asarray(member, np.int64)) for member in members],
            "shuffle": data.shuffle,
        }
    return identity


def _told(array: np.ndarray | jax.Array) -> str:
    """Type, shape and fingerprint."""
    return f"{array.dtype}{list(array.shape)} {fingerprint(array)}"
