"""Whole data sets, on the host, through a classifier or an attack: batch by batch, all of one shape."""

import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks import Perturbation, perturb
from advjax.attacks.attack import Attack, check_single
from advjax.classifier import Classifier
from advjax.data.rows import batches, filled
from advjax.data.transforms import to_float
from advjax.evaluate.stream import progress_bar
from advjax.fastcpu import compiled
from advjax.scores import pass_scores

__all__ = ["NO_ANSWER", "answers_of", "logits_of", "pass_all", "perturb_all", "perturb_batches", "pixels", "ranks_of"]

# What a network says whose logits are no numbers: no label is equal to it.
NO_ANSWER = -1


def logits_of(classifier: Classifier, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Logits float32 [N, K] of images [N, H, W, C], uint8 or float32; float values may leave [0, 1].

    >>> from advjax.classifier import from_function
    >>> mean = from_function(lambda w, x: x.mean((1, 2, 3))[:, None] * w, jnp.ones((1, 2)))
    >>> logits_of(mean, np.full((3, 2, 2, 1), 255, np.uint8), batch_size=2).shape
    (3, 2)
    """
    parts = [
        np.asarray(_logits(classifier, pixels(images[rows])))[:real] for rows, real in batches(len(images), batch_size)
    ]
    return np.concatenate(parts)


def answers_of(classifier: Classifier, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """The classes int32 [N] of the largest logits, for images as for `logits_of`; `NO_ANSWER` where one is NaN.

    NumPy's `argmax` alone answers with the place of the NaN, which is right for some label.

    >>> from advjax.classifier import from_function
    >>> divided = from_function(lambda w, x: w / x.mean((1, 2, 3))[:, None], jnp.array([[0.0, 1.0]]))
    >>> answers_of(divided, np.array([0, 255], np.uint8)[:, None, None, None]).tolist()
    [-1, 1]
    """
    if not len(images):
        return np.zeros(0, np.int32)
    logits = logits_of(classifier, images, batch_size)
    return np.where(np.isnan(logits).any(-1), NO_ANSWER, logits.argmax(-1)).astype(np.int32)


def ranks_of(classifier: Classifier, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """How many classes have a larger logit than the label, int32 [N]: k or more is an error by top-k.

    Where a logit is NaN it is the largest int32, as NaN is below no other and would make every answer right.

    >>> from advjax.classifier import from_function
    >>> three = from_function(lambda w, x: x.mean((1, 2, 3))[:, None] + w, jnp.array([[3.0, 1.0, 2.0]]))
    >>> ranks_of(three, np.zeros((3, 2, 2, 1), np.uint8), np.arange(3)).tolist()
    [0, 2, 1]
    """
    if not len(labels):
        return np.zeros(0, np.int32)
    logits = logits_of(classifier, images, batch_size)
    above = (logits > np.take_along_axis(logits, labels[:, None], 1)).sum(1)
    return np.where(np.isnan(logits).any(1), np.iinfo(np.int32).max, above).astype(np.int32)


def pass_all(
    perturbed: np.ndarray, originals: np.ndarray, *, batch_size: int = 500, padding: Literal["valid", "same"] = "valid"
) -> np.ndarray:
    """PASS float32 [N] of pairs of images [N, H, W, C], uint8 or float32 in [0, 1]; one compiled program for any N.

    >>> images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)
    >>> pass_all(images, images, batch_size=2).shape
    (3,)
    """

    def block(images: np.ndarray) -> np.ndarray:
        return np.asarray(pixels(filled(images, batch_size)))

    rows = [rows[:real] for rows, real in batches(len(perturbed), batch_size)]
    blocks = ((block(perturbed[some]), block(originals[some])) for some in rows)
    scores = [np.asarray(result.score) for result in pass_scores(blocks, padding=padding)]
    return np.concatenate([*scores, np.zeros(0, np.float32)])[: len(perturbed)]


def perturb_all(
    attack: Attack,
    classifier: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    key: jax.Array | None = None,
    enough: int | None = None,
    progress: str | None = None,
) -> Perturbation:
    """`perturb` of a whole data set, which need not fit the device: the arrays of the result are NumPy's.

    Args:
      attack: a single attack, no stack.
      classifier: as for `perturb`.
      images: [N, H, W, C], uint8 or float32 in [0, 1].
      labels: [N] integers.
      batch_size: images perturbed at once; one compiled program for any N.
      key: image i draws from `fold_in(key, i)`, whatever the batch size.
      enough: successes with which to stop: the result is of the batches up to the one that has them. None: of all.
      progress: the title of a progress bar; None: none.

    Raises:
      ValueError: the attack is a stack, or as for `perturb`.

    >>> from advjax import fgs
    >>> from advjax.classifier import from_function
    >>> mean = from_function(lambda w, x: x.mean((1, 2, 3))[:, None] * w, jnp.array([[1.0, -1.0]]))
    >>> images, labels = np.full((3, 2, 2, 1), 51, np.uint8), np.zeros(3, np.int32)
    >>> perturb_all(fgs(0.5), mean, images, labels, batch_size=2).image.shape
    (3, 2, 2, 1)
    """
    check_single(attack)
    parts: list[Perturbation] = []
    results = perturb_batches(attack, classifier, images, labels, batch_size=batch_size, key=key)
    with progress_bar(progress, len(images)) as advance:
        for result in results:
            parts.append(result)
            advance(len(result.label))
            if enough is not None and sum(np.sum(part.success) for part in parts) >= enough:
                break
    return jax.tree.map(lambda *parts: np.concatenate(parts), *parts)


def perturb_batches(
    attack: Attack,
    classifier: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    key: jax.Array | None = None,
) -> Iterator[Perturbation]:
    """The same batch by batch, as they are asked for."""
    for rows, real in batches(len(images), batch_size):
        keys = None if key is None else jax.vmap(functools.partial(jax.random.fold_in, key))(rows)
        result = perturb(attack, classifier, pixels(images[rows]), jnp.asarray(labels[rows]), keys)
        yield jax.tree.map(lambda array, real=real: np.asarray(array)[:real], result)


def pixels(images: np.ndarray) -> jax.Array:
    """float32 in [0, 1] of uint8 images; float images stay as they are."""
    return jnp.asarray(to_float(images) if images.dtype == np.uint8 else images)


@compiled
def _logits(classifier: Classifier, images: jax.Array) -> jax.Array:
    return classifier(images)
