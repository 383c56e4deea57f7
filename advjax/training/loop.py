"""The training loop: blocks of steps compiled once, several networks at once, data on the device."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.data.transforms import to_float
from advjax.fastcpu import accelerate
from advjax.training.state import TrainState
from advjax.training.step import Batch, Metrics, Step

__all__ = ["Trainer", "NonFiniteLossError", "predict", "batch_order"]


class NonFiniteLossError(FloatingPointError):
    """The loss of a network was NaN or infinite; the message names the network and the step."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains stacked states by `step`, `block` steps a call of one compiled program.

    The program is traced once for a shape of states and pool: not again for another block, another number of
    iterations, or other members of the pool. Make one `Trainer` and use it for all networks of a kind.

    Attributes:
        step: from `train_step`.
        batch_size: images a step, for each network.
        block: steps between two looks at the loss.

    >>> import optax
    >>> from flax import nnx
    >>> from advjax.training import create, stack, train_step
    >>> optimizer = optax.sgd(0.1)
    >>> def network(seed):
    ...     return nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 2, rngs=nnx.Rngs(seed)))
    >>> states = stack([create(network(0), optimizer)])
    >>> pool = Batch(jnp.zeros((6, 2, 2, 1), jnp.uint8), jnp.zeros(6, jnp.int32))
    >>> trainer = Trainer(train_step(optimizer), batch_size=2, block=5)
    >>> states, losses = trainer.fit(states, pool, [np.arange(6)], 20, jax.random.key(0))
    >>> losses.shape, bool(losses[0, -1] < losses[0, 0])
    ((1, 4), True)
    """

    step: Step
    batch_size: int = 64
    block: int = 250

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.block < 1:
            raise ValueError(f"batch_size and block must be at least 1, got {self.batch_size} and {self.block}")

    def fit(
        self,
        states: TrainState,
        pool: Batch,
        members: Sequence[np.ndarray],
        iterations: int,
        key: jax.Array,
        *,
        progress: str | None = None,
    ) -> tuple[TrainState, np.ndarray]:
        """Trains each network s on the images `pool[members[s]]`, in its own order, shuffled anew each epoch.

        An epoch's last batch is filled up from the next epoch, as Caffe's data layer does. The states are
        donated: do not use them afterwards.

        Args:
            states: stacked states [S].
            pool: the images uint8 [N, H, W, C] and labels int32 [N] of all networks, on the device.
            members: for each of the S networks, the indices into the pool of its training set, int [n_s].
            iterations: steps to make.
            key: decides the orders and the step's draws, which depend on key, network and step number alone.
            progress: the title of a progress bar with loss, images/s and time left (needs tqdm); None: none.

        Returns:
            The trained states and the mean loss of each network over each block, float32 [S, blocks].

        Raises:
            ValueError: not one non-empty index array in range for each network.
            NonFiniteLossError: a loss was NaN or infinite.
        """
        _check_members(states, pool, members)
        keys = jax.random.split(key, len(members))
        start = int(states.step[0])
        means: list[np.ndarray] = []
        waiting: tuple[int, int, Metrics] | None = None
        with _bar(progress, iterations * self.batch_size * len(members)) as advance:
            for done in range(0, iterations, self.block):
                steps = min(self.block, iterations - done)
                order = np.zeros((len(members), self.block, self.batch_size), np.int32)
                for row, key_s, member in zip(order, keys, members, strict=True):
                    row[:steps] = member[batch_order(key_s, len(member), start + done, steps, self.batch_size)]
                states, metrics = self._run(states, pool, order, keys, steps)
                # Read the previous block's numbers only now that the device has this one to work on.
                if waiting is not None:
                    means.append(_read(waiting, advance))
                waiting = (start + done, steps, metrics)
            if waiting is not None:
                means.append(_read(waiting, advance))
        return states, np.stack(means, axis=1) if means else np.zeros((len(members), 0), np.float32)

    @functools.cached_property
    def _run(self) -> Callable[..., tuple[TrainState, Metrics]]:
        def one(
            state: TrainState, order: jax.Array, key: jax.Array, pool: Batch, steps: jax.Array
        ) -> tuple[TrainState, Metrics]:
            def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
                state, seen = carry
                batch = Batch(pool.image[order[i]], pool.label[order[i]])
                state, metrics = self.step(state, batch, jax.random.fold_in(key, state.step))
                return state, jax.tree.map(lambda all_steps, now: all_steps.at[i].set(now), seen, metrics)

            zeros = jnp.zeros(order.shape[0], jnp.float32)
            return jax.lax.fori_loop(0, steps, body, (state, Metrics(zeros, zeros, zeros)))

        def block(
            states: TrainState, pool: Batch, order: jax.Array, keys: jax.Array, steps: jax.Array
        ) -> tuple[TrainState, Metrics]:
            return _over_networks(lambda state, order, key: one(state, order, key, pool, steps), states, order, keys)

        return jax.jit(accelerate(block), donate_argnums=0)


def batch_order(key: jax.Array, size: int, step: int, steps: int, batch_size: int) -> np.ndarray:
    """Indices [steps, batch_size] of the batches of steps `step`, `step + 1`, ..., shuffled each epoch.

    Epoch e is a permutation of 0..size-1 drawn from (key, e); the batches cut the endless row of epochs into
    equal parts. Nothing depends on earlier calls, so a run can go on from any step.

    >>> batch_order(jax.random.key(0), 3, 0, 2, 3).sum(axis=1)
    array([3, 3])
    """
    first, last = step * batch_size, (step + steps) * batch_size
    seed = [int(word) for word in jax.random.key_data(key)]
    epochs = [
        np.random.default_rng([*seed, epoch]).permutation(size)
        for epoch in range(first // size, (last - 1) // size + 1)
    ]
    offset = first // size * size
    return np.concatenate(epochs)[first - offset : last - offset].reshape(steps, batch_size)


def predict(states: TrainState, images: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
    """The classes int32 [S, N] that S stacked networks give to images uint8 [N, H, W, C], in evaluation mode.

    The images are read in batches of one size, the last one padded: one program for any N.

    >>> import optax
    >>> from flax import nnx
    >>> from advjax.training import create, stack
    >>> network = nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    >>> predict(stack([create(network, optax.sgd(0.1))]), np.zeros((3, 2, 2, 1), np.uint8)).shape
    (1, 3)
    """
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    parts = []
    for start in range(0, len(images), batch_size):
        chunk = images[start : start + batch_size]
        padding = np.zeros((batch_size - len(chunk), *chunk.shape[1:]), np.uint8)
        parts.append(_classes(states.graphdef, states.params, states.rest, np.concatenate([chunk, padding])))
    if not parts:
        return np.zeros((states.step.shape[0], 0), np.int32)
    return np.concatenate([np.asarray(part) for part in parts], axis=1)[:, : len(images)]


@functools.partial(jax.jit, static_argnums=0)
def _classes(graphdef: Any, params: Any, rest: Any, images: jax.Array) -> jax.Array:
    pixels = to_float(images)

    def one(params: Any, rest: Any) -> jax.Array:
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.eval()
        return jnp.argmax(model(pixels), -1).astype(jnp.int32)

    return _over_networks(one, params, rest)


def _over_networks(one: Callable[..., Any], *stacked: Any) -> Any:
    # vmap turns a stack's convolutions into grouped ones, which fill an accelerator. A CPU is full with one
    # network: there a network's step takes 15 ms in turn and 14-20 ms side by side (3 to 9 LeNets on 2 cores,
    # batch 64), a prediction 42 us against 220 us, and the program compiles in half the time.
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda arguments: one(*arguments), stacked)
    return jax.vmap(one)(*stacked)


def _check_members(states: TrainState, pool: Batch, members: Sequence[np.ndarray]) -> None:
    if states.step.ndim != 1 or states.step.shape[0] != len(members):
        raise ValueError(
            "members must hold one index array for each stacked network, "
            f"got {len(members)} for states of shape {states.step.shape}"
        )
    size = pool.image.shape[0]
    for index, member in enumerate(members):
        if len(member) == 0 or member.min() < 0 or member.max() >= size:
            raise ValueError(f"members[{index}] must hold indices in 0..{size - 1} and not be empty, got {member}")


@contextlib.contextmanager
def _bar(title: str | None, images: int) -> Iterator[Callable[[int, float], None]]:
    if title is None:
        yield lambda count, loss: None
        return
    from tqdm import tqdm

    with tqdm(total=images, desc=title, unit="img", unit_scale=True, dynamic_ncols=True) as bar:

        def advance(count: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(count)

        yield advance


def _read(block: tuple[int, int, Metrics], advance: Callable[[int, float], None]) -> np.ndarray:
    start, steps, metrics = block
    losses, counts = np.asarray(metrics.loss)[:, :steps], np.asarray(metrics.examples)[:, :steps]
    if not np.isfinite(losses).all():
        step, network = np.argwhere(~np.isfinite(losses.T))[0]
        raise NonFiniteLossError(
            f"the loss of network {network} is {losses[network, step]} at step {start + step}: "
            "the learning rate may be too high, or the data not finite"
        )
    mean = losses.sum(axis=1) / counts.sum(axis=1)
    advance(int(counts.sum()), float(mean.mean()))
    return mean
