"""One batch through one attack: who is fooled, by how much, and how far the images moved."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.attack import Attack, Stack, criterion_of
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.perturb import perturb_in_silence
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batch
from advjax.fastcpu import compiled
from advjax.scores.pass_score import pass_score
from advjax.value import batch_axes

__all__ = ["DISTANCES", "OF_TARGETS", "Answers", "Judge", "judge_of", "measure_attack", "measure_clean"]

DISTANCES = ("l0", "l1", "l2", "linf")


class Judge(NamedTuple):
    """A model that answers, and over how many draws: 0 for one that draws nothing."""

    classifier: Classifier
    draws: int


class Answers(NamedTuple):
    """What a model says of images [R, P, H, W, C]: arrays [R, P]."""

    correct: jax.Array
    """The label; for a random model in more than half of its draws."""
    met: jax.Array
    """What the attack is after; likewise."""
    prediction: jax.Array
    """The class; for a random model the most frequent one."""
    loss: jax.Array
    """Cross-entropy; its mean over the draws."""
    share: jax.Array
    """Of the draws that were answered rightly."""


OF_TARGETS = Answers._fields
"""The measurements that depend on who answers; the others are of the image."""


def judge_of(classifier: Classifier, shape: tuple[int, ...], draws: int) -> Judge:
    """The model as a judge of images of `shape` [H, W, C]; `draws` are for a model that draws random numbers."""
    return Judge(classifier, draws if classifier.draws(jax.ShapeDtypeStruct((1, *shape), jnp.float32)) else 0)


def measure_clean(judge: Judge, batch: Batch, keys: jax.Array | None) -> dict[str, np.ndarray]:
    """`Answers` [1, 1, B] for the clean images; a random model draws for image i from `keys[i]`."""
    answers = _answers(judge, Misclassified(), batch.images[None], batch.labels, keys)
    return _cut({name: array[None] for name, array in answers._asdict().items()}, batch.valid)


def measure_attack(
    attack: Attack | Stack,
    source: Classifier,
    targets: Sequence[Judge],
    batch: Batch,
    keys: jax.Array,
    judge_keys: jax.Array | None,
    pass_scores: bool,
) -> dict[str, np.ndarray]:
    """Attacks `source` and asks all T `targets`; a stack of attacks gives R runs, a single one gives 1.

    Returns:
      `Answers` [T, R, B]; and `l0`, `l1`, `l2`, `linf`, `failure`, `non_finite`, `faults`, `calls`, `possible` and, if
      asked for, `pass_score` [R, B], which do not depend on the target.
    """
    result = perturb_in_silence(attack, source, batch.images, batch.labels, keys)
    criterion = criterion_of(attack)
    if not isinstance(attack, Stack):
        result, criterion = jax.tree.map(lambda array: jnp.asarray(array)[None], (result, criterion))
    answers = [_answers(target, criterion, result.image, batch.labels, judge_keys) for target in targets]
    asked = ("failure", "non_finite", "faults", "calls")
    found: dict[str, Any] = {name: getattr(result, name) for name in (*DISTANCES, *asked)}
    found["possible"] = _possible(criterion, batch.labels, len(result.image))
    if pass_scores:
        found["pass_score"] = [pass_score(images, batch.images).score for images in result.image]
    found |= {name: [getattr(answer, name) for answer in answers] for name in OF_TARGETS}
    return _cut(found, batch.valid)


def _answers(
    judge: Judge, criterion: Criterion, images: jax.Array, labels: jax.Array, keys: jax.Array | None
) -> Answers:
    if judge.draws and keys is not None:
        return _answer_by_draws(judge.classifier, criterion, images, labels, keys, judge.draws)
    return _answer(judge.classifier, criterion, images, labels)


@compiled
def _answer(classifier: Classifier, criterion: Criterion, images: jax.Array, labels: jax.Array) -> Answers:
    return _read(jax.vmap(classifier)(images), criterion, labels)


@functools.partial(compiled, static_argnames="draws")
def _answer_by_draws(
    classifier: Classifier, criterion: Criterion, images: jax.Array, labels: jax.Array, keys: jax.Array, draws: int
) -> Answers:
    """Each image by itself, at draws of its own: they do not depend on its batch, nor on what the attack has seen."""

    def logits_of(image: jax.Array, key: jax.Array) -> jax.Array:
        return classifier.reseeded(key)(image[None])[0]

    def once(draw: jax.Array) -> tuple[Answers, jax.Array]:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, draw)
        logits = jax.vmap(jax.vmap(logits_of), (0, None))(images, own)
        answers = _read(logits, criterion, labels)
        return answers, jax.nn.one_hot(answers.prediction, logits.shape[-1], dtype=jnp.int32)

    each, votes = jax.lax.map(once, jnp.arange(draws))

    def by_most(array: jax.Array) -> jax.Array:
        return 2 * jnp.sum(array, axis=0, dtype=jnp.int32) > draws

    correct = by_most(each.correct)
    return Answers(
        correct=correct,
        met=~correct if isinstance(criterion, Misclassified) else by_most(each.met),
        prediction=jnp.argmax(jnp.sum(votes, axis=0), axis=-1).astype(jnp.int32),
        loss=jnp.mean(each.loss, axis=0),
        share=jnp.mean(each.share, axis=0),
    )


def _read(logits: jax.Array, criterion: Criterion, labels: jax.Array) -> Answers:
    """Answers of logits [R, P, K], where the criterion's numbers lead with R.

    Logits with a NaN are no answer: the first NaN would win the argmax, and might stand at the label. Nothing else
    than a right answer is right, so that where the attack is after a wrong one, accuracy and success add up.
    """
    logits = logits.astype(jnp.float32)
    spread = jnp.broadcast_to(labels[None], logits.shape[:2])
    prediction = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    correct = ~jnp.any(jnp.isnan(logits), axis=-1) & (prediction == spread)
    if isinstance(criterion, Misclassified):
        met = ~correct
    else:
        met = _over_images(criterion, labels.shape[0], lambda own, *pair: own(*pair), logits, spread)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, spread)
    return Answers(correct, met, prediction, loss, correct.astype(jnp.float32))


@functools.partial(jax.jit, static_argnames="runs")
def _possible(criterion: Criterion, labels: jax.Array, runs: int) -> jax.Array:
    """Whether each image [R, P] can meet the criterion at all."""
    spread = jnp.broadcast_to(labels[None], (runs, labels.shape[0]))
    return _over_images(criterion, labels.shape[0], lambda own, label: own.possible(label), spread)


def _over_images(criterion: Criterion, images: int, ask: Any, *arrays: jax.Array) -> jax.Array:
    """`ask(criterion, ...)` of each image in arrays [R, P, ...], with the criterion's numbers for that image."""
    leaves, structure = jax.tree.flatten(criterion)
    axes = batch_axes(criterion, images, extra=1)

    def one(leaves: list[Any], *arrays: jax.Array) -> jax.Array:
        answer: jax.Array = ask(jax.tree.unflatten(structure, leaves), *arrays)
        return answer

    over = (0,) * len(arrays)
    answers: jax.Array = jax.vmap(jax.vmap(one, (axes, *over)), (0, *over))(leaves, *arrays)
    return answers


def _cut(found: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    known = jax.device_get(found)
    return {name: np.asarray(array)[..., :count] for name, array in known.items()}
