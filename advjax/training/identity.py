"""What makes a training that goes on the same training: everything that decides its bits and can be named."""

import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from advjax.data.pipeline import Resident, Stream
from advjax.training.state import TrainState

__all__ = ["check_identity", "identity_of"]


def identity_of(
    config: Mapping[str, Any] | None, key: jax.Array, batch_size: int, data: Resident | Stream, states: TrainState
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
    }
    if isinstance(data, Resident):
        members = data.members if data.members is not None else []
        identity |= {
            "images": list(data.images.shape),
            "labels": zlib.crc32(np.asarray(data.labels).tobytes()),
            "members": zlib.crc32(b"".join(np.asarray(member, np.int64).tobytes() for member in members)),
            "shuffle": data.shuffle,
        }
    return identity


def check_identity(old: Mapping[str, Any], new: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Raises ValueError if the checkpoint in `folder` is of another training, saying what differs."""
    names = list(dict.fromkeys([*old, *new]))
    changed = [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]
    if changed:
        raise ValueError(
            f"the folder {folder} holds another training ({'; '.join(changed)}): choose another folder, "
            "or remove that one"
        )
