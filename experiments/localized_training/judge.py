"""What a model makes of natural images and of attacks on itself: a row of Fig. 2, and accuracies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks import apgd, perturb, square
from advjax.classifier import Classifier
from advjax.data import Dataset, to_float
from advjax.evaluate import evaluate
from experiments.batches import logits_of
from experiments.localized_training.config import ADVERSARIAL, STRONG, Config, attack, region
from experiments.states import key_of
from experiments.store import Arrays

__all__ = ["examples", "judge", "judge_strongly"]

_MODEL = "model"


def judge(config: Config, classifier: Classifier, test: Dataset) -> Arrays:
    """The five losses of a model and its accuracies. Each attack is made on the model itself.

    Returns:
        for each input in turn loss_<input> float32 and right_<input> bool: the first of all test images, the
        others of the first `test_images`.
    """
    count = min(config.test_images, len(test.labels))
    key = key_of(config.seed, "attack")
    logits = logits_of(classifier, test.images, config.attack_batch)
    clean_loss = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(test.labels))
    attacks = {name: attack(config, name) for name in ADVERSARIAL}
    first = test.images[:count], test.labels[:count]
    models, batch = {_MODEL: classifier}, config.attack_batch
    attacked = evaluate(models, attacks, first, key=key, batch_size=batch, progress="attack")
    cells = {name: attacked.cell(_MODEL, name) for name in ADVERSARIAL}
    return {
        "loss_natural": np.asarray(clean_loss),
        "right_natural": (logits.argmax(-1) == test.labels) & ~np.isnan(logits).any(-1),
        **{f"loss_{name}": np.asarray(cell.loss, np.float32) for name, cell in cells.items()},
        **{f"right_{name}": np.asarray(cell.correct) for name, cell in cells.items()},
    }


def judge_strongly(config: Config, classifier: Classifier, test: Dataset) -> Arrays:
    """APGD on the cross-entropy and on the targeted difference of logits, and Square, beside the paper's PGD.

    Returns:
        for "clean" and each of `STRONG` whether the answer is right, bool [strong_images].
    """
    attacks = {
        "pgd": attack(config, "standard"),
        "apgd-ce": apgd(config.epsilon, steps=config.apgd_steps, levels=None),
        "apgd-dlr": apgd(config.epsilon, steps=config.apgd_steps, objective="dlr-targeted", levels=None),
        "square": square(config.epsilon, queries=config.square_queries, levels=None),
    }
    report = evaluate(
        {_MODEL: classifier},
        {name: attacks[name] for name in STRONG},
        (test.images[: config.strong_images], test.labels[: config.strong_images]),
        key=key_of(config.seed, "strong"),
        batch_size=config.attack_batch,
        progress="APGD and Square",
    )
    return {name: np.asarray(report.cell(_MODEL, name).correct) for name in ("clean", *STRONG)}


def examples(config: Config, classifier: Classifier, test: Dataset) -> Arrays:
    """One digit of each class under each attack, for Fig. 1.

    Returns:
        source int32 [10]; region bool and image float32 [4, 10, H, W, C], by attack; prediction int32 [4, 10].
    """
    source = np.array([np.flatnonzero(test.labels == digit)[0] for digit in range(test.num_classes)], np.int32)
    images, labels = jnp.asarray(to_float(test.images[source])), jnp.asarray(test.labels[source])
    key = key_of(config.seed, "examples")
    results = [perturb(attack(config, name), classifier, images, labels, key) for name in ADVERSARIAL]
    regions = [jax.vmap(region(config, name))(images) for name in ADVERSARIAL]
    return {
        "source": source,
        "region": np.stack(regions),
        "image": np.stack([result.image for result in results]),
        "prediction": np.stack([result.prediction for result in results]),
    }
