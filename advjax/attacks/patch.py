"""Adversarial patches: one picture that fools wherever it is pasted (Brown, Mané, Roy, Abadi and Gilmer 2017)."""

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.attack import Asks, Attack, Problem, State, made_finite
from advjax.attacks.checks import Facts, check_facts, check_inputs, check_logits, collect_facts, on_host
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.faults import image_faults, model_faults, warn_faults
from advjax.attacks.objectives import CrossEntropy, Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints
from advjax.attacks.settings import check_count, check_radius, check_real
from advjax.classifier import Classifier
from advjax.fastcpu import compiled
from advjax.keys import image_keys
from advjax.scores.warp import pixel_grid, project, sample
from advjax.value import number, static, value

__all__ = ["Pasted", "UniversalPatch", "pasted", "patch_masks", "universal_patch"]

_TOGETHER = 100  # images that are judged side by side


class UniversalPatch(NamedTuple):
    """What `universal_patch` found.

    Attributes:
      patch: [h, w, C] in [0, 1], for `pasted`.
      success_rate: share of the images that meet the criterion under the patch, each at one more random place; of
        those that are not of the target's class.
      calls: evaluations of the model, a gradient counting as one; those of all images together.
      non_finite: some gradient held NaN or infinity; see `Perturbation`.
    """

    patch: jax.Array
    success_rate: jax.Array
    calls: jax.Array
    non_finite: jax.Array


def universal_patch(
    classifier: Classifier,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    size: tuple[int, int],
    target: int | None = None,
    max_rotation: float = 0.0,
    scales: tuple[float, float] = (1.0, 1.0),
    steps: int = 500,
    batch: int = 16,
    step_size: float = 0.05,
) -> UniversalPatch:
    """A patch that fools a classifier wherever it lies on whatever image (Brown et al. 2017, expectation over places).

    With A(p, x, t) the image x under the patch p at the random place, angle and scale t,

        p = argmax E_{x, t} J(A(p, x, t)),    J = log P(target), or without a target the cross-entropy of the label,

    climbed by Adam from gray, clipped to [0, 1] after each step, on `batch` images drawn with their t anew.  Judge it
    on other images: `perturb(pasted(found.patch), ...)`, or of `targeted(pasted(found.patch), target)`.

    Args:
      classifier, images, labels: as for `perturb`, of the images that it is trained on.
      key: `jax.random.key(seed)`.
      size: rows and columns of the patch, at most the image's.
      target: the class that all images are to be answered with; None: any wrong class.
      max_rotation, scales: as for `pasted`.
      steps, batch, step_size: of Adam.

    Raises:
      TypeError, ValueError: an argument is not as above; the message names it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import from_function, perturb
      >>> from advjax.attacks import pasted, universal_patch
      >>> classifier = from_function(lambda w, x: jnp.stack([w + 0 * x.sum((1, 2, 3)), 2 * x.sum((1, 2, 3))], -1), 5.0)
      >>> images, labels = jnp.zeros((4, 4, 4, 1)), jnp.zeros(4, int)
      >>> found = universal_patch(classifier, images, labels, jax.random.key(0), size=(2, 2), steps=20)
      >>> found.patch.shape, found.success_rate.tolist(), found.calls.tolist()  # white
      ((2, 2, 1), 1.0, 328)
    """
    if len(size) != 2:
        raise ValueError(f"size must be the rows and columns of the patch, got {size!r}")
    for name, count in (("size", size[0]), ("size", size[1]), ("steps", steps), ("batch", batch)):
        check_count(name, count)
    check_radius("step_size", step_size)
    gray = np.full((*size, np.shape(images)[-1]), 0.5, np.float32)
    attack = pasted(gray, max_rotation=max_rotation, scales=scales, levels=None)
    attack = attack if target is None else attack.towards(target)
    check_inputs(attack, classifier, images, labels, key)
    if np.ndim(key):
        raise ValueError(f"key must be one key, jax.random.key(seed), got {key.shape}")
    found, facts = _run(attack, classifier, images, labels.astype(jnp.int32), key, step_size, steps=steps, batch=batch)
    if on_host(facts):
        check_facts(attack, facts)
        warn_faults(np.asarray(facts.faults), stacklevel=2)
    return found


