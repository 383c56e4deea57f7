"""robust_accuracy: AutoAttack over a data set, each of its members on the images alone that are left."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from advjax.attacks.attack import Attack, check_count
from advjax.attacks.auto_attack import AutoAttack
from advjax.attacks.perturb import perturb_in_silence
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batch, Batches, make_batches, slice_attack
from advjax.evaluate.checks import check_attack, check_key, check_models
from advjax.evaluate.findings import model_bits, naming, warn_of_models
from advjax.evaluate.intervals import Accuracy, accuracy_of
from advjax.evaluate.measure import Judge, judge_of, measure_clean
from advjax.evaluate.store import Chunks, open_chunks
from advjax.evaluate.stream import progress_bar
from advjax.evaluate.whole_sets import pixels
from advjax.fingerprint import fingerprint

__all__ = ["RobustAccuracy", "robust_accuracy"]

Arrays = dict[str, np.ndarray]

# A member's last batch is of the least of these shares of `batch_size` that holds what is left.
_SHARES = (1, 4, 16)
# Draws at which a random model answers: a number that no member has.
_ANSWERS = 2**32 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class RobustAccuracy:
    """What is left of a classifier's accuracy.

    Attributes:
      accuracy: share of all images that are answered rightly and that no member turned: clean mistakes are errors.
      clean: share that is answered rightly.
      fell: how many images each member turned, of those that it was given, by name and in order.
      correct: bool [N], which the accuracy is the mean of.
      by: int32 [N], the place of the member that turned the image; -1 where none did.
      images: float32 [N, H, W, C], the images returned; the clean one where none was found.
      calls: int32 [N], evaluations of the model for each image.
    """

    accuracy: Accuracy
    clean: Accuracy
    fell: dict[str, int]
    correct: np.ndarray
    by: np.ndarray
    images: np.ndarray
    calls: np.ndarray


def robust_accuracy(
    classifier: Classifier,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    attack: AutoAttack,
    *,
    key: jax.Array,
    batch_size: int = 256,
    draws: int = 10,
    folder: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> RobustAccuracy:
    """The accuracy that AutoAttack leaves, as RobustBench counts it: what it calls robust accuracy.

    Each member of the attack goes over the images that those before it have not turned, in batches of `batch_size`,
    the last one of a quarter or a sixteenth of that where it is enough: three programs at most for each member.  The
    images are those of `perturb(attack, classifier, images, labels, key)`, but for float rounding in batches of other
    sizes.

    A model that draws random numbers is judged by most of `draws` fresh draws for each image, the clean one too.

    Args:
      classifier: see `from_nnx`, `from_linen` and `from_function`.
      images: [N, H, W, C], uint8, or float32 in [0, 1].
      labels: [N] integers.
      attack: `auto_attack(norm, epsilon)`, with numbers for each of the N images or for all.
      key: `jax.random.key(seed)`; member m of image i draws from `fold_in(fold_in(key, i), m)`.
      batch_size, draws, folder, progress, devices: as for `evaluate`.

    Raises:
      TypeError, ValueError: an argument is not as above, or the folder holds another evaluation; the message names it.

    Example:
      >>> import jax, numpy as np
      >>> from advjax import fgs, from_function
      >>> from advjax.attacks import AutoAttack
      >>> from advjax.evaluate import robust_accuracy
      >>> def model(weights, images):
      ...     return (images - 0.5).reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(model, np.float32([[1, -1]] * 4))
      >>> images, labels = np.full((2, 2, 2, 1), 204, np.uint8), np.array([0, 1])
      >>> attack = AutoAttack((fgs(0.1), fgs(0.4)), ("weak", "strong"))
      >>> found = robust_accuracy(classifier, images, labels, attack, key=jax.random.key(0))
      >>> found.clean.value, found.accuracy.value, found.fell
      (0.5, 0.0, {'weak': 0, 'strong': 1})
    """
    batches = make_batches((images, labels), batch_size, devices)
    check_key(key)
    check_models({"classifier": classifier}, batches)
    if not isinstance(attack, AutoAttack):
        raise TypeError(f"attack must be an AutoAttack, such as auto_attack makes, got {type(attack).__name__}")
    check_attack(attack, {"classifier": classifier}, batches, batches[0], key)
    check_count("draws", draws)
    configuration = {} if folder is None else _configuration(classifier, attack, batches, key, draws)
    run = _Run(
        batches,
        jax.device_put(classifier, batches.everywhere),
        judge_of(classifier, batches.images.shape[1:], draws),
        key,
        open_chunks(folder, configuration),
    )
    with progress_bar(progress, len(batches.labels) * (1 + len(attack.members))) as advance:
        clean = run.over("clean", np.arange(len(batches.labels), dtype=np.int32), run.answered, advance)["correct"]
        return _over_members(run, attack, clean, advance)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all members share; arrays of `over` are [n], one entry for each of the images it was given."""

    batches: Batches
    classifier: Classifier
    judge: Judge
    key: jax.Array
    chunks: Chunks

    def over(
        self, name: str, rows: np.ndarray, measure: Callable[[Batch], Arrays], advance: Callable[[int], Any]
    ) -> Arrays:
        """`measure` of the images `rows`, in batches of few sizes, each of them kept as `name` and its number."""
        parts = []
        for index, batch in enumerate(_cut(self.batches, rows)):
            parts.append(self.chunks.ensure(f"{name}-{index:06d}", functools.partial(measure, batch)))
            advance(batch.valid)
        advance(len(self.batches.labels) - len(rows))
        return {part: np.concatenate([one[part] for one in parts]) for part in parts[0]} if parts else {}

    def answered(self, batch: Batch) -> Arrays:
        """Whether the images are answered rightly."""
        own = jax.random.fold_in(self.key, np.uint32(_ANSWERS))
        keys = self.batches.keys(own, batch.rows) if self.judge.draws else None
        return {"correct": measure_clean(self.judge, batch, keys)["correct"][0, 0]}

    def attacked(self, member: Attack, place: int, batch: Batch) -> Arrays:
        """What became of the images; a random model's answers count, where the attack's own verdict is of one draw."""
        keys = _fold_in(self.batches.keys(self.key, batch.rows), np.uint32(place))
        own = slice_attack(member, len(self.batches.labels), batch.rows)
        result = perturb_in_silence(own, self.classifier, batch.images, batch.labels, keys)
        found = {"image": result.image, "fell": result.success, "calls": result.calls, "faults": result.faults}
        arrays = {name: np.asarray(array)[: batch.valid] for name, array in found.items()}
        if self.judge.draws:
            arrays["fell"] = ~self.answered(batch._replace(images=result.image))["correct"]
        return arrays


