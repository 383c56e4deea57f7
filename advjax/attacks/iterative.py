"""Projected gradient descent, everywhere or in a region, and attacks towards a class."""

from typing import Literal

from advjax.attacks.attack import Attack, BestOf, Finish, Move, RandomStart, Repeat, check_single
from advjax.attacks.constraints import All, Ball, Box, Constraint, Quantize, ball
from advjax.attacks.directions import Chain, Inside, steepest_ray
from advjax.attacks.objectives import CrossEntropy, Objective
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import Region, Within, mask_constraints, mask_directions, named_region
from advjax.attacks.searches import Fixed
from advjax.attacks.settings import check_count, check_integer, check_radius

__all__ = ["descent", "inward", "localized_pgd", "pgd", "targeted"]


def pgd(
    epsilon: Number,
    *,
    norm: Literal["linf", "l2", "l1"] = "linf",
    step_size: Number,
    steps: int,
    random_start: bool = True,
    restarts: int = 1,
    pixels: int = 1,
    objective: Objective | None = None,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """Projected gradient descent: `x <- clip(P(x + step_size d(grad J)), 0, 1)` (Madry et al. 2018).

    P is the exact projection onto the ball around the clean image, d the steepest direction in the norm: the sign
    for linf, g/||g|| for l2, and for l1 the `pixels` entries of largest |g| among those that can still move that way
    inside [0, 1].  Clipping after P only shortens the perturbation, entry by entry, and so stays in the ball; for
    linf it is the projection onto ball and box at once.  The steps are not rounded; the last image is, towards the
    clean image, and so stays in the ball too.

    Args:
      epsilon: radius of the ball, in [0, 1] units; one number, or one for each image [B].
      norm: "linf", "l2" or "l1".
      step_size: length of each step in that norm.
      steps: number of steps.
      random_start: begin at a uniform point of the ball, rather than at the clean image.
      restarts: runs from different starts, of which the one of largest margin is kept.
      pixels: for l1, how many entries share each step.
      objective: what to climb, by default the cross-entropy; see `advjax.attacks.objectives`.  Any wrong class counts
        as success whatever is climbed; `targeted` turns both towards a class.
      mask, levels: as for `fgs`.

    Example:
      >>> from advjax import pgd
      >>> attack = pgd(0.3, step_size=0.01, steps=40)
    """
    check_radius("epsilon", epsilon)
    check_radius("step_size", step_size)
    region = ball(norm, epsilon)
    allowed = All((region, Box(), *mask_constraints(mask)))
    inside = (Inside(),) if norm == "l1" else ()
    direction = Chain((*inside, *mask_directions(mask), steepest_ray(norm, pixels)))
    move = Move(CrossEntropy() if objective is None else objective, direction, Fixed(step_size), allowed)
    return descent(move, region, steps, random_start, restarts, inward(levels))


def localized_pgd(
    region: str | Region,
    epsilon: Number,
    *,
    step_size: Number,
    steps: int,
    localize: Literal["after", "inside"] = "after",
    random_start: bool = True,
    restarts: int = 1,
    objective: Objective | None = None,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """Linf PGD that changes only a region of each image (Rothberg, Chen & Ji, "Localized Adversarial Training").

    With m the region's 0/1 mask of the clean image x, computed inside the program, "after" is Algorithm 1 as written,

        x' = PGD(x) everywhere;    x' <- clip(x', x - epsilon m, x + epsilon m),

    and "inside" clips so at the random start and after each step, which makes the stronger attack.

    Args:
      region: "standard" (everywhere), "background" (all but the middle 6 x 6 pixels), "exact" (all but the digit),
        "broad" (all but the digit and its neighbors), or a region such as `Broad(neighbors=4)`.
      epsilon, step_size, steps, random_start, restarts, objective, mask, levels: as for `pgd`.  The paper, on MNIST:
        epsilon 0.3, 100 steps of 0.01.
      localize: "after" or "inside".

    Raises:
      ValueError: an unknown region or `localize`; else as for `pgd`.

    Example:
      >>> from advjax.attacks import localized_pgd
      >>> attack = localized_pgd("broad", 0.3, step_size=0.01, steps=100)
    """
    if localize not in ("after", "inside"):
        raise ValueError(f'localize must be "after" or "inside", got {localize!r}')
    check_radius("epsilon", epsilon)
    check_radius("step_size", step_size)
    local, around = Within(named_region(region)), ball("linf", epsilon)
    within = (local,) if localize == "inside" else ()
    allowed = All((around, Box(), *within, *mask_constraints(mask)))
    direction = Chain((*mask_directions(mask), steepest_ray("linf")))
    move = Move(CrossEntropy() if objective is None else objective, direction, Fixed(step_size), allowed)
    return descent(move, around, steps, random_start, restarts, (*inward(levels), local))


def targeted(attack: Attack, targets: Number) -> Attack:
    """The attack turned towards a class t: it climbs `log softmax(h)_t` instead of the cross-entropy.

    Where it climbed the margin, that becomes `h_t - max_{j != t} h_j`.  Its criterion becomes `TargetReached(t)`: a
    boundary search looks for t, `apgd` and `square` stop at t, restarts keep what is closest to t, and
    `Perturbation.success` means that a right answer was turned into t.  An image whose label is t reports
    `Failure.LABEL_IS_TARGET`.

    Args:
      attack: one that climbs the cross-entropy or the margin: `fgs`, `fgv`, `steepest`, `pgd`, `localized_pgd`,
        `apgd` with `objective="ce"`, `square`.
      targets: a class number, or one for each image [B].

    Raises:
      ValueError: the attack has an objective of its own (`hot_cold` and `lbfgs` take `targets`); or is a stack.

    Example:
      >>> from advjax import pgd
      >>> from advjax.attacks import targeted
      >>> towards_three = targeted(pgd(0.3, step_size=0.01, steps=40), 3)
    """
    check_single(attack)
    check_integer("targets", targets)
    return attack.towards(targets)


def inward(levels: int | None) -> tuple[Quantize, ...]:
    """The rounding towards the clean image that an attack ends with; none, where `levels` is None."""
    return () if levels is None else (Quantize(levels, "inward"),)


def descent(
    move: Move, region: Ball, steps: int, random_start: bool, restarts: int, last: tuple[Constraint, ...]
) -> Attack:
    """The move `steps` times, from a random start in `region`; its image is made allowed by `last`."""
    check_count("restarts", restarts)
    attack: Attack = Repeat(move, steps)
    if random_start:
        attack = RandomStart(attack, region, move.constraint)
    if last:
        attack = Finish(attack, last[0] if len(last) == 1 else All(last))
    if restarts == 1:
        return attack
    if not random_start:
        raise ValueError(f"restarts must be 1 without random_start, since all would be the same, got {restarts}")
    return BestOf(attack, restarts)
