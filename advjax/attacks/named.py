"""Named attacks of one move: a few lines over the parts."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Move, Stack, stack
from advjax.attacks.constraints import All, Box, Quantize
from advjax.attacks.directions import Chain, Direction, Sign, Tangent, Value, steepest_ray
from advjax.attacks.objectives import CrossEntropy, HotCold, Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.searches import Boundary, Fixed
from advjax.attacks.settings import check_integer, check_radius, check_real

__all__ = ["fgs", "fgv", "hard_positive", "hot_cold", "hot_cold_sign", "steepest"]


def fgs(epsilon: Number | None = None, *, mask: Mask | None = None, levels: int | None = 256) -> Move:
    """Fast gradient sign: `x + s sign(grad_x J(x, y))` (Goodfellow et al. 2015; Rozsa et al. 2016, section 4).

    Args:
      epsilon: how far to go, in [0, 1] units of linf; one number, or one for each image [B].  None: to the nearest
        image along the ray that fools the model (`Boundary`).
      mask: 0/1 array [H, W, C] or [H, W, 1], or one for each image; only pixels where it is 1 change.
      levels: number of gray levels of the returned image, on whose grid it is classified; None: no rounding.

    Returns:
      An attack for `perturb`.

    Raises:
      ValueError: epsilon is negative; mask is not 0/1.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import fgs, from_function, perturb
      >>> def model(w, x):
      ...     return jnp.stack([x.mean((1, 2, 3)), w - x.mean((1, 2, 3))], -1)
      >>> classifier = from_function(model, jnp.float32(0.6))
      >>> images, labels = jnp.full((1, 4, 4, 1), 102 / 255), jnp.array([0])
      >>> result = perturb(fgs(), classifier, images, labels)
      >>> result.success.tolist(), (result.linf * 255).round().tolist()
      ([True], [26.0])
    """
    return _along_ray(CrossEntropy(), Sign(), epsilon, mask, levels)


def fgv(epsilon: Number | None = None, *, mask: Mask | None = None, levels: int | None = 256) -> Move:
    """Fast gradient value: `x + s g / max|g|`, g = grad_x J(x, y) (Rozsa et al. 2016, eq. 6).

    Arguments, result and errors as for `fgs`.

    Example:
      >>> from advjax import fgv
      >>> attack = fgv()
    """
    return _along_ray(CrossEntropy(), Value(), epsilon, mask, levels)


def hot_cold(
    rank: Number | None = None,
    *,
    ranks: Iterable[int] | None = None,
    targets: Number | None = None,
    epsilon: Number | None = None,
    mask: Mask | None = None,
    levels: int | None = 256,
    cold: Literal["paper", "abs"] = "paper",
) -> Move | Stack:
    """Hot/cold: moves towards a hot class and away from the label (Rozsa et al. 2016, section 4.2, eq. 7).

    With h(x) the logits, c the hot class and y the label, the crafted features are

        omega_j = |h_c(x)| if j = c,  -h_y(x) if j = y,  0 otherwise,

    and the ray is their backpropagation to the image, one vector-Jacobian product with omega as cotangent:

        d = B(omega) = sum_j omega_j grad_x h_j(x);    x + s d / max|d|.

    Any wrong class counts as success, as in the paper, not just the hot one: with `targets` too, where the boundary
    search stops at whatever wrong class the ray comes to first.  `targeted(fgv(), t)` is after the class t alone.

    Args:
      rank: the hot class is the one of the rank-th largest logit among the others, from 1 (HC-1, HC-2, ...; the
        default).
      ranks: several ranks in one call, `range(1, 10)` say; the result has a leading axis over them.
      targets: the hot class by number instead of rank; one number, or one for each image [B].
      epsilon, mask, levels: as for `fgs`.
      cold: "paper" is eq. 7 literally, which *heats* a label whose logit is negative; "abs" uses -|h_y| and always
        cools it. Use "abs" for models whose largest logit can be negative.

    Example:
      >>> from advjax import hot_cold
      >>> all_nine = hot_cold(ranks=range(1, 10))
      >>> towards_three = hot_cold(targets=3)
    """
    return _hot_cold(Value(), rank, ranks, targets, epsilon, mask, levels, cold)


def hot_cold_sign(
    rank: Number | None = None,
    *,
    ranks: Iterable[int] | None = None,
    targets: Number | None = None,
    epsilon: Number | None = None,
    mask: Mask | None = None,
    levels: int | None = 256,
    cold: Literal["paper", "abs"] = "paper",
) -> Move | Stack:
    """Hot/cold along the sign of its derivatives: `x + s sign(B(omega))` (Rozsa et al. 2016, HC-S of Fig. 4).

    Arguments, result and errors as for `hot_cold`.

    Example:
      >>> from advjax import hot_cold_sign
      >>> attack = hot_cold_sign(rank=2)
    """
    return _hot_cold(Sign(), rank, ranks, targets, epsilon, mask, levels, cold)


def hard_positive(attack: Attack | Stack, factor: Number) -> Attack | Stack:
    """The image beyond the boundary: `x + factor s* d`, s* the boundary distance (Rozsa et al. 2016, section 4.3).

    The continuous perturbation is scaled, and then rounded and clipped.  The paper uses 1.05 and 1.10.

    Args:
      attack: an attack that searches the boundary (made without epsilon), or a stack of such.
      factor: multiple of the boundary distance; one number of 1 or more, or one for each image [B].

    Raises:
      ValueError: factor is below 1; the attack does not search the boundary.

    Example:
      >>> from advjax import hard_positive, hot_cold
      >>> hard_positives = hard_positive(hot_cold(ranks=range(1, 10)), 1.05)
    """
    check_real("factor", factor, "a finite number of 1 or more", lambda array: np.isfinite(array) & (array >= 1))
    if isinstance(attack, Stack):
        return Stack(jax.vmap(lambda single: _beyond(single, jnp.asarray(factor, jnp.float32)))(attack.attack))
    return _beyond(attack, factor)


def _beyond(attack: Attack, factor: Number) -> Move:
    if isinstance(attack, Move) and isinstance(attack.search, Boundary):
        return dataclasses.replace(attack, search=dataclasses.replace(attack.search, factor=factor))
    raise ValueError(f"attack must search the boundary, as fgs() without epsilon does, got {attack!r}")


def steepest(
    norm: Literal["linf", "l2", "l1"],
    radius: Number,
    *,
    pixels: int = 1,
    basis: np.ndarray | jax.Array | None = None,
    mask: Mask | None = None,
    levels: int | None = 256,
    box: bool = True,
) -> Move:
    """The worst perturbation of a linearized loss, in closed form (Shaham, Yamada & Negahban 2015, eq. 11).

    With g = grad_x J(x, y), one step of the given norm r = `radius`:

        argmax { <g, d> : ||d|| <= r }  =  r sign(g)          for linf,
                                           r g / ||g||_2       for l2,
                                           r sign(g_j) e_j     for l1, j = argmax |g_j|: one channel of one pixel.

    With a `basis` of the tangent space of the data at x (eq. 12-13, l2 only) it is `r Pi g / ||Pi g||_2`, Pi the
    orthogonal projection onto the span of the basis; a mask then cuts `Pi g` before it is normalized.

    Args:
      norm: "linf", "l2" or "l1".
      radius: length of the step in that norm, in [0, 1] units; one number, or one for each image [B].
      pixels: for l1, the number of entries of largest |g| that share the radius equally.
      basis: [k, H, W, C], or one for each image [B, k, H, W, C]; orthonormal or not.
      mask: as for `fgs`.
      levels: as for `fgs`; the image is rounded towards the clean one, and so stays within the radius.
      box: clip to [0, 1].  The paper clips nothing: `box=False, levels=None`.

    Raises:
      ValueError: an unknown norm; a negative radius; `pixels` or `basis` with a norm that they do not go with;
        `box=False` with `levels`, since there is no grid outside [0, 1].

    Example:
      >>> from advjax.attacks import steepest
      >>> one_pixel = steepest("l1", 0.5)
      >>> as_in_the_paper = steepest("linf", 0.055, levels=None, box=False)
    """
    if not box and levels is not None:
        raise ValueError(f"levels must be None with box=False: the grid ends at 0 and 1; got {levels}")
    if basis is not None and norm != "l2":
        raise ValueError(f'basis goes with norm="l2" alone: eq. 13 is no closed form for others, got {norm!r}')
    check_radius("radius", radius)
    tangent = () if basis is None else (Tangent(basis),)
    ray = Chain((*tangent, *mask_directions(mask), steepest_ray(norm, pixels)))
    grid = () if levels is None else (Quantize(levels, "inward"),)
    constraint = All((*((Box(),) if box else ()), *grid, *mask_constraints(mask)))
    return Move(CrossEntropy(), ray, Fixed(radius), constraint)


def _hot_cold(
    direction: Direction,
    rank: Number | None,
    ranks: Iterable[int] | None,
    targets: Number | None,
    epsilon: Number | None,
    mask: Mask | None,
    levels: int | None,
    cold: Literal["paper", "abs"],
) -> Move | Stack:
    if sum(choice is not None for choice in (rank, ranks, targets)) > 1:
        raise ValueError(f"give one of rank, ranks and targets, got {rank}, {ranks} and {targets}")
    if ranks is not None:
        if isinstance(ranks, str) or not isinstance(ranks, Iterable):
            raise TypeError(f"ranks must be several ranks, range(1, 10) say, got {ranks!r}")
        ranks = list(ranks)
        for each in ranks:
            check_integer("ranks", each, least=1)
        if not ranks:
            raise ValueError("ranks must hold at least one rank, got none")
        return stack([_along_ray(HotCold(r, None, cold), direction, epsilon, mask, levels) for r in ranks])
    if targets is not None:
        check_integer("targets", targets)
        return _along_ray(HotCold(None, targets, cold), direction, epsilon, mask, levels)
    rank = 1 if rank is None else rank
    check_integer("rank", rank, least=1)
    return _along_ray(HotCold(rank, None, cold), direction, epsilon, mask, levels)


def _along_ray(
    objective: Objective, direction: Direction, epsilon: Number | None, mask: Mask | None, levels: int | None
) -> Move:
    """One move along `direction`: to the boundary, rounded to the nearest level, or `epsilon` far and no farther."""
    if epsilon is not None:
        check_radius("epsilon", epsilon)
    search = Boundary() if epsilon is None else Fixed(epsilon)
    rounding: Literal["nearest", "inward"] = "nearest" if epsilon is None else "inward"
    grid = () if levels is None else (Quantize(levels, rounding),)
    # The mask comes last: outside it the clean image's own bits stay.
    constraint = All((Box(), *grid, *mask_constraints(mask)))
    return Move(objective, Chain((*mask_directions(mask), direction)), search, constraint)
