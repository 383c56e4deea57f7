"""Free adversarial training: each gradient moves the weights and the perturbation at once."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.attacks.settings import check_count
from advjax.training.interface import Batch, Metrics, TrainingStep
from advjax.training.state import TrainState
from advjax.training.step import Step, train_step

__all__ = ["Carried", "FreeStep", "free"]


class Carried(NamedTuple):
    """The optimizer's state, and the perturbation [B, H, W, C] that goes from batch to batch."""

    solver: Any
    perturbation: jax.Array


def free(
    optimizer: optax.GradientTransformation,
    epsilon: float,
    *,
    shape: tuple[int, int, int, int],
    replays: int = 8,
    **options: Any,
) -> "FreeStep":
    """The step of free adversarial training, for `Trainer`: `replays` times on the same batch,

        x' = clip(x + d, 0, 1),    g_w, g_x = grad J(x')  in weights and image, from one backward pass,
        w <- w + update(g_w),      d <- clip(d + epsilon sign(g_x), -epsilon, epsilon),

    and d stays for the next batch, image by image at its place. It is kept in the optimizer's state, and so in
    checkpoints. A step is one batch; the optimizer, with its learning rate, is asked `replays` times in it, so that an
    epoch needs as many gradients as so many epochs of ordinary training. The metrics are means over the replays.

    Args:
        optimizer: as for `train_step`.
        epsilon: radius of the linf ball, in [0, 1] units.
        shape: [B, H, W, C] of the batches that the network sees, after `augment`; with an `axis_name` a device's.
        replays: of each batch, 1 or more; the paper's m, 8 on CIFAR-10, 4 on ImageNet.
        options: `loss`, `augment`, `hidden` and `axis_name` of `train_step`.

    Raises:
        ValueError: epsilon is negative; replays is below 1; shape is none of a batch; as `train_step`. From the step: a
            batch of another shape.

    Source: Shafahi et al. 2019, "Adversarial training for free!", Algorithm 1.

    >>> step = free(optax.sgd(0.1), 8 / 255, shape=(128, 32, 32, 3))
    >>> step.optimizer.init({"kernel": jnp.ones(2)}).perturbation.shape
    (128, 32, 32, 3)
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be a finite number of 0 or more, got {epsilon}")
    check_count("replays", replays)
    if len(shape) != 4 or any(size < 1 for size in shape):
        raise ValueError(f"shape must be that of a batch, (B, H, W, C), got {shape}")
    for name in {"attack", "clean_weight", "attack_mode"} & options.keys():
        raise ValueError(f"{name} is none of free training's options: its perturbation is its own")
    carrying = _carrying(optimizer, shape)
    step = train_step(carrying, **options)
    return FreeStep(carrying, step, epsilon, replays, step.axis_name)


def _carrying(optimizer: optax.GradientTransformation, shape: tuple[int, ...]) -> optax.GradientTransformation:
    """The optimizer, whose state holds a perturbation too: zero at first."""

    def init(params: Any) -> Carried:
        return Carried(optimizer.init(params), jnp.zeros(shape))

    def update(grads: Any, state: Carried, params: Any = None) -> tuple[Any, Carried]:
        updates, solver = optimizer.update(grads, state.solver, params)
        return updates, Carried(solver, state.perturbation)

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True, eq=False)
class FreeStep(TrainingStep):
    """One step, `(state, batch, key) -> (state, metrics)`; made by `free`, which explains it."""

    optimizer: optax.GradientTransformation
    step: Step
    epsilon: float
    replays: int
    axis_name: str | None

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        given = self.step.task(state, batch, key)
        if given.clean.shape != state.opt_state.perturbation.shape:
            raise ValueError(
                f"shape must be that of the batches, {given.clean.shape}, got {state.opt_state.perturbation.shape}"
            )

        def replay(now: TrainState, keys: tuple[jax.Array, jax.Array]) -> tuple[TrainState, Metrics]:
            task = given._replace(rest=now.rest, adversarial_key=keys[0], clean_key=keys[1])

            def objective(params: Any, images: jax.Array) -> tuple[jax.Array, tuple[Any, Metrics]]:
                return self.step.objective(params, now, task._replace(images=images))

            # In the image itself, not in what was clipped to it: a pixel at its end must find its way back.
            images = jnp.clip(given.clean + now.opt_state.perturbation, 0.0, 1.0)
            (grads, uphill), (rest, metrics) = jax.grad(objective, (0, 1), has_aux=True)(now.params, images)
            moved = now.opt_state.perturbation + self.epsilon * jnp.sign(uphill)
            carried = now.opt_state._replace(perturbation=jnp.clip(moved, -self.epsilon, self.epsilon))
            now = dataclasses.replace(now, opt_state=carried)
            return self.step.updated(now, *self.step.gathered(grads, rest, metrics))

        first, second = (
            jax.random.split(given_key, self.replays) for given_key in (given.adversarial_key, given.clean_key)
        )
        end, metrics = jax.lax.scan(replay, state, (first, second))
        metrics = jax.tree.map(lambda each: jnp.mean(each, 0), metrics)
        if not isinstance(metrics.loss, jax.core.Tracer):
            metrics.check()
        # A step is a batch, by which `Trainer` counts and draws.
        return dataclasses.replace(end, step=state.step + 1), metrics
