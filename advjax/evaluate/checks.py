"""Checks of what a user hands to an evaluation, before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Stack
from advjax.attacks.checks import check_inputs
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batch, Batches, slice_attack
from advjax.evaluate.cell import CLEAN
from advjax.evaluate.findings import naming

__all__ = ["check_attack", "check_attacks", "check_key", "check_models", "check_pass"]

_PASS_SIDE = 11  # of SSIM's window


def check_models(models: Mapping[str, Classifier], batches: Batches) -> None:
    """Raises unless `models` maps names to classifiers of these images into one number of classes."""
    _check_names("models", models, "Classifier")
    shape = (batches.padded, *batches.images.shape[1:])
    counts = {name: _classes(name, classifier, shape) for name, classifier in models.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"models must all have the same number of classes, got {counts}")
    classes = next(iter(counts.values()))
    if batches.labels.max() >= classes:
        raise ValueError(f"data: labels must be classes from 0 to {classes - 1}, got {batches.labels.max()}")


def check_attacks(
    attacks: Mapping[str, Attack | Stack], models: Mapping[str, Classifier], batches: Batches, key: jax.Array
) -> None:
    """Raises unless `attacks` maps names to attacks that fit the data and the models."""
    _check_names("attacks", attacks, "attack")
    if CLEAN in attacks:
        raise ValueError(f'attacks must not use the name "{CLEAN}": clean images are always measured, under it')
    batch = batches[0]
    for name, attack in attacks.items():
        with naming(f"attacks[{name!r}]"):
            check_attack(attack, models, batches, batch, key)


def check_attack(
    attack: Attack | Stack, models: Mapping[str, Classifier], batches: Batches, batch: Batch, key: jax.Array
) -> None:
    """Raises unless `attack` fits the data and the models; `batch` is one of the batches."""
    own = slice_attack(attack, len(batches.labels), batch.rows)
    for classifier in models.values():
        check_inputs(own, classifier, batch.images, batch.labels, batches.keys(key, batch.rows))


def check_key(key: Any) -> None:
    """Raises unless `key` is one new-style key."""
    wanted = "key must be jax.random.key(seed)"
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        got = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array | np.ndarray) else type(key).__name__
        raise TypeError(f"{wanted}, got {got}")
    if key.shape:
        raise ValueError(f"{wanted}, got an array of keys of shape {key.shape}")


def check_pass(images: np.ndarray) -> None:
    """Raises unless PASS can be measured on images [N, H, W, C]."""
    _, height, width, channels = images.shape
    if channels not in (1, 3) or min(height, width) < _PASS_SIDE:
        raise ValueError(
            f"pass_scores needs images of 1 or 3 channels and sides of at least {_PASS_SIDE} pixels, "
            f"got {height} x {width} x {channels}"
        )


def _check_names(argument: str, mapping: Any, kind: str) -> None:
    wanted = f"{argument} must be a mapping from name to {kind}"
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{wanted}, got {type(mapping).__name__}")
    if not mapping:
        raise ValueError(f"{wanted} with at least one entry, got an empty one")
    for name in mapping:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{wanted}, and the names non-empty strings, got {name!r}")
    stripped = [name.strip() for name in mapping]
    twice = sorted({name for name in stripped if stripped.count(name) > 1})
    if twice:
        raise ValueError(f"{wanted} without duplicate names, got more than one {twice[0]!r} (up to spaces)")


def _classes(name: str, classifier: Any, shape: tuple[int, ...]) -> int:
    """The number of classes of one model for images of `shape` [B, H, W, C]."""
    if not isinstance(classifier, Classifier):
        raise TypeError(
            f"models[{name!r}] must be a Classifier (make one with from_nnx, from_linen or from_function), "
            f"got {type(classifier).__name__}"
        )
    try:
        logits = jax.eval_shape(classifier, jax.ShapeDtypeStruct(shape, jnp.float32))
    except Exception as error:  # whatever the model, or its framework, says of images that it does not take
        raise ValueError(f"models[{name!r}] cannot take images of shape [B, H, W, C] = {shape}: {error}") from error
    found = getattr(logits, "shape", None)
    if found is None or len(found) != 2 or found[0] != shape[0] or found[1] < 2:
        got = type(logits).__name__ if found is None else found
        raise ValueError(f"models[{name!r}] must return logits [B, K] with K >= 2 classes, got {got} for {shape}")
    return int(found[1])
