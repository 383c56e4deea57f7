"""Many lengths of one perturbation: the gradient is taken once."""

from collections.abc import Callable

import numpy as np

from advjax.attacks import steepest
from advjax.classifier import Classifier
from advjax.evaluate.whole_sets import answers_of, perturb_all, pixels

__all__ = ["epsilon_of_count", "sign_ray"]


def sign_ray(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, batch_size: int = 500
) -> Callable[[float], np.ndarray]:
    """The fast gradient sign of a whole data set at any epsilon, nothing clipped or rounded: x + epsilon sign(grad J).

    As only epsilon changes, one gradient serves all: a curve of accuracy by epsilon costs a forward pass a point.

    Args:
      classifier: attacked through its own gradient.
      images: [N, H, W, C], uint8 or float32 in [0, 1].
      labels: int32 [N].
      batch_size: images at once.

    Returns:
      `right(epsilon) -> bool [N]`: whether the answer at that epsilon, in units of [0, 1], is the label.

    Source: Goodfellow, Shlens, Szegedy 2015, without its clipping.

    >>> import jax.numpy as jnp
    >>> from advjax.classifier import from_function
    >>> mean = from_function(lambda w, x: x.mean((1, 2, 3))[:, None] * w, jnp.array([[1.0, -1.0]]))
    >>> right = sign_ray(mean, np.full((1, 2, 2, 1), 51, np.uint8), np.zeros(1, np.int32))
    >>> [right(epsilon).item() for epsilon in (0.0, 0.1, 0.3)]
    [True, True, False]
    """
    clean = np.asarray(pixels(images))
    step = steepest("linf", 1.0, levels=None, box=False)
    # Back from the moved image, where a sign is one up to rounding.
    signs = np.round(np.asarray(perturb_all(step, classifier, images, labels, batch_size=batch_size).image) - clean)

    def right(epsilon: float) -> np.ndarray:
        return answers_of(classifier, clean + np.float32(epsilon) * signs, batch_size) == labels

    return right


def epsilon_of_count(right: Callable[[float], np.ndarray], count: int, largest: float, halvings: int = 20) -> float:
    """The epsilon in [0, largest] at which `count` right answers have turned wrong, by bisection.

    Args:
      right: from `sign_ray`.
      count: of images that are right at 0 and wrong at epsilon; 1 or more.
      largest: where to stop; as many must be wrong there.
      halvings: of the interval.

    Raises:
      ValueError: fewer are wrong at `largest`.

    >>> epsilon_of_count(lambda epsilon: np.array([0.2, 0.4]) >= epsilon, 2, 1.0, 3)
    0.5
    """
    clean = right(0.0)

    def fooled(epsilon: float) -> int:
        return int(np.sum(clean & ~right(epsilon)))

    if fooled(largest) < count:
        raise ValueError(f"count={count} cannot be reached: at epsilon {largest:g} {fooled(largest)} images are wrong")
    low, high = 0.0, largest
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if fooled(middle) < count else (low, middle)
    return high
