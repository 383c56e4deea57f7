"""Attacks that transfer to other models: iterated FGSM with momentum, and with other views of the model."""

import jax.numpy as jnp

from advjax.attacks.attack import Attack, Move
from advjax.attacks.constraints import All, Box, LinfBall
from advjax.attacks.directions import Chain, Direction, Sign
from advjax.attacks.iterative import descent, inward
from advjax.attacks.momentum import Momentum, Smoothed, VarianceTuned
from advjax.attacks.objectives import CrossEntropy
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.searches import Fixed
from advjax.attacks.settings import check_count, check_radius
from advjax.attacks.views import Diverse, Scaled, Seeing

__all__ = ["di_fgsm", "mi_fgsm", "ni_fgsm", "si_fgsm", "ti_fgsm", "vmi_fgsm"]


def mi_fgsm(
    epsilon: Number,
    *,
    steps: int = 10,
    step_size: Number | None = None,
    decay: Number = 1.0,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """Momentum iterative FGSM (Dong et al. 2018, algorithm 1), from the clean image.

        m_{t+1} = decay m_t + g_t / mean|g_t|,    g_t = grad J(x_t);
        x_{t+1} = clip(P(x_t + step_size sign(m_{t+1})), 0, 1),

    P the projection onto the linf ball.  As for `pgd`, the steps are not rounded; the last image is.

    The attacks of this family are made to fool other models than the one attacked: craft on one, and judge by another,
    `evaluate` with a `source`.

    Args:
      epsilon: linf radius, in [0, 1] units; one number, or one for each image [B].  The papers: 16/255.
      steps: number of steps; the papers' 10.
      step_size: of each, in the same units; None: the papers' epsilon / steps.
      decay: of the momentum, 0 or more; the papers' 1.  0: iterated FGSM.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: a negative epsilon, step_size or decay; steps below 1; mask is not 0/1.

    Example:
      >>> from advjax import mi_fgsm
      >>> attack = mi_fgsm(16 / 255)
    """
    return _iterated(epsilon, steps, step_size, decay, mask, levels)


def ni_fgsm(
    epsilon: Number,
    *,
    steps: int = 10,
    step_size: Number | None = None,
    decay: Number = 1.0,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """`mi_fgsm` by Nesterov's rule: `g_t = grad J(x_t + step_size decay m_t)` (Lin et al. 2020, eqs. 6 to 8).

    Arguments and errors as for `mi_fgsm`.

    Example:
      >>> from advjax import ni_fgsm
      >>> attack = ni_fgsm(16 / 255)
    """
    return _iterated(epsilon, steps, step_size, decay, mask, levels, nesterov=True)


def di_fgsm(
    epsilon: Number,
    *,
    steps: int = 10,
    step_size: Number | None = None,
    decay: Number = 1.0,
    rate: Number = 0.9,
    probability: Number = 0.5,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """`mi_fgsm` on diverse inputs, the M-DI2-FGSM of Xie et al. 2019: each gradient is of a randomly resized image.

    With a `probability`, the image is made smaller, to `rate` of its size or more, and put at a random place on black.
    The paper enlarges 299 x 299 pixels to as many as 330, of which 299 are 0.906: seen by a network of one input size,
    as here, it is the smallest share of the frame that the image takes.

    Args:
      epsilon, steps, step_size, mask, levels: as for `mi_fgsm`.
      decay: as for `mi_fgsm`; 0: DI2-FGSM.
      rate: in (0, 1).
      probability: from 0 to 1; the paper's 0.5.

    Raises:
      ValueError: rate or probability are not as above; else as for `mi_fgsm`.

    Example:
      >>> from advjax import di_fgsm
      >>> attack = di_fgsm(16 / 255)
    """
    return Seeing(_iterated(epsilon, steps, step_size, decay, mask, levels), Diverse(rate, probability))


def si_fgsm(
    epsilon: Number,
    *,
    steps: int = 10,
    step_size: Number | None = None,
    decay: Number = 1.0,
    copies: int = 5,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """SI-NI-FGSM (Lin et al. 2020, algorithm 1): `ni_fgsm` on the mean loss of the image at several scales.

        g_t = (1/copies) sum_i grad J((x_t + step_size decay m_t) / 2^i),    i = 0, ..., copies - 1

    Args:
      epsilon, steps, step_size, decay, mask, levels: as for `mi_fgsm`.
      copies: scales, each a gradient; the paper's 5.

    Raises:
      ValueError: copies below 1; else as for `mi_fgsm`.

    Example:
      >>> from advjax import si_fgsm
      >>> attack = si_fgsm(16 / 255)
    """
    return Seeing(_iterated(epsilon, steps, step_size, decay, mask, levels, nesterov=True), Scaled(copies))


def ti_fgsm(
    epsilon: Number,
    *,
    steps: int = 10,
    step_size: Number | None = None,
    decay: Number = 1.0,
    kernel: int = 15,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """TI-MI-FGSM (Dong et al. 2019): `mi_fgsm` with gradients convolved with a Gaussian, as if of translated images.

    Args:
      epsilon, steps, step_size, decay, mask, levels: as for `mi_fgsm`.  The mask cuts the smoothed gradient.
      kernel: its size in pixels, odd; three standard deviations to each side.  The paper's 15 are for 299 x 299 pixels.

    Raises:
      ValueError: kernel is not odd, or below 3; else as for `mi_fgsm`.

    Example:
      >>> from advjax import ti_fgsm
      >>> attack = ti_fgsm(16 / 255, kernel=7)
    """
    return _iterated(epsilon, steps, step_size, decay, mask, levels, first=(Smoothed(kernel),))


def vmi_fgsm(
    epsilon: Number,
    *,
    steps: int = 10,
    step_size: Number | None = None,
    decay: Number = 1.0,
    neighbors: int = 20,
    beta: Number = 1.5,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> Attack:
    """`mi_fgsm` with tuned variance (Wang & He 2021, algorithm 1): each gradient is moved to the mean around the last.

    In place of g_t it takes `g_t + v_t`, with v_0 = 0 and r_i uniform in the cube [-beta epsilon, beta epsilon],

        v_{t+1} = (1/neighbors) sum_i grad J(x_t + r_i) - g_t.

    Args:
      epsilon, steps, step_size, decay, mask, levels: as for `mi_fgsm`.
      neighbors: each a gradient; the paper's 20.
      beta: 0 or more; the paper's 1.5.

    Raises:
      ValueError: neighbors below 1; a negative beta; else as for `mi_fgsm`.

    Example:
      >>> from advjax import vmi_fgsm
      >>> attack = vmi_fgsm(16 / 255)
    """
    check_radius("epsilon", epsilon)
    check_radius("beta", beta)
    tuned = VarianceTuned(jnp.asarray(beta, jnp.float32) * jnp.asarray(epsilon, jnp.float32), neighbors)
    return _iterated(epsilon, steps, step_size, decay, mask, levels, first=(tuned,))


def _iterated(
    epsilon: Number,
    steps: int,
    step_size: Number | None,
    decay: Number,
    mask: Mask | None,
    levels: int | None,
    *,
    first: tuple[Direction, ...] = (),
    nesterov: bool = False,
) -> Attack:
    check_radius("epsilon", epsilon)
    check_count("steps", steps)
    if step_size is None:
        step_size = jnp.asarray(epsilon, jnp.float32) / steps
    check_radius("step_size", step_size)
    momentum = Momentum(decay, step_size if nesterov else 0.0)
    direction = Chain((*first, *mask_directions(mask), momentum, Sign()))
    region = LinfBall(epsilon)
    allowed = All((region, Box(), *mask_constraints(mask)))
    return descent(Move(CrossEntropy(), direction, Fixed(step_size), allowed), region, steps, False, 1, inward(levels))
