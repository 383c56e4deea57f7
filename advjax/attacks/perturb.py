"""perturb: runs an attack on a batch.  The one `vmap` and the one `jit` of the attacks."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from advjax.attacks.attack import Attack, Failure, Problem, Stack
from advjax.attacks.checks import Facts, check_facts, check_inputs, check_logits, collect_facts, on_host
from advjax.attacks.consistency import consistency_faults
from advjax.attacks.constraints import Quantize
from advjax.attacks.faults import image_faults, model_faults, target_faults, warn_faults
from advjax.attacks.part import parts
from advjax.attacks.perturbation import Perturbation
from advjax.classifier import Classifier
from advjax.fastcpu import accelerate, compiled
from advjax.keys import image_keys
from advjax.scores.norms import l0, l1, l2, linf
from advjax.value import batch_axes

__all__ = ["IMAGE_AXIS", "perturb", "perturb_in_silence"]

# The name of the mapped axis, for a model whose images depend on one another (batch statistics in training mode).
IMAGE_AXIS = "images"


def perturb(
    attack: Attack | Stack,
    classifier: Classifier,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None = None,
) -> Perturbation:
    """Perturbs each image of a batch by `attack` so that `classifier` errs.

    Everything runs in one compiled program, which is reused for other weights, other numbers in the attack (epsilon,
    factor, mask, target) and other images of the same shapes.  Images sharded over devices stay sharded.  Inside a
    `jit` or `vmap` of your own the values cannot be read, and only types and shapes are checked; the result carries
    what is wrong with them, `result.faults`, and `result.check()` raises for it once it has left the `jit`.

    Args:
      attack: an attack (`fgs()`, `hot_cold(rank=2)`, ...) or a `stack` of attacks.
      classifier: see `from_nnx`, `from_linen` and `from_function`.
      images: [B, H, W, C] float32 in [0, 1], on the grid k/255 unless the attack was made with `levels=None`.
      labels: [B] integers, the true classes.
      key: `jax.random.key(seed)`, for random attacks; image i then draws from `fold_in(key, i)`, whatever batch or
        device it is on.  Or an array of keys, one for each image.

    Returns:
      A `Perturbation`, one entry for each image (and each attack of a stack).

    Raises:
      TypeError, ValueError: an argument is not as above; the message names it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import fgs, from_nnx, perturb
      >>> from advjax.models import LeNet
      >>> from flax import nnx
      >>> classifier = from_nnx(LeNet(rngs=nnx.Rngs(0)))
      >>> images = jnp.round(jax.random.uniform(jax.random.key(1), (2, 28, 28, 1)) * 255) / 255
      >>> labels = classifier(images).argmax(-1)
      >>> perturb(fgs(), classifier, images, labels).success.tolist()
      [True, True]
    """
    result, facts = _perturb(attack, classifier, images, labels, key)
    if on_host(facts):
        warn_faults(np.asarray(facts.faults), stacklevel=2)
    return result


def perturb_in_silence(
    attack: Attack | Stack, classifier: Classifier, images: jax.Array, labels: jax.Array, key: jax.Array | None
) -> Perturbation:
    """`perturb` without its warnings, for those who call it many times and read `faults` once."""
    result, _ = _perturb(attack, classifier, images, labels, key)
    return result


def _perturb(
    attack: Attack | Stack, classifier: Classifier, images: jax.Array, labels: jax.Array, key: jax.Array | None
) -> tuple[Perturbation, Facts]:
    keys = check_inputs(attack, classifier, images, labels, key)
    # One integer type, so that another one is not another program.
    arguments = (attack, classifier, images, labels.astype(jnp.int32), keys)
    result, facts = _run(*jax.tree.map(_on_auto_axes, arguments))
    if on_host(facts):
        check_facts(attack, facts)
    return result, facts


class _Outcome(NamedTuple):
    perturbation: Perturbation
    clean_logits: jax.Array


@compiled
def _run(
    attack: Attack | Stack, classifier: Classifier, images: jax.Array, labels: jax.Array, keys: jax.Array
) -> tuple[Perturbation, Facts]:
    given, labels = jnp.asarray(images), jnp.asarray(labels)
    # Float error of a bit or two is allowed, but must not show in the result: the clean image is allowed exactly.
    images = jnp.clip(given, 0.0, 1.0)
    for part in parts(attack):
        images = part.snap(images) if isinstance(part, Quantize) else images
    attack = jax.tree.map(lambda leaf: _as_dtype(leaf, images.dtype), attack)
    batch = images.shape[0]
    keys = image_keys(keys, batch) if keys.ndim == 0 else keys
    if not isinstance(attack, Stack):
        outcome = accelerate(_attack_batch)(attack, classifier, images, labels, keys)
        return _with_faults(attack, classifier, given, labels, outcome)

    members, pairs = attack.attack, jax.tree.leaves(attack)[0].shape[0]
    # One image and all its attacks side by side in one long batch, so that a shard of images stays on its device.
    images_, labels_, keys_ = (jnp.repeat(array, pairs, axis=0) for array in (images, labels, keys))
    axes = batch_axes(members, batch, extra=1)
    leaves, structure = jax.tree.flatten(members)
    leaves = [
        jnp.tile(leaf, (batch,) + (1,) * (leaf.ndim - 1)) if axis is None else _merge(jnp.moveaxis(leaf, 0, 1))
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    outcome = accelerate(_attack_batch)(jax.tree.unflatten(structure, leaves), classifier, images_, labels_, keys_)
    split: Any = jax.tree.map(lambda array: jnp.moveaxis(array.reshape(batch, pairs, *array.shape[1:]), 1, 0), outcome)
    return _with_faults(attack, classifier, given, labels, split)


def _with_faults(
    attack: Attack | Stack, classifier: Classifier, given: jax.Array, labels: jax.Array, outcome: _Outcome
) -> tuple[Perturbation, Facts]:
    """The result with the faults of its images, labels and model: clean logits [B, K], or [R, B, K] of a stack."""
    logits, result = outcome.clean_logits, outcome.perturbation
    classes = logits.shape[-1]
    faults = image_faults(attack, given, labels, classes) | model_faults(logits)
    faults = faults | consistency_faults(classifier, jnp.clip(given, 0.0, 1.0))
    faults = result.faults | jnp.broadcast_to(faults, result.success.shape)
    return dataclasses.replace(result, faults=faults), collect_facts(faults, given, labels, classes)


def _attack_batch(
    attack: Attack, classifier: Classifier, images: jax.Array, labels: jax.Array, keys: jax.Array
) -> _Outcome:
    axes = batch_axes(attack, images.shape[0])
    leaves, structure = jax.tree.flatten(attack)

    def on_image(leaves: list[Any], image: jax.Array, label: jax.Array, key: jax.Array) -> _Outcome:
        return _attack_one(jax.tree.unflatten(structure, leaves), classifier, image, label, key)

    return jax.vmap(on_image, in_axes=(axes, 0, 0, 0), axis_name=IMAGE_AXIS)(leaves, images, labels, keys)


def _merge(array: jax.Array) -> jax.Array:
    return array.reshape(-1, *array.shape[2:])


def _attack_one(attack: Attack, classifier: Classifier, image: jax.Array, label: jax.Array, key: jax.Array) -> _Outcome:
    """The attack on one image [H, W, C], and the verdict on exactly the image that it returns."""

    def logits_of(image: jax.Array) -> jax.Array:
        return classifier(image[None])[0].astype(image.dtype)

    check_logits(classifier, image)
    clean_logits = logits_of(image)

    def see(image: jax.Array, key: jax.Array) -> jax.Array:
        return classifier.reseeded(key).each(image[None])[:, 0].astype(image.dtype)

    def members(image: jax.Array) -> jax.Array:
        return classifier.each(image[None])[:, 0].astype(image.dtype)

    problem = Problem(logits_of, image, label, clean_logits, see, members if classifier.averaged else None)
    state = attack.step(problem, attack.init(problem, key))
    logits = logits_of(state.image)
    clean_prediction = jnp.argmax(clean_logits).astype(jnp.int32)
    right = clean_prediction == label
    criterion = attack.criterion
    success = right & criterion(logits, label)
    failure = jnp.where(state.failure == Failure.NONE, Failure.NOT_FOOLED, state.failure)
    failure = jnp.where(criterion.possible(label), failure, Failure.LABEL_IS_TARGET)
    failure = jnp.where(right, failure, Failure.ALREADY_MISCLASSIFIED)
    perturbation = Perturbation(
        image=state.image,
        label=label,
        clean_prediction=clean_prediction,
        prediction=jnp.argmax(logits).astype(jnp.int32),
        success=success,
        scale=state.scale,
        l0=l0(state.image, image),
        l1=l1(state.image, image),
        l2=l2(state.image, image),
        linf=linf(state.image, image),
        calls=state.calls + 2,
        failure=jnp.where(success, Failure.NONE, failure).astype(jnp.int8),
        non_finite=state.non_finite,
        faults=jnp.zeros_like(label) | target_faults(attack, clean_logits.shape[-1]),
        asks=attack.asks,
    )
    return _Outcome(perturbation, clean_logits)


def _on_auto_axes(array: Any) -> Any:
    """An array sharded over explicit mesh axes, on the same devices over automatic ones, which `vmap` can map."""
    sharding = getattr(array, "sharding", None)
    if isinstance(array, jax.core.Tracer) or not isinstance(sharding, NamedSharding):
        return array
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return array
    automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    return jax.device_put(array, NamedSharding(automatic, sharding.spec))


def _as_dtype(leaf: Any, dtype: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
