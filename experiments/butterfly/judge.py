"""What is judged on T: classifiers as they are, with generators, under baselines; all answers image by image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.attacks import Attack, added, fgs, universal_perturbation
from advjax.classifier import Classifier, from_nnx
from advjax.data import Dataset, to_float
from advjax.evaluate import answers_of, logits_of, pass_all, perturb_all
from advjax.generators import Players, generated
from experiments.butterfly.config import Config
from experiments.butterfly.images import Parts
from experiments.networks import key_of
from experiments.store import Arrays

__all__ = ["SHOWN", "counted", "eha", "judged", "matched", "root_mean_square", "shown", "uap", "vanilla"]

# Images kept for the figures.
SHOWN = 6
_HALVINGS = 16
_UAP = 10 / 255  # its paper's radius, and the share of fooled images that it stops at
_FOOLED = 0.8


def counted(logits: np.ndarray, labels: np.ndarray) -> Arrays:
    """Of logits [N, K]: right bool [N] and probability float32 [N], the softmax of the true class; NaN is neither."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probability = np.take_along_axis(shifted, labels[:, None], -1)[:, 0] / shifted.sum(-1)
    broken = np.isnan(probability)
    return {
        "right": (logits.argmax(-1) == labels) & ~broken,
        "probability": np.where(broken, 0, probability).astype(np.float32),
    }


def vanilla(config: Config, classifier: Classifier, images: Dataset) -> Arrays:
    """A classifier on images as they are: see `counted`."""
    return counted(logits_of(classifier, images.images, config.judge_batch), images.labels)


