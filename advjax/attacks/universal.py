"""One perturbation for all images (Moosavi-Dezfooli, Fawzi, Fawzi, Frossard 2017, algorithm 1)."""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Problem
from advjax.attacks.checks import (
    Facts,
    check_classifier,
    check_facts,
    check_images,
    check_logits,
    collect_facts,
    on_host,
)
from advjax.attacks.consistency import consistency_faults
from advjax.attacks.constraints import All, Ball, ball
from advjax.attacks.deepfool import DeepFool
from advjax.attacks.directions import L2
from advjax.attacks.faults import image_faults, model_faults, warn_faults
from advjax.attacks.settings import check_count
from advjax.classifier import Classifier
from advjax.fastcpu import accelerate, compiled

__all__ = ["UniversalPerturbation", "universal_perturbation"]

_TOGETHER = 100  # images that are classified side by side, as in the authors' code


class UniversalPerturbation(NamedTuple):
    """What `universal_perturbation` found.

    Attributes:
      perturbation: v [H, W, C], in units of [0, 1], for `added`.
      fooling_rates: [passes], the share of the images that v fooled after each pass; after the last that was made, its.
      passes: how many were made.
      calls: evaluations of the model: forward passes, a gradient counting as one; those of all images together.
      non_finite: some gradient held NaN or infinity; see `Perturbation`.
    """

    perturbation: jax.Array
    fooling_rates: jax.Array
    passes: jax.Array
    calls: jax.Array
    non_finite: jax.Array


def universal_perturbation(
    classifier: Classifier,
    images: jax.Array,
    key: jax.Array,
    *,
    epsilon: float = 10 / 255,
    norm: Literal["linf", "l2"] = "linf",
    passes: int = 10,
    fooling_rate: float = 0.8,
    steps: int = 10,
    overshoot: float = 0.02,
    classes: int = 10,
) -> UniversalPerturbation:
    """A perturbation that fools a classifier on most images (Moosavi-Dezfooli et al. 2017, algorithm 1).

    From v = 0 on, and for each image x in an order drawn anew for each pass, where x + v does not fool yet

        v <- P(v + (1 + overshoot) r),    r the l2 DeepFool way from x + v to its nearest boundary, P to the ball,

    until after a pass v fools the wanted share of the images.  To fool is to change the answer to the clean image,
    right or wrong: no labels are asked for.  As in the authors' code x + v is not clipped to [0, 1] here, v stays as
    it is where DeepFool does not arrive in its steps, and DeepFool has 10 of them.  Otherwise than there, where it
    arrives in the last or the last but one counts too; and the l2 ball is projected onto, where they scale v to its
    sphere.  An answer changes where it does by more than rounding error (`Misclassified`).

    All passes are one compiled program, reused for other images and weights of the same shapes and other numbers.
    v changes with each image, so that they come one after the other: a pass makes between 2 and
    `2 + steps * classes` evaluations of the model an image, all but the last one of a single image.

    Use it with `added(found.perturbation)`, which clips: `perturb`, `evaluate` and `train_step` take that.

    Args:
      classifier: as for `perturb`.
      images: [N, H, W, C] float32 in [0, 1], on which v is found; the paper has 10,000.
      key: `jax.random.key(seed)`, for the orders.
      epsilon: radius of the ball of v, in units of [0, 1].
      norm: of the ball, "linf" or "l2".
      passes: most passes over the images.
      fooling_rate: the share of images in (0, 1] at which it stops.
      steps, overshoot, classes: as for `deepfool`.

    Raises:
      TypeError, ValueError: an argument is not as above; the message names it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import added, from_function, perturb, universal_perturbation
      >>> classifier = from_function(lambda w, x: jnp.stack([x.mean((1, 2, 3)), w - x.mean((1, 2, 3))], -1), 0.8)
      >>> images = jnp.linspace(0.41, 0.43, 4).reshape(4, 1, 1, 1) * jnp.ones((4, 4, 4, 1))  # answered 0, as above 0.4
      >>> found = universal_perturbation(classifier, images, jax.random.key(0), fooling_rate=1.0)
      >>> found.fooling_rates[-1].tolist(), found.passes.tolist(), bool(abs(found.perturbation).max() <= 10 / 255)
      (1.0, 1, True)
      >>> perturb(added(found.perturbation, levels=None), classifier, images, jnp.zeros(4, int)).success.tolist()
      [True, True, True, True]
    """
    check_classifier(classifier)
    check_images(images)
    _check_key(key)
    if norm not in ("linf", "l2"):
        raise ValueError(f'norm must be "linf" or "l2", got {norm!r}')
    _check_number("epsilon", epsilon, "a finite number of 0 or more", lambda number: 0 <= number < math.inf)
    _check_number("overshoot", overshoot, "a finite number of 0 or more", lambda number: 0 <= number < math.inf)
    _check_number("fooling_rate", fooling_rate, "a share in (0, 1]", lambda number: 0 < number <= 1)
    check_count("passes", passes)
    # No box and no grid: DeepFool goes where it leads.
    fool = DeepFool(L2(), All(()), overshoot, classes, steps)
    # A count of images, so that the share is met exactly; 0.07 * 100 is a little above 7.
    wanted = jnp.int32(max(1, math.ceil(fooling_rate * images.shape[0] - 1e-9)))
    found, facts = _run(classifier, images, key, fool, ball(norm, epsilon), wanted, passes=passes)
    if on_host(facts):
        check_facts(fool, facts)
        warn_faults(np.asarray(facts.faults), stacklevel=2)
    return found


