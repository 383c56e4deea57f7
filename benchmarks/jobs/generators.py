"""A step of a perturbation generation network beside the sum of its parts, each compiled and run by itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.classifier import from_nnx
from advjax.fastcpu import accelerate
from advjax.generators import Players, generator, generator_step
from advjax.models import ResNet, VggCifar
from advjax.training import Batch, Resident, Trainer, create
from benchmarks.floor import operations_of
from benchmarks.harness import Answers, Case, Job, Run

__all__ = ["JOBS"]

_SHAPE, _BATCH, _WIDTH = (32, 32, 3), 32, 16
_STD = (0.247, 0.2435, 0.2616)


def _players() -> Players:
    encoder = ResNet((1, 1, 1, 1), 10, width=_WIDTH, small_images=True, rngs=nnx.Rngs(0))
    classifier = from_nnx(VggCifar(width=_WIDTH, rngs=nnx.Rngs(1)))
    return Players(generator(encoder, _SHAPE, std=_STD, rngs=nnx.Rngs(2)), classifier, _SHAPE, rngs=nnx.Rngs(3))


def _ours(players: Players, data: Resident, steps: int) -> Run:
    step = generator_step(optax.adam(1e-4), problem="enhancing", gamma=1e-4)
    trainer = Trainer(step, _BATCH, steps)

    def run() -> Any:
        fitted = trainer.fit(players, data, steps, jax.random.key(0))
        jax.block_until_ready(fitted.states)
        return fitted

    return run


def _parts(players: Players, data: Resident, steps: int) -> Run:
    """The generator in training mode and the trunk, forward and backward; the classifier twice forward."""
    images = jnp.asarray(data.images / 255, jnp.float32)
    graphdef, params, rest = nnx.split(players.generator, nnx.Param, ...)
    frozen = nnx.split(players.frozen)

    def generated(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.train()
        return jnp.sum(model(images))

    def passed(images: jax.Array, network: str, state: Any) -> jax.Array:
        return jnp.sum(nnx.merge(frozen[0], state, copy=True)(network, images))

    learn, through = jax.jit(accelerate(jax.value_and_grad(generated))), jax.value_and_grad(passed)
    pass_trunk = jax.jit(accelerate(lambda images, state: through(images, "trunk", state)))
    answer = jax.jit(accelerate(lambda images, state: passed(images, "classifier", state)))

    def run() -> Any:
        for _ in range(steps):
            jax.block_until_ready(learn(params))
            jax.block_until_ready(pass_trunk(images, frozen[1]))
            for _ in range(2):
                jax.block_until_ready(answer(images, frozen[1]))
        return None

    return run


def _judge(fitted: Any) -> Answers:
    if fitted is None:
        return {}
    loss = float(np.asarray(fitted.loss)[0, -1])
    if not np.isfinite(loss):
        raise ValueError(f"the loss must be finite, got {loss}")
    return {"loss": loss}


def _case(smoke: bool) -> Case:
    players, steps, rng = _players(), 1 if smoke else 10, np.random.default_rng(0)
    data = Resident(rng.integers(0, 256, (_BATCH, *_SHAPE)).astype(np.uint8), rng.integers(0, 10, _BATCH, np.int32))
    step = generator_step(optax.adam(1e-4), problem="enhancing", gamma=1e-4)
    state, batch = create(players, step.optimizer), Batch(jnp.asarray(data.images), jnp.asarray(data.labels))
    return Case(
        ours=_ours(players, data, steps),
        peers={"the sum of its parts, each compiled by itself": lambda: _parts(players, data, steps)},
        judge=_judge,
        bars={},
        operations=steps * operations_of(step, state, batch, jax.random.key(0)),
        moved=steps * 2.0 * sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state))),
        counted="XLA's count of a step; weights and Adam's moments read and written once",
        notes=f"encoder ResNet of width {_WIDTH}, classifier VGG of width {_WIDTH}, both random; batch {_BATCH}",
    )


JOBS: Mapping[str, Job] = {
    "train-generator": Job(f"10 steps of a perturbation generation network at 32x32x3, batch {_BATCH}", _case)
}
