"""The set A of the paper: the baseline's adversarial test images, one step of steepest ascent in each norm."""

import numpy as np

from advjax.attacks import pgd, steepest
from advjax.classifier import Classifier
from experiments.batches import attack_all, logits_of
from experiments.robust_optimization.config import Part
from experiments.robust_optimization.preprocess import Images
from experiments.states import key_of
from experiments.store import Arrays

__all__ = ["adversarial_set", "on_the_grid", "pgd_accuracy", "sweep"]


def adversarial_set(part: Part, baseline: Classifier, test: Images, batch: int) -> Arrays:
    """Eq. 11 in each norm at its training radius on all test images; kept where a right answer turns wrong.

    Nothing is clipped or rounded, as in the scripts. An image that two norms turn is in the set twice.

    Returns:
        image float32 [M, H, W, C]; source int32 [M], its index in the test set; label and prediction int32 [M];
        norm int32 [M], index into `part.norms`; stored_wrong bool [M], whether the baseline is still wrong once the
        image is clipped to [0, 1] and rounded to 8 bits; l0 int32 [M], the pixel values that were changed.
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
    return {**merged, "stored_wrong": _stored_wrong(baseline, merged, batch)}


def on_the_grid(images: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1] and rounded to 8 bits, as an image file would hold them.

    >>> on_the_grid(np.array([-0.2, 0.5, 1.3])).round(4).tolist()
    [0.0, 0.502, 1.0]
    """
    return (np.round(np.clip(images, 0, 1) * 255) / 255).astype(np.float32)


def sweep(part: Part, classifier: Classifier, test: Images, batch: int) -> np.ndarray:
    """Accuracy float64 [E] under eq. 2 at each of `part.epsilons`, with the classifier's own gradient.

    As nothing is clipped, the image at epsilon is the clean one plus epsilon times one perturbation.
    """
    right = np.zeros((len(part.epsilons), len(test.labels)), np.bool_)
    step = steepest("linf", test.std, levels=None, box=False)
    for start in range(0, len(test.labels), batch):
        rows = slice(start, start + batch)
        images, labels = test.images[rows], test.labels[rows]
        clean = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
        unit = np.asarray(attack_all(step, classifier, images, labels, batch=batch).image) - clean
        for index, epsilon in enumerate(part.epsilons):
            logits = logits_of(classifier, clean + np.float32(epsilon) * unit, batch)
            right[index, rows] = logits.argmax(-1) == labels
    return right.mean(axis=1)


def pgd_accuracy(part: Part, classifier: Classifier, test: Images, batch: int, seed: int) -> float:
    """Accuracy under 20 steps of PGD in the linf ball of the training radius, on the first images; not in the paper."""
    radius = part.radius("linf") * test.std
    images, labels = test.images[: part.pgd_images], test.labels[: part.pgd_images]
    attack = pgd(radius, step_size=radius / 8, steps=20, levels=None)
    result = attack_all(attack, classifier, images, labels, batch=batch, key=key_of(seed, part.data, "pgd"))
    return float((np.asarray(result.prediction) == labels).mean())


def _stored_wrong(baseline: Classifier, found: Arrays, batch: int) -> np.ndarray:
    if not len(found["label"]):
        return np.zeros(0, np.bool_)
    return logits_of(baseline, on_the_grid(found["image"]), batch).argmax(-1) != found["label"]
