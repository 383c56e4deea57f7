"""One batch through one attack: who is fooled, by how much, and how far the images moved."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.attack import Stack
from advjax.attacks.perturb import perturb
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batch
from advjax.scores.pass_score import pass_score

__all__ = ["DISTANCES", "judge", "measure_attack", "measure_clean"]

DISTANCES = ("l0", "l1", "l2", "linf")


@jax.jit
def judge(classifier: Classifier, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether each image is answered rightly, and its cross-entropy: images [R, P, H, W, C] -> bool, float32 [R, P].

    Logits with a NaN are no answer: the first NaN would win the argmax, and might stand at the label.
    """
    logits = jax.vmap(classifier)(images).astype(jnp.float32)
    spread = jnp.broadcast_to(labels[None], logits.shape[:2])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, spread)
    answered = ~jnp.any(jnp.isnan(logits), axis=-1)
    return answered & (jnp.argmax(logits, axis=-1).astype(jnp.int32) == spread), loss


def measure_clean(classifier: Classifier, batch: Batch) -> dict[str, np.ndarray]:
    """`correct` and `loss` [1, 1, B] of the clean images."""
    correct, loss = judge(classifier, batch.images[None], batch.labels)
    return _cut({"correct": correct[None], "loss": loss[None]}, batch.valid)


def measure_attack(
    attack: Any,
    source: Classifier,
    targets: Sequence[Classifier],
    batch: Batch,
    keys: jax.Array,
    pass_scores: bool,
) -> dict[str, np.ndarray]:
    """Attacks `source` and asks all T `targets`; a stack of attacks gives R runs, a single one gives 1.

    Returns:
      `correct` bool and `loss` float32 [T, R, B]; `l0`, `l1`, `l2`, `linf`, `failure` and, if asked for,
      `pass_score` [R, B], which do not depend on the target.
    """
    result = perturb(attack, source, batch.images, batch.labels, keys)
    if not isinstance(attack, Stack):
        result = jax.tree.map(lambda array: array[None], result)
    answers = [judge(target, result.image, batch.labels) for target in targets]
    found: dict[str, Any] = {name: getattr(result, name) for name in (*DISTANCES, "failure")}
    if pass_scores:
        found["pass_score"] = [pass_score(images, batch.images).score for images in result.image]
    found["correct"], found["loss"] = ([answer[part] for answer in answers] for part in (0, 1))
    return _cut(found, batch.valid)


def _cut(found: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    known = jax.device_get(found)
    return {name: np.asarray(array)[..., :count] for name, array in known.items()}