def _over_members(run: _Run, attack: AutoAttack, clean: np.ndarray, advance: Callable[[int], Any]) -> RobustAccuracy:
    left, by, calls = clean.copy(), np.full(len(clean), -1, np.int32), np.ones(len(clean), np.int32)
    images, fell, faults = np.array(pixels(run.batches.images)), {}, np.zeros(0, np.int32)
    for place, (name, member) in enumerate(zip(attack.names, attack.members, strict=True)):
        rows = np.flatnonzero(left).astype(np.int32)
        with naming(f"member {name!r}"):
            found = run.over(f"m{place}", rows, functools.partial(run.attacked, member, place), advance)
        if not found:
            fell[name] = 0
            continue
        turned = rows[found["fell"]]
        left[turned], by[turned], images[turned] = False, place, found["image"][found["fell"]]
        calls[rows] += found["calls"]
        fell[name], faults = len(turned), np.concatenate([faults, found["faults"]])
    answers = f"answers are those of most of {run.judge.draws} fresh draws"
    warn_of_models({"classifier": model_bits(faults)}, answers, stacklevel=3)
    return RobustAccuracy(accuracy_of(left), accuracy_of(clean), fell, left, by, images, calls)


def _cut(batches: Batches, rows: np.ndarray) -> Iterator[Batch]:
    """The images `rows` in full batches, and what is left over in the smallest size that holds it."""
    devices = len(batches.over_images.device_set)
    sizes = [-(-batches.size // (share * devices)) * devices for share in _SHARES]
    for start in range(0, len(rows), batches.size):
        chosen = rows[start : start + batches.size]
        padded = min(size for size in sizes if size >= len(chosen))
        yield dataclasses.replace(batches, chosen=chosen, padded=padded)[0]


def _configuration(
    classifier: Classifier, attack: AutoAttack, batches: Batches, key: jax.Array, draws: int
) -> dict[str, Any]:
    """Whatever a stored batch depends on."""
    return {
        "format": 1,
        "model": fingerprint(classifier),
        "attack": fingerprint(attack),
        "data": fingerprint(batches.images, batches.labels),
        "key": [str(jax.random.key_impl(key)), *map(int, np.ravel(jax.random.key_data(key)))],
        "batch_size": batches.size,
        "draws": draws,
    }


_fold_in = jax.jit(jax.vmap(jax.random.fold_in, (0, None)))