@functools.partial(compiled, static_argnames=("steps", "batch"))
def _run(
    attack: "Pasted",
    classifier: Classifier,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    step_size: Number,
    steps: int,
    batch: int,
) -> tuple[UniversalPatch, Facts]:
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    attack = jax.tree.map(lambda leaf: jnp.asarray(leaf, None if leaf.dtype.kind == "i" else images.dtype), attack)
    check_logits(classifier, images[0])
    adam, criterion = optax.scale_by_adam(), attack.criterion

    def logits_of(image: jax.Array) -> jax.Array:
        return classifier(image[None])[0].astype(image.dtype)

    def objective(patch: jax.Array, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        logits = logits_of(dataclasses.replace(attack, patch=patch).paste(image, key))
        return attack.objective(logits, label, logits)

    def again(step: jax.Array, carry: tuple[jax.Array, optax.OptState, jax.Array]) -> tuple[jax.Array, ...]:
        patch, state, broken = carry
        which, places = jax.random.split(jax.random.fold_in(key, step))
        drawn = jax.random.randint(which, (batch,), 0, images.shape[0])
        slopes = jax.vmap(jax.grad(objective), (None, 0, 0, 0))(
            patch, images[drawn], labels[drawn], image_keys(places, batch)
        )
        slopes, odd = jax.vmap(made_finite)(slopes)
        with jax.numpy_dtype_promotion("standard"):
            change, state = adam.update(jnp.mean(slopes, axis=0), state)
        return jnp.clip(patch + step_size * change, 0.0, 1.0), state, broken | jnp.any(odd)

    first = jnp.asarray(attack.patch)
    patch, _, broken = jax.lax.fori_loop(0, steps, again, (first, adam.init(first), jnp.zeros((), jnp.bool_)))
    last = dataclasses.replace(attack, patch=patch)

    def judged(one: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        image, label, key = one
        return logits_of(image), criterion(logits_of(last.paste(image, key)), label)

    keys = image_keys(jax.random.fold_in(key, steps), images.shape[0])
    clean_logits, met = jax.lax.map(judged, (images, labels, keys), batch_size=_TOGETHER)
    faults = image_faults(None, images, labels, clean_logits.shape[-1]) | model_faults(clean_logits)
    possible = jnp.sum(criterion.possible(labels).astype(images.dtype))
    rate = jnp.sum(met.astype(images.dtype)) / jnp.maximum(possible, 1)
    calls = jnp.int32(steps * batch + 2 * images.shape[0])
    found = UniversalPatch(patch, rate, calls, broken)
    return found, collect_facts(faults, images, labels, clean_logits.shape[-1])


def pasted(
    patch: np.ndarray | jax.Array,
    place: tuple[int, int] | np.ndarray | None = None,
    *,
    max_rotation: float = 0.0,
    scales: tuple[float, float] = (1.0, 1.0),
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "Pasted":
    """A patch laid over whatever image comes, which asks the model nothing: how a universal patch is judged.

    It is turned about its center by a uniform angle, scaled by a uniform factor and interpolated bilinearly; upright
    and in full size, its pixels are copied.

    Args:
      patch: [h, w, C] in [0, 1], or one for each image [B, h, w, C].
      place: row and column of its upper left corner, or [B, 2], one for each image; None: uniform in the image.
      max_rotation: degrees to either side.
      scales: least and largest factor of its sides.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: values outside of [0, 1]; a negative rotation; scales that are not 0 < least <= largest; or (in
        `perturb`) a patch that is larger than the images or has other channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import from_function, pasted, perturb
      >>> classifier = from_function(lambda w, x: jnp.stack([w + 0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], -1), 0.5)
      >>> result = perturb(pasted(jnp.ones((1, 2, 1)), (0, 1)), classifier, jnp.zeros((1, 2, 3, 1)), jnp.array([0]))
      >>> result.image[0, ..., 0].tolist(), result.asks
      ([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], 'nothing')
    """
    check_real("patch", patch, "numbers in [0, 1], [h, w, C]", lambda array: (array >= 0) & (array <= 1))
    check_radius("max_rotation", max_rotation)
    if not 0 < scales[0] <= scales[1] < math.inf:
        raise ValueError(f"scales must be 0 < least <= largest, got {scales!r}")
    grid = () if levels is None else (Quantize(levels),)
    constraint = All((Box(), *grid, *mask_constraints(mask)))
    ranges = np.array([-math.radians(max_rotation), math.radians(max_rotation), *scales])
    corner = None if place is None else np.asarray(place, np.float32)
    return Pasted(constraint, patch, ranges, corner, place is None or max_rotation > 0 or scales[0] < scales[1])


@value
class Pasted(Attack):
    """See `pasted`, which makes it.

    Attributes:
      constraint: makes the image allowed, grid included.
      patch: [h, w, C], or one for each image [B, h, w, C].
      ranges: [4], least and largest angle in radians, least and largest scale.
      place: [2], or one for each image [B, 2]; None: random.
      varied: whether anything is drawn.
      objective: what `universal_patch` climbs.
      criterion: what counts as success.
    """

    constraint: Constraint
    patch: np.ndarray | jax.Array = number(rank=3)
    ranges: np.ndarray | jax.Array = number(rank=1)
    place: np.ndarray | jax.Array | None = number(rank=1)
    varied: bool = static()
    objective: Objective = CrossEntropy()
    criterion: Criterion = Misclassified()
    asks: ClassVar[Asks] = "nothing"

    @property
    def random(self) -> bool:
        return self.varied

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        height, width, channels = np.shape(self.patch)[-3:]
        if height > shape[0] or width > shape[1] or channels != shape[2]:
            raise ValueError(
                f"patch must be [h, w, {shape[2]}] of at most {shape[0]} x {shape[1]} pixels, or one for each image, "
                f"got shape {np.shape(self.patch)}"
            )

    def towards(self, targets: Number) -> "Pasted":
        turned = self.objective.towards(targets), self.criterion.towards(targets)
        return dataclasses.replace(self, objective=turned[0], criterion=turned[1])

    def step(self, problem: Problem, state: State) -> State:
        return state._replace(image=self.constraint(self.paste(problem.image, state.key), problem.image))

    def paste(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """The image under the patch, before the constraint."""
        patch, ranges = jnp.asarray(self.patch), jnp.asarray(self.ranges)
        height, width, channels = patch.shape
        place_key, angle_key, scale_key = jax.random.split(key, 3)
        if self.place is None:
            room = jnp.array([image.shape[0] - height + 1, image.shape[1] - width + 1])
            top, left = jax.random.randint(place_key, (2,), 0, room).astype(image.dtype)
        else:
            top, left = jnp.asarray(self.place)
        angle = ranges[0] + (ranges[1] - ranges[0]) * jax.random.uniform(angle_key, (), image.dtype)
        scale = ranges[2] + (ranges[3] - ranges[2]) * jax.random.uniform(scale_key, (), image.dtype)
        # From a pixel of the image to one of the patch, both from the patch's center.
        x, y = pixel_grid(image.shape[0], image.shape[1], image.dtype)
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        cosine, sine, one = jnp.cos(angle) / scale, jnp.sin(angle) / scale, jnp.ones_like(angle)
        turn = jnp.stack([cosine, -sine, 0 * one, sine, cosine, 0 * one, 0 * one, 0 * one, one]).reshape(3, 3)
        x, y, _ = project(turn, x - left - middle_x, y - top - middle_y)
        # The last channel is how much of a pixel the patch covers: around it there is nothing.
        covered = jnp.concatenate([patch, jnp.ones_like(patch[..., :1])], axis=-1)
        bordered = jnp.pad(covered, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels + 1)
        seen = sample(bordered, height + 2, width + 2, x + middle_x + 1, y + middle_y + 1)
        seen = seen.reshape(*image.shape[:2], channels + 1)
        return (1 - seen[..., -1:]) * image + seen[..., :-1]


def patch_masks(key: jax.Array, count: int, image_size: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Masks [count, H, W, 1] of one rectangle of `size` each at a uniform place: for `pgd(1.0, mask=...)` in a patch.

    Args:
      key: `jax.random.key(seed)`.
      count: images.
      image_size: H and W.
      size: rows and columns of the rectangle, at most those of the image.

    Example:
      >>> import jax
      >>> from advjax.attacks import patch_masks
      >>> patch_masks(jax.random.key(0), 2, (8, 8), (2, 3)).sum((1, 2, 3)).tolist()
      [6, 6]
    """
    if not all(1 <= part <= whole for part, whole in zip(size, image_size, strict=True)):
        raise ValueError(f"size must be from 1 x 1 to {image_size[0]} x {image_size[1]}, got {size!r}")
    room = jnp.array(image_size) - jnp.array(size) + 1
    corners = jax.random.randint(key, (count, 2), 0, jnp.broadcast_to(room, (count, 2)))
    rows, columns = (
        (jnp.arange(whole)[None] >= corners[:, axis, None]) & (jnp.arange(whole)[None] < corners[:, axis, None] + part)
        for axis, (whole, part) in enumerate(zip(image_size, size, strict=True))
    )
    return (rows[:, :, None, None] & columns[:, None, :, None]).astype(jnp.int32)
