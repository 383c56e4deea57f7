"""The set A of the paper: the baseline's adversarial test images, one step of steepest ascent in each norm."""

import numpy as np

from advjax.attacks import pgd, steepest
from advjax.classifier import Classifier
from advjax.data import to_float
from experiments.batches import answers_of, attack_all
from experiments.robust_optimization.config import Part
from experiments.robust_optimization.preprocess import Images
from experiments.states import key_of
from experiments.store import Arrays

__all__ = ["adversarial_set", "calibrated_radius", "on_the_grid", "pgd_accuracy", "sweep"]


# In linf, standardised units: far beyond what any network of the paper withstands.
_LARGEST_RADIUS = 1.0


def adversarial_set(part: Part, baseline: Classifier, test: Images, batch: int) -> Arrays:
    """Eq. 11 in each norm at its training radius on all test images; kept where a right answer turns wrong.

    Nothing is clipped or rounded, as in the scripts. An image that two norms turn is in the set twice.

    Returns:
        image float32 [M, H, W, C]; source int32 [M], its index in the test set; label and prediction int32 [M];
        norm int32 [M], index into `part.norms`; l0 int32 [M], how many pixels were changed; and of sets that are
        stored as 8-bit images, stored_wrong bool [M], whether the baseline is still wrong once the image is clipped
        to [0, 1] and rounded to 8 bits.
    """
    found = []
    for number, norm in enumerate(part.norms):
        attack = steepest(norm, part.radius(norm) * test.std, levels=None, box=False)  # type: ignore[arg-type]
        result = attack_all(attack, baseline, test.images, test.labels, batch=batch)
        rows = np.flatnonzero(result.success)
        found.append(
            {
                "image": np.asarray(result.image)[rows],
                "source": rows.astype(np.int32),
                "label": test.labels[rows],
                "prediction": np.asarray(result.prediction)[rows],
                "norm": np.full(len(rows), number, np.int32),
                "l0": np.asarray(result.l0)[rows].astype(np.int32),
            }
        )
    merged = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    if test.images.dtype != np.uint8:
        return merged
    return {**merged, "stored_wrong": _stored_wrong(baseline, merged, batch)}


def calibrated_radius(part: Part, baseline: Classifier, test: Images, batch: int) -> Arrays:
    """The radius in linf at which the set A has `part.set_size` images, the other norms at their radii; by bisection.

    Returns:
        radius float64 []; images int64 [], of A at this radius.

    Raises:
        ValueError: the other norms give that many images already; or no radius up to 1 gives so many.
    """
    labels = test.labels
    others = 0
    for norm in part.norms:
        if norm != "linf":
            attack = steepest(norm, part.radius(norm) * test.std, levels=None, box=False)  # type: ignore[arg-type]
            others += int(np.sum(attack_all(attack, baseline, test.images, labels, batch=batch).success))
    if others >= part.set_size:
        raise ValueError(f"set_size={part.set_size} is no more than the {others} images that the other norms give")
    clean, unit = _pixels(test.images), test.std * _signs(baseline, test.images, labels, batch)
    right = answers_of(baseline, clean, batch) == labels

    def fooled(radius: float) -> int:
        answers = answers_of(baseline, clean + np.float32(radius) * unit, batch)
        return int(np.sum(right & (answers != labels)))

    low, high = 0.0, _LARGEST_RADIUS
    if others + fooled(high) < part.set_size:
        raise ValueError(
            f"set_size={part.set_size} cannot be reached: with a linf radius of {high:g} standardised units the set "
            f"has {others + fooled(high)} images"
        )
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if others + fooled(middle) < part.set_size else (low, middle)
    return {"radius": np.asarray(high), "images": np.asarray(others + fooled(high))}


def on_the_grid(images: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1] and rounded to 8 bits, as an image file would hold them.

    >>> (on_the_grid(np.array([-0.2, 0.5, 1.3])) * 255).round().tolist()
    [0.0, 128.0, 255.0]
    """
    return (np.round(np.clip(images, 0, 1) * 255) / 255).astype(np.float32)


def sweep(part: Part, classifier: Classifier, test: Images, batch: int) -> np.ndarray:
    """Accuracy float64 [E] under eq. 2 at each of `part.epsilons`, with the classifier's own gradient.

    As nothing is clipped, the image at epsilon is the clean one plus epsilon times one perturbation.
    """
    right = np.zeros((len(part.epsilons), len(test.labels)), np.bool_)
    for start in range(0, len(test.labels), batch):
        rows = slice(start, start + batch)
        images, labels = test.images[rows], test.labels[rows]
        clean, unit = _pixels(images), test.std * _signs(classifier, images, labels, batch)
        for index, epsilon in enumerate(part.epsilons):
            right[index, rows] = answers_of(classifier, clean + np.float32(epsilon) * unit, batch) == labels
    return right.mean(axis=1)


def pgd_accuracy(part: Part, classifier: Classifier, test: Images, batch: int, seed: int) -> float:
    """Accuracy under 20 steps of PGD in the linf ball of the training radius, on the first images; not in the paper."""
    radius = part.radius("linf") * test.std
    images, labels = test.images[: part.pgd_images], test.labels[: part.pgd_images]
    attack = pgd(radius, step_size=radius / 8, steps=20, levels=None)
    result = attack_all(attack, classifier, images, labels, batch=batch, key=key_of(seed, part.data, "pgd"))
    return float((np.asarray(result.prediction) == labels).mean())


def _signs(classifier: Classifier, images: np.ndarray, labels: np.ndarray, batch: int) -> np.ndarray:
    """The signs of the loss's gradient, float32 like the images: eq. 2 with epsilon = 1."""
    step = steepest("linf", 1.0, levels=None, box=False)
    moved = np.asarray(attack_all(step, classifier, images, labels, batch=batch).image)
    return np.round(moved - _pixels(images))


def _pixels(images: np.ndarray) -> np.ndarray:
    return np.asarray(to_float(images)) if images.dtype == np.uint8 else images


def _stored_wrong(baseline: Classifier, found: Arrays, batch: int) -> np.ndarray:
    if not len(found["label"]):
        return np.zeros(0, np.bool_)
    return answers_of(baseline, on_the_grid(found["image"]), batch) != found["label"]
