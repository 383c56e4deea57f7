"""What a network makes of the test set, of the set A, and of attacks through its own gradient."""

import numpy as np

from advjax.classifier import Classifier
from experiments.batches import answers_of
from experiments.robust_optimization.adversaries import pgd_accuracy, sweep
from experiments.robust_optimization.config import Config, Part
from experiments.robust_optimization.preprocess import Images
from experiments.store import Arrays

__all__ = ["judge"]


def judge(config: Config, part: Part, classifier: Classifier, test: Images, found: Arrays) -> Arrays:
    """The numbers of one network.

    Returns:
        test float64 [], accuracy on the test set; adversarial_right and adversarial_count int64 [norms], right
        answers and images of the set A by norm; sweep float64 [epsilons], accuracy of Fig. 3; pgd float64 [].
    """
    batch = config.attack_batch
    test_right = answers_of(classifier, test.images, batch) == test.labels
    empty = not len(found["label"])
    right = np.zeros(0, np.bool_) if empty else answers_of(classifier, found["image"], batch) == found["label"]
    norms = len(part.norms)
    return {
        "test": np.asarray(test_right.mean()),
        "adversarial_right": np.bincount(found["norm"][right], minlength=norms),
        "adversarial_count": np.bincount(found["norm"], minlength=norms),
        "sweep": sweep(part, classifier, test, batch),
        "pgd": np.asarray(pgd_accuracy(part, classifier, test, batch, config.seed)),
    }
