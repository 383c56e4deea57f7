"""JSMA: few entries, two at a time, by the saliency map of the Jacobian (Papernot et al. 2016)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Attack, Failure, Problem, State, made_finite
from advjax.attacks.constraints import All, Box, Constraint, Quantize
from advjax.attacks.criteria import Criterion, Misclassified
from advjax.attacks.directions import Chain, Direction
from advjax.attacks.objectives import ranked_class
from advjax.attacks.part import Mask, Number
from advjax.attacks.regions import mask_constraints, mask_directions
from advjax.attacks.settings import check_real
from advjax.value import number, static, value

__all__ = ["JSMA", "jsma"]


def jsma(
    theta: Number = 1.0,
    gamma: Number = 0.1,
    *,
    pairs: bool = True,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "JSMA":
    """The Jacobian-based saliency map attack (Papernot et al. 2016, algorithms 2 and 3).

    With t the class aimed at, a = dh_t/dx and b = sum_{j != t} dh_j/dx, of the logits h, each step adds theta to the
    pair of entries p, q with

        max -(a_p + a_q) (b_p + b_q)    where  (a_p + a_q) > 0 > (b_p + b_q),

    both signs the other way round for a negative theta, among the entries that are not at the end of [0, 1] yet.  It
    ends where the criterion is met, no pair is left, or a share `gamma` of the entries was changed, each counted as
    often as it was.  t is the class that comes second on the clean image, and any wrong class ends it; `targeted`
    sets t, as in the paper.

    Args:
      theta: what is added to an entry, in [-1, 1] and not 0; one number, or one for each image [B].
      gamma: share of the entries, in [0, 1]; one number, or one for each image [B].
      pairs: False to take single entries, by -a_p b_p: n comparisons a step instead of n^2, for n = H W C, which for
        n = 3072 are 9.4 million numbers an image.
      mask, levels: as for `fgs`.

    Raises:
      ValueError: theta is 0 or outside [-1, 1]; gamma outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import from_function, jsma, perturb
      >>> w = jnp.array([[1.0, 0], [-0.5, 1], [-0.2, 0.2], [-1, 3]]) * 2
      >>> classifier = from_function(lambda w, x: x.reshape(-1, 4) @ w, w)
      >>> images = jnp.array([1.0, 0, 0, 0]).reshape(1, 2, 2, 1)
      >>> perturb(jsma(gamma=1.0, pairs=False), classifier, images, jnp.array([0])).image.ravel().tolist()
      [1.0, 0.0, 0.0, 1.0]
    """
    check_real("theta", theta, "a number in [-1, 1] and not 0", lambda t: (t != 0) & (np.abs(t) <= 1))
    check_real("gamma", gamma, "a share in [0, 1]", lambda share: (share >= 0) & (share <= 1))
    grid = () if levels is None else (Quantize(levels),)
    constraint = All((Box(), *grid, *mask_constraints(mask)))
    return JSMA(Chain(mask_directions(mask)), constraint, theta, gamma, pairs)


class _Changed(NamedTuple):
    image: jax.Array
    met: jax.Array
    stuck: jax.Array
    steps: jax.Array
    non_finite: jax.Array


@value
class JSMA(Attack):
    """See `jsma`, which makes it.

    Attributes:
      mask: forgets entries that may not change.
      constraint: makes an image allowed, grid included.
      theta, gamma, pairs: as there.
      target: the class aimed at; None: the one that comes second on the clean image.
      criterion: where it ends.
    """

    mask: Direction
    constraint: Constraint
    theta: Number = number()
    gamma: Number = number()
    pairs: bool = static()
    target: Number | None = number(dtype=np.int32, default=None)
    criterion: Criterion = Misclassified()

    def asked_classes(self) -> dict[str, Number]:
        return {} if self.target is None else {"targets": self.target}

    def towards(self, targets: Number) -> Attack:
        return dataclasses.replace(self, target=targets, criterion=self.criterion.towards(targets))

    def step(self, problem: Problem, state: State) -> State:
        runner_up = ranked_class(problem.clean_logits, problem.label, 1) if self.target is None else self.target
        target, entries = jnp.asarray(runner_up), 2 if self.pairs else 1

        def unfinished(s: _Changed) -> jax.Array:
            changed = ((s.steps + 1) * entries).astype(problem.image.dtype)
            # Not a whole entry less for a rounding error.
            return ~s.met & ~s.stuck & (changed <= self.gamma * problem.image.size + 1e-3)

        def again(s: _Changed) -> _Changed:
            chosen, broken = self._chosen(problem, s.image, target)
            image = self.constraint(s.image + self.theta * chosen.astype(s.image.dtype), problem.image)
            met = self.criterion(problem.logits(image), problem.label)
            return _Changed(image, met, ~jnp.any(chosen), s.steps + 1, s.non_finite | broken)

        met = self.criterion(problem.clean_logits, problem.label) | ~self.criterion.possible(problem.label)
        first = _Changed(problem.image, met, jnp.zeros_like(met), jnp.zeros_like(problem.label), state.non_finite)
        last = jax.lax.while_loop(unfinished, again, first)
        return state._replace(
            image=last.image,
            calls=state.calls + last.steps * (2 * problem.gradient_calls + 1),
            failure=jnp.where(last.stuck, Failure.NO_DIRECTION, Failure.NONE).astype(jnp.int32),
            non_finite=last.non_finite,
        )

    def _chosen(self, problem: Problem, image: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The entries that come next, bool [H, W, C], none where none helps; and whether a gradient was not finite."""
        logits, pull = jax.vjp(problem.logits, image)
        towards = jax.nn.one_hot(target, logits.shape[-1], dtype=logits.dtype)
        (up, odd), (down, odd_too) = made_finite(pull(towards)[0]), made_finite(pull(1 - towards)[0])
        sign = jnp.sign(jnp.asarray(self.theta))
        free = self.mask.update(jnp.ones_like(image), self.mask.init(image), image)[0] > 0
        free = (free & jnp.where(sign > 0, image < 1, image > 0)).reshape(-1)
        a, b = sign * up.reshape(-1), sign * down.reshape(-1)
        if self.pairs:
            # The same pair twice, in both orders, does no harm; an entry is no pair with itself.
            a, b = a[:, None] + a[None, :], b[:, None] + b[None, :]
            free = free[:, None] & free[None, :] & ~jnp.eye(free.size, dtype=jnp.bool_)
        saliency = jnp.where(free & (a > 0) & (b < 0), -a * b, jnp.zeros_like(a))
        best = jnp.argmax(saliency)
        rows = jnp.stack(jnp.unravel_index(best, saliency.shape))
        chosen = jnp.zeros(image.size, jnp.bool_).at[rows].set(saliency.reshape(-1)[best] > 0)
        return chosen.reshape(image.shape), odd | odd_too
