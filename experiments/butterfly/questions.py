"""What the paper leaves open, for the main classifiers: other uses of the same images, the same work, attacks."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from advjax.attacks import Attack, fgs, pgd
from advjax.classifier import Classifier, from_nnx
from advjax.data import Dataset, to_float
from advjax.evaluate import logits_of, perturb_all
from advjax.generators import Players, generated
from benchmarks.floor import operations_of
from experiments.butterfly.config import Config, Target
from experiments.butterfly.images import Parts, part, shape_of
from experiments.butterfly.judge import counted, vanilla
from experiments.butterfly.learn import learned, steps_of
from experiments.networks import classifier_of, key_of
from experiments.store import Arrays

__all__ = ["attacked", "averaged", "ensemble", "instead", "operations", "shifts", "views_of"]


def operations(network: Classifier, shape: tuple[int, int, int]) -> float:
    """Floating-point operations of a forward pass of one image, as XLA counts them before it optimizes."""
    return operations_of(lambda network, image: network(image), network, np.zeros((1, *shape), np.float32))


def views_of(classifier: Classifier, players: Players, parts: Parts) -> int:
    """How many forward passes of the classifier cost what the generator and one of them do, rounded up."""
    shape = shape_of(parts)
    own = operations(classifier, shape)
    return 1 + int(np.ceil(operations(from_nnx(players.generator), shape) / own))


def instead(
    config: Config, parts: Parts, model: nnx.Module, target: Target, views: int, folder: pathlib.Path
) -> Arrays:
    """The classifier itself, trained on with G's images and labels in the generator's place, judged on T.

    Returns:
        of as many steps as the generator made, and (names with _longer) of `views` times as many, which cost what the
        generator's do: right, probability [N].
    """
    steps, found = steps_of(config, parts.generator), dict[str, np.ndarray]()
    for suffix, count in {"": steps, "_longer": views * steps}.items():
        words, own = ("instead", *target, count), folder / f"steps {count}"
        arrays = learned(config, nnx.clone(model), parts.generator, count, words, own)
        tuned = vanilla(config, classifier_of(model, arrays), parts.test)
        found |= {f"{name}{suffix}": array for name, array in tuned.items()}
    return found | {"views": np.asarray(views), "steps": np.asarray(steps)}


def shifts(count: int) -> list[tuple[int, int]]:
    """The first so many shifts in pixels, the nearest first, beginning with none.

    >>> shifts(5)
    [(0, 0), (-1, 0), (0, -1), (0, 1), (1, 0)]
    """
    reach = range(-count, count + 1)
    every = [(y, x) for y in reach for x in reach]
    return sorted(every, key=lambda shift: (shift[0] ** 2 + shift[1] ** 2, shift))[:count]


def averaged(config: Config, classifiers: Sequence[Classifier], images: Dataset, views: int) -> Arrays:
    """right and probability [N] of the mean softmax over classifiers, and over `views` shifts of the images.

    What a shift leaves empty repeats the edge.
    """
    total: np.ndarray | float = 0.0
    most = max(max(map(abs, shift)) for shift in shifts(views))
    padded = np.pad(images.images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    height, width = images.images.shape[1:3]
    for y, x in shifts(views):
        moved = padded[:, most + y : most + y + height, most + x : most + x + width]
        for classifier in classifiers:
            total = total + np.asarray(jax.nn.softmax(logits_of(classifier, moved, config.judge_batch)))
    return counted(np.log(np.maximum(total, np.finfo(np.float32).tiny)), images.labels)


def ensemble(config: Config, classifiers: Sequence[Classifier], parts: Parts, views: int) -> Arrays:
    """Test-time augmentation of the first classifier, and an ensemble, at the forward cost of a generator or less.

    Returns:
        right, probability [N] of `views` shifts; `_members` of as many classifiers as there are and cost no more.
    """
    members = classifiers[:views]
    together = averaged(config, members, parts.test, 1)
    return {
        **averaged(config, classifiers[:1], parts.test, views),
        **{f"{name}_members": array for name, array in together.items()},
        "members": np.asarray(len(members)),
    }


def attacked(config: Config, parts: Parts, classifier: Classifier, players: Players) -> Arrays:
    """The first test images under FGS and PGD, of which the second half of the names says what was done.

    Returns:
        for "clean", "fgs", "pgd", bool [n] right: `_alone`, by the classifier; `_helped`, after the generator, whose
        8-bit image comes behind an attack on the classifier that does not know of it; `_aware`, where the attack goes
        through the generator too.
    """
    first = part(parts.test, np.arange(min(config.attacked_images, len(parts.test.labels))))
    helped, labels, batch = generated(players.generator), first.labels, config.judge_batch
    together, key = from_nnx(players), key_of(config.seed, "attack")
    step = config.epsilon / 4
    attacks: dict[str, Attack | None] = {
        "clean": None,
        "fgs": fgs(config.epsilon),
        "pgd": pgd(config.epsilon, step_size=step, steps=10),
    }

    def under(attack: Attack | None, network: Classifier) -> np.ndarray:
        if attack is None:
            return np.asarray(to_float(first.images))
        return np.asarray(perturb_all(attack, network, first.images, labels, batch_size=batch, key=key).image)

    def right(network: Classifier, images: np.ndarray) -> np.ndarray:
        return counted(logits_of(network, images, batch), labels)["right"]

    found: dict[str, np.ndarray] = {}
    for name, attack in attacks.items():
        image = under(attack, classifier)
        after = np.asarray(perturb_all(helped, classifier, image, labels, batch_size=batch).image)
        found |= {
            f"{name}_alone": right(classifier, image),
            f"{name}_helped": right(classifier, after),
            f"{name}_aware": right(together, under(attack, together)),
        }
    return found
