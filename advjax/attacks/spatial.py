"""Rotations, translations and homographies of the image (Engstrom, Tran, Tsipras, Schmidt, Madry 2019)."""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Asks, Attack, Problem, State, made_finite
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.objectives import CrossEntropy, Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints
from advjax.attacks.settings import check_count, check_radius
from advjax.scores.warp import frame_of, motion_matrix, warp_image
from advjax.value import number, static, value

__all__ = ["Spatial", "SpatialDescent", "SpatialSearch", "homography", "spatial"]


def spatial(
    max_rotation: float = 30.0,
    max_translation: float = 3.0,
    *,
    search: Literal["grid", "random", "gradient"] = "grid",
    rotations: int = 31,
    translations: int = 5,
    tries: int = 10,
    step_size: Number = 0.25,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "Spatial":
    """The rotation and translation that a model errs most on (Engstrom et al. 2019).

    The image is turned about its center by the angle a and moved by (u, v) pixels,

        out(p) = image(c + R(a) (p - c) + (u, v)),    |a| <= max_rotation, |u|, |v| <= max_translation,

    bilinearly, with 0 where nothing was.  Of the motions tried the one of largest margin is returned:

    - "grid": `rotations x translations x translations` motions, evenly spaced, ends included; the paper's 31 x 5 x 5.
    - "random": `tries` uniform draws; the paper's "worst of 10".
    - "gradient": `tries` points of signed gradient steps on (a, u, v) from one uniform draw, clipped to the bounds;
      `BestOf` restarts it.

    Args:
      max_rotation: degrees, 0 or more.
      max_translation: pixels, 0 or more.
      search: as above.
      rotations, translations: how many angles, and shifts along each axis, "grid" tries.
      tries: evaluations of "random" and "gradient".
      step_size: of "gradient", as a share of each bound; one number, or one for each image [B].
      mask, levels: as for `fgs`; pixels outside the mask do not move.

    Raises:
      ValueError: an unknown search; a negative bound or step; counts below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import from_function, perturb, spatial
      >>> classifier = from_function(lambda w, x: w * jnp.stack([x[:, 2, 2, 0], 2 * x[:, 2, 1, 0]], -1), 2.0)
      >>> images = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2].set(1.0)
      >>> attack = spatial(0.0, 1.0, rotations=1, translations=3)
      >>> result = perturb(attack, classifier, images, jnp.array([0]))
      >>> result.image[0, :, :, 0].argmax().item(), result.calls.tolist()  # one pixel to the left, of 9 motions
      (11, [11])
    """
    check_radius("max_rotation", max_rotation)
    check_radius("max_translation", max_translation)
    counts = (rotations, translations, translations)
    if search == "grid":
        check_count("rotations", rotations)
        check_count("translations", translations)
    bounds = np.array([math.radians(max_rotation), max_translation, max_translation])
    return _made(bounds, "euclidean", search, counts, tries, step_size, mask, levels)


def homography(
    max_shift: float = 3.0,
    *,
    search: Literal["random", "gradient"] = "gradient",
    tries: int = 20,
    step_size: Number = 0.25,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "Spatial":
    """The change of perspective that a model errs most on: the image's four corners move, each on its own.

    The eight parameters are the shifts of the corners, of at most `max_shift` pixels along each axis, and the image is
    seen through the homography that takes the corners to where they went, bilinearly, with 0 where nothing was.

    Args:
      max_shift: pixels, 0 or more and below a quarter of the image's shorter side, so that no corner passes another.
      search, tries, step_size: as for `spatial`, on these parameters.
      mask, levels: as for `spatial`.

    Raises:
      ValueError: an unknown search; a bound that is negative or (in `perturb`) too large; tries below 1.

    Example:
      >>> from advjax import homography
      >>> attack = homography(2.0, tries=40)
    """
    if search not in ("random", "gradient"):
        raise ValueError(f'search must be "random" or "gradient", got {search!r}')
    check_radius("max_shift", max_shift)
    return _made(np.full(8, float(max_shift)), "homography", search, (), tries, step_size, mask, levels)


def _made(
    bounds: np.ndarray,
    motion: Literal["euclidean", "homography"],
    search: str,
    counts: tuple[int, ...],
    tries: int,
    step_size: Number,
    mask: Mask | None,
    levels: int | None,
) -> "Spatial":
    check_count("tries", tries)
    grid = () if levels is None else (Quantize(levels),)
    constraint = All((Box(), *grid, *mask_constraints(mask)))
    if search == "gradient":
        check_radius("step_size", step_size)
        return SpatialDescent(constraint, bounds, motion, tries, step_size)
    if search not in ("grid", "random"):
        raise ValueError(f'search must be "grid", "random" or "gradient", got {search!r}')
    if search == "grid":
        return SpatialSearch(constraint, bounds, motion, math.prod(counts), counts)
    return SpatialSearch(constraint, bounds, motion, tries, ())


@value
class Spatial(Attack):
    """Base of what looks for a motion; see `spatial` and `homography`.

    Attributes:
      constraint: makes a warped image allowed, grid included.
      bounds: [k], or one row for each image [B, k]: the largest value of each parameter, in radians and pixels.
      motion: "euclidean", of 3 parameters, or "homography", of 8.
      tries: evaluations of the model.
    """

    constraint: Constraint
    bounds: np.ndarray | jax.Array = number(rank=1)
    motion: Literal["euclidean", "homography"] = static()
    tries: int = static()

    def check_image_shape(self, shape: tuple[int, ...]) -> None:
        known = self.motion == "homography" and not isinstance(self.bounds, jax.core.Tracer)
        if known and 4 * np.max(self.bounds) >= min(shape[:2]):
            raise ValueError(
                f"max_shift must be below a quarter of the image's shorter side, {min(shape[:2])}, got "
                f"{np.max(self.bounds)}"
            )

    def warped(self, image: jax.Array, parameters: jax.Array) -> jax.Array:
        """The image under a motion, before the constraint; `parameters` [k]."""
        height, width, _ = image.shape
        to_pixels, half = frame_of(height, width).to_pixels().astype(image.dtype), max(height, width) / 2
        if self.motion == "euclidean":
            inner = motion_matrix(parameters / jnp.array([1, half, half], image.dtype), "euclidean")
        else:
            inner = _through_corners(parameters / half, (height - 1) / half / 2, (width - 1) / half / 2)
        return warp_image(image, to_pixels @ inner @ jnp.linalg.inv(to_pixels)).astype(image.dtype)


@value
class SpatialSearch(Spatial):
    """The worst of a grid of motions, or of random ones; `counts` [k] of the grid, none for random."""

    counts: tuple[int, ...] = static()
    criterion: Criterion = Misclassified()
    asks: ClassVar[Asks] = "scores"

    @property
    def random(self) -> bool:
        return not self.counts

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, criterion=self.criterion.towards(targets))

    def step(self, problem: Problem, state: State) -> State:
        bounds = jnp.asarray(self.bounds)

        def parameters(index: jax.Array) -> jax.Array:
            if not self.counts:
                return bounds * jax.random.uniform(
                    jax.random.fold_in(state.key, index), bounds.shape, bounds.dtype, -1.0
                )
            places = jnp.unravel_index(index, self.counts)
            # One value alone is the middle.
            axes = [np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1) for count in self.counts]
            return bounds * jnp.stack([jnp.asarray(a, bounds.dtype)[i] for a, i in zip(axes, places, strict=True)])

        def again(index: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            image = self.constraint(self.warped(problem.image, parameters(index)), problem.image)
            margin = self.criterion.margin(problem.logits(image), problem.label)
            return _larger((image, margin), best)

        lowest = jnp.full_like(problem.image, -jnp.inf, shape=())
        image, _ = jax.lax.fori_loop(0, self.tries, again, (problem.image, lowest))
        return state._replace(image=image, calls=state.calls + self.tries)


@value
class SpatialDescent(Spatial):
    """Signed gradient steps on the parameters, from a random motion; each gradient's image is one of those tried."""

    step_size: Number = number()
    objective: Objective = CrossEntropy()
    criterion: Criterion = Misclassified()
    random = True

    def towards(self, targets: Number) -> Attack:
        turned = self.objective.towards(targets), self.criterion.towards(targets)
        return dataclasses.replace(self, objective=turned[0], criterion=turned[1])

    def step(self, problem: Problem, state: State) -> State:
        bounds = jnp.asarray(self.bounds)

        def climbed(parameters: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            warped = self.warped(problem.image, parameters)
            image = self.constraint(warped, problem.image)
            # Read where it would be returned; rounding has no slope, and counts as none.
            value, logits = problem.climbed(self.objective)(warped + jax.lax.stop_gradient(image - warped))
            return value, (image, self.criterion.margin(logits, problem.label))

        def again(_: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            parameters, image, margin, broken = carry
            slope, tried = jax.grad(climbed, has_aux=True)(parameters)
            slope, odd = made_finite(slope)
            image, margin = _larger(tried, (image, margin))
            moved = jnp.clip(parameters + self.step_size * bounds * jnp.sign(slope), -bounds, bounds)
            return moved, image, margin, broken | odd

        start = bounds * jax.random.uniform(state.key, bounds.shape, bounds.dtype, -1.0)
        first = (start, problem.image, jnp.full_like(problem.image, -jnp.inf, shape=()), state.non_finite)
        _, image, _, broken = jax.lax.fori_loop(0, self.tries, again, first)
        calls = state.calls + self.tries * problem.gradient_calls
        return state._replace(image=image, calls=calls, non_finite=broken)


def _larger(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Of two images with their margins the one of larger margin; NaN is never larger."""
    larger = one[1] > other[1]
    return jnp.where(larger, one[0], other[0]), jnp.where(larger, one[1], other[1])


def _through_corners(shifts: jax.Array, y: float, x: float) -> jax.Array:
    """The homography [3, 3] that moves the corners (+-x, +-y) by `shifts` [8]: the x of the four, then the y."""
    corners = jnp.array([[-x, -y], [x, -y], [-x, y], [x, y]], shifts.dtype)
    u, v = corners[:, 0] + shifts[:4], corners[:, 1] + shifts[4:]
    # Of each corner: m0 x + m1 y + m2 - u (m6 x + m7 y) = u, and the same for v.
    linear = jnp.concatenate([corners, jnp.ones_like(u)[:, None]], axis=1)
    none = jnp.zeros_like(linear)
    upper = jnp.concatenate([linear, none, -u[:, None] * corners], axis=1)
    lower = jnp.concatenate([none, linear, -v[:, None] * corners], axis=1)
    solved = jnp.linalg.solve(jnp.concatenate([upper, lower]), jnp.concatenate([u, v]))
    return jnp.append(solved, jnp.ones_like(solved[:1])).reshape(3, 3)