def shown(right: np.ndarray) -> np.ndarray:
    """Which images the figures show of a classifier: wrong ones first (half), then right ones."""
    wrong = np.flatnonzero(~right)[: SHOWN // 2]
    return np.concatenate([wrong, np.flatnonzero(right)[: SHOWN - len(wrong)]])


def judged(config: Config, parts: Parts, before: Players, after: Players, classifier: Classifier) -> Arrays:
    """A trained generator on T; `before` and `after` are the players around its training.

    Returns:
        right, probability: of x~ as in the paper, not clipped; `_rounded`: of x~ clipped and rounded to 256 levels.
        mean_square float32 [N]: v^2, in v's units; pixel_square: of std v, in pixels; pixel_square_rounded: of what
        clipping and rounding leave of it; norm: ||std v||_2; pass float32 [n]: of the first rounded images against the
        clean ones; changed: how many variables of the classifier and the trunk the training changed; units: pixels a v.
        examples [SHOWN]: indices of T, with the clean image, v, and the answers to x and x~.
    """
    test, units = parts.test, np.asarray(parts.units, np.float32)
    raw = counted(logits_of(from_nnx(after), test.images, config.judge_batch), test.labels)
    v = logits_of(from_nnx(after.generator), test.images, config.judge_batch)
    clean = np.asarray(to_float(test.images))
    rounded = rounded_images(config, after, classifier, test)
    first = slice(config.pass_images)
    answers = answers_of(classifier, test.images, config.judge_batch)
    examples = shown(answers == test.labels)
    return {
        **raw,
        **{f"{name}_rounded": each for name, each in vanilla_of(config, classifier, rounded, test.labels).items()},
        "mean_square": np.mean(v**2, (1, 2, 3)),
        "pixel_square": np.mean((units * v) ** 2, (1, 2, 3)),
        "pixel_square_rounded": np.mean((rounded - clean) ** 2, (1, 2, 3)),
        "norm": np.sqrt(np.sum((units * v) ** 2, (1, 2, 3))),
        "pass": pass_all(rounded[first], clean[first], batch_size=config.judge_batch),
        "changed": np.asarray(changed(before, after)),
        "units": units,
        "examples": examples,
        "example_images": clean[examples],
        "example_v": v[examples],
        "example_answers": np.stack([answers[examples], answers_of(from_nnx(after), test.images[examples])]),
    }


def changed(before: Players, after: Players) -> int:
    """How many variables of the frozen networks differ in a bit."""
    pairs = zip(*(_arrays(players.frozen) for players in (before, after)), strict=True)
    return sum(first.tobytes() != second.tobytes() for first, second in pairs)


def _arrays(module: nnx.Module) -> list[np.ndarray]:
    leaves = jax.tree.leaves(nnx.state(module))
    return [np.asarray(leaf) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]


def rounded_images(config: Config, players: Players, classifier: Classifier, images: Dataset) -> np.ndarray:
    """x~ clipped to [0, 1] and rounded to 256 levels, float32 [N, H, W, C]."""
    attack = generated(players.generator)
    return _perturbed(config, attack, classifier, images)


def _perturbed(config: Config, attack: Attack, classifier: Classifier, images: Dataset) -> np.ndarray:
    result = perturb_all(attack, classifier, images.images, images.labels, batch_size=config.judge_batch)
    return np.asarray(result.image)


def vanilla_of(config: Config, classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> Arrays:
    """The same as `vanilla` of images and labels apart."""
    return counted(logits_of(classifier, images, config.judge_batch), labels)


def root_mean_square(perturbed: np.ndarray, images: np.ndarray) -> float:
    """The root of the mean square of what changed in pixels, over all images."""
    clean = np.asarray(to_float(images))
    return float(np.sqrt(np.mean((perturbed - clean) ** 2, dtype=np.float64)))


def matched(size_of: Callable[[float], float], wanted: float, most: float = 1.0) -> float:
    """The strength in [0, most] at which a growing size is as wanted, by halving; `most` where it never is."""
    low, high = 0.0, most
    if size_of(high) <= wanted:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size_of(middle) < wanted else (low, middle)
    return (low + high) / 2


def eha(config: Config, parts: Parts, classifier: Classifier, players: Players) -> Arrays:
    """FGSM at the RMS in pixels, after clipping, that the generator has on V: Table 2's EHA ([R]: no strength there).

    Returns:
        as `_strength` says; epsilon: that was found.
    """
    on_v = parts.validation
    wanted = root_mean_square(rounded_images(config, players, classifier, on_v), on_v.images)

    def images(epsilon: float, asked: Dataset) -> np.ndarray:
        return _perturbed(config, fgs(epsilon, levels=None), classifier, asked)

    epsilon = matched(lambda epsilon: root_mean_square(images(epsilon, on_v), on_v.images), wanted)
    return _strength(config, parts, classifier, images(epsilon, parts.test), wanted) | {"epsilon": np.asarray(epsilon)}


def uap(config: Config, parts: Parts, classifier: Classifier, players: Players) -> Arrays:
    """The universal perturbation of its paper's radius, and one at the generator's RMS on V.

    The second is found in the ball whose radius is that RMS, and then scaled until, clipped, it has it.

    Returns:
        as `_strength` says, for both (the second's names end in _matched); fooled, passes: of the search, for both.
    """
    on_v, found = parts.validation, dict[str, np.ndarray]()
    wanted = root_mean_square(rounded_images(config, players, classifier, on_v), on_v.images)
    some = jnp.asarray(to_float(parts.generator.images[: config.uap_images]))
    for suffix, radius in {"": _UAP, "_matched": wanted}.items():
        made = universal_perturbation(
            classifier, some, key_of(config.seed, "uap"), epsilon=radius, passes=config.uap_passes, fooling_rate=_FOOLED
        )
        v = np.asarray(made.perturbation)

        def images(scale: float, asked: Dataset, v: np.ndarray = v) -> np.ndarray:
            return _perturbed(config, added(np.float32(scale) * v, levels=None), classifier, asked)

        scale = 1.0
        if suffix:
            scale = matched(lambda scale: root_mean_square(images(scale, on_v), on_v.images), wanted, most=20.0)
        own = _strength(config, parts, classifier, images(scale, parts.test), wanted)
        own |= {"fooled": np.asarray(made.fooling_rates[-1]), "passes": np.asarray(made.passes)}
        found |= {f"{name}{suffix}": array for name, array in own.items()}
    return found


def _strength(config: Config, parts: Parts, classifier: Classifier, images: np.ndarray, wanted: float) -> Arrays:
    """right, probability [N]; pixel_square [N], the mean square of what changed; wanted: the RMS that was matched."""
    test = parts.test
    return {
        **vanilla_of(config, classifier, images, test.labels),
        "pixel_square": np.mean((images - np.asarray(to_float(test.images))) ** 2, (1, 2, 3)),
        "wanted": np.asarray(wanted),
    }