class _Search(NamedTuple):
    """Between two passes; `fooled` [passes] counts images, the others are of `UniversalPerturbation`."""

    v: jax.Array
    fooled: jax.Array
    passes: jax.Array
    calls: jax.Array
    non_finite: jax.Array


@functools.partial(compiled, static_argnames="passes")
def _run(
    classifier: Classifier,
    images: jax.Array,
    key: jax.Array,
    fool: DeepFool,
    region: Ball,
    wanted: jax.Array,
    passes: int,
) -> tuple[UniversalPerturbation, Facts]:
    images = jnp.asarray(images)
    fool, region = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(images.dtype), (fool, region))
    check_logits(classifier, images[0])
    search = accelerate(functools.partial(_search, passes=passes))
    clean_logits, answers, last = search(classifier, images, key, fool, region, wanted)
    rates = last.fooled.astype(images.dtype) / images.shape[0]
    faults = image_faults(None, images, answers, clean_logits.shape[-1]) | model_faults(clean_logits)
    faults = faults | consistency_faults(classifier, images)
    found = UniversalPerturbation(last.v, rates, last.passes, last.calls, last.non_finite)
    return found, collect_facts(faults, images, answers, clean_logits.shape[-1])


def _search(
    classifier: Classifier,
    images: jax.Array,
    key: jax.Array,
    fool: DeepFool,
    region: Ball,
    wanted: jax.Array,
    passes: int,
) -> tuple[jax.Array, jax.Array, _Search]:
    """The clean logits [N, K], the answers to them [N], and what the passes found."""
    count = images.shape[0]

    def logits_of(image: jax.Array) -> jax.Array:
        return classifier(image[None])[0].astype(image.dtype)

    def unfinished(s: _Search) -> jax.Array:
        return (s.passes < passes) & (s.fooled[-1] < wanted)

    def one_pass(s: _Search) -> _Search:
        order = jax.random.permutation(jax.random.fold_in(key, s.passes), count)
        visit = functools.partial(_visit, logits_of, images, answers, fool, region)
        s, _ = jax.lax.scan(visit, s, order)

        def is_fooled(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            image, answer = pair
            return fool.criterion(logits_of(image + s.v), answer)

        fooled = jnp.sum(jax.lax.map(is_fooled, (images, answers), batch_size=_TOGETHER), dtype=jnp.int32)
        # The last entry is always that of the last pass.
        fooled = jnp.where(jnp.arange(passes) < s.passes, s.fooled, fooled)
        return s._replace(fooled=fooled, passes=s.passes + 1, calls=s.calls + count)

    clean_logits = jax.lax.map(logits_of, images, batch_size=_TOGETHER)
    answers = jnp.argmax(clean_logits, axis=-1).astype(jnp.int32)
    start = _Search(
        v=jnp.zeros_like(images[0]),
        fooled=jnp.zeros(passes, jnp.int32),
        passes=jnp.int32(0),
        calls=jnp.int32(count),
        non_finite=jnp.zeros((), jnp.bool_),
    )
    return clean_logits, answers, jax.lax.while_loop(unfinished, one_pass, start)


def _visit(
    logits_of: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    answers: jax.Array,
    fool: DeepFool,
    region: Ball,
    s: _Search,
    index: jax.Array,
) -> tuple[_Search, None]:
    """v after it met one image: changed where that was not fooled, and DeepFool now fools it."""
    image = images[index] + s.v
    problem = Problem(logits_of, image, answers[index], logits_of(image))
    path = fool.follow(problem)
    v = region(s.v + (1 + fool.overshoot) * path.change, jnp.zeros_like(s.v))
    return s._replace(
        v=jnp.where(path.fooled & (path.steps > 0), v, s.v),
        calls=s.calls + 1 + fool.calls(problem, path),
        non_finite=s.non_finite | path.non_finite,
    ), None


def _check_key(key: object) -> None:
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise TypeError(f"key must be jax.random.key(seed), for the order of the images, got {key!r}")


def _check_number(name: str, number: object, wanted: str, allowed: Callable[[float], bool]) -> None:
    if not isinstance(number, Real) or isinstance(number, bool) or not allowed(float(number)):
        raise ValueError(f"{name} must be {wanted}, got {number!r}")
