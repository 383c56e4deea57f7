"""AutoAttack: attacks that fail differently, one after the other, until one succeeds (Croce & Hein 2020)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from advjax.attacks.apgd import apgd
from advjax.attacks.attack import Attack, Failure, Problem, State, check_single
from advjax.attacks.criteria import Criterion
from advjax.attacks.fab import fab
from advjax.attacks.part import Mask, Number
from advjax.attacks.square import square
from advjax.attacks.views import expectation_over
from advjax.value import static, value

__all__ = ["AutoAttack", "auto_attack"]


def auto_attack(
    norm: Literal["linf", "l2", "l1"],
    epsilon: Number,
    version: Literal["standard", "plus", "rand"] = "standard",
    *,
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    draws: int = 20,
    mask: Mask | None = None,
    levels: int | None = 256,
) -> "AutoAttack":
    """AutoAttack (Croce & Hein 2020, section 5; for l1 Croce & Hein 2021), without a setting that matters to choose.

    "standard" runs `apgd` on the cross-entropy, `apgd` on the targeted DLR, `fab` towards targets, and `square`.
    "plus" runs `apgd` on the cross-entropy and on the DLR and untargeted `fab`, each with five restarts, `square`, and
    the two that have targets.  "rand" is for models that draw random numbers: `apgd` on the cross-entropy and on the
    DLR, each on the mean over fresh draws (`expectation_over`).  For l1, `apgd` on the cross-entropy has five restarts
    in "standard" too, the targeted one goes through at most five classes, and there is no `square`, which has no l1
    form here.

    An image that one of them has turned goes to none of those after it.  In a batch each runs until its last image is
    done: `advjax.evaluate.robust_accuracy` gives each only the images that are left, and finds the same.

    Args:
      norm: "linf", "l2" or "l1".
      epsilon: radius of the ball, in [0, 1] units; one number, or one for each image [B].
      version: "standard" or "plus".
      steps: of each run of `apgd` and `fab`.
      targets: classes that the targeted ones go through.
      queries: of `square`.
      draws: of a random model for each gradient, in "rand".
      mask, levels: as for `fgs`.

    Raises:
      ValueError: an unknown norm or version; else as for the four attacks.

    Example:
      >>> from advjax import auto_attack
      >>> auto_attack("linf", 8 / 255).names
      ('apgd-ce', 'apgd-t', 'fab-t', 'square')
    """
    if version not in ("standard", "plus", "rand"):
        raise ValueError(f'version must be "standard", "plus" or "rand", got {version!r}')
    plus = version == "plus"
    restarts = 5 if plus or norm == "l1" else 1
    shared: dict[str, Any] = {"mask": mask, "levels": levels}
    climbing = {"norm": norm, "steps": steps, **shared}
    if version == "rand":
        single = apgd(epsilon, **climbing), apgd(epsilon, objective="dlr", **climbing)
        return AutoAttack(tuple(expectation_over(one, draws=draws) for one in single), ("apgd-ce", "apgd-dlr"))
    ce = apgd(epsilon, restarts=restarts, **climbing)
    fewer = min(targets, 5) if norm == "l1" and not plus else targets
    apgd_t = apgd(epsilon, objective="dlr-targeted", targets=fewer, **climbing)
    fab_t = fab(epsilon, norm=norm, steps=steps, targets=targets, **shared)
    last: dict[str, Attack] = {} if norm == "l1" else {"square": square(epsilon, norm=norm, queries=queries, **shared)}
    members: dict[str, Attack] = {"apgd-ce": ce}
    if plus:
        dlr = apgd(epsilon, objective="dlr", restarts=restarts, **climbing)
        members |= {"apgd-dlr": dlr, "fab": fab(epsilon, norm=norm, steps=steps, restarts=5, **shared), **last}
        members |= {"apgd-t": apgd_t, "fab-t": fab_t}
    else:
        members |= {"apgd-t": apgd_t, "fab-t": fab_t, **last}
    return AutoAttack(tuple(members.values()), tuple(members))


@value
class AutoAttack(Attack):
    """Attacks one after the other until one succeeds; see `auto_attack`, which makes it.

    The returned image is that of the member that succeeded, else the clean one.  `calls` are those of all members that
    ran.  Member m begins with the key `fold_in(key, m)` of the image's own.

    Attributes:
      members: in their order; all are after the same.
      names: of them.
    """

    members: tuple[Attack, ...]
    names: tuple[str, ...] = static()

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        object.__setattr__(self, "names", tuple(self.names))
        if not self.members or len(self.names) != len(self.members):
            raise ValueError(
                f"members must be one attack or more, each with a name, got {len(self.members)} and {self.names}"
            )
        for member in self.members:
            check_single(member)

    @property
    def criterion(self) -> Criterion:
        return self.members[0].criterion

    def step(self, problem: Problem, state: State) -> State:
        right = jnp.argmax(problem.clean_logits).astype(problem.label.dtype) == problem.label
        wanted = right & self.criterion.possible(problem.label)
        for place, member in enumerate(self.members):
            state, wanted = _attacked(member, jax.random.fold_in(state.key, place), problem, state, wanted)
        return state


def _attacked(
    member: Attack, key: jax.Array, problem: Problem, state: State, wanted: jax.Array
) -> tuple[State, jax.Array]:
    """The state after `member`, for an image that is still `wanted`; and whether it is wanted after that.

    A loop of one turn, not a condition, which under `vmap` would run the member whatever the images say.
    """

    def once(carry: tuple[jax.Array, State, jax.Array]) -> tuple[jax.Array, State, jax.Array]:
        _, before, _ = carry
        end = member.step(problem, member.init(problem, key))
        met = member.criterion(problem.logits(end.image), problem.label)
        after = before._replace(
            image=jnp.where(met, end.image, before.image),
            calls=before.calls + end.calls + 1,
            failure=jnp.where(met, Failure.NONE, Failure.NOT_FOOLED).astype(jnp.int32),
            non_finite=before.non_finite | end.non_finite,
        )
        return jnp.zeros_like(wanted), after, met

    _, tried, met = jax.lax.while_loop(lambda carry: carry[0], once, (wanted, state, jnp.zeros_like(wanted)))
    return tried, wanted & ~met
