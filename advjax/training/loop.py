"""The training loop: `Trainer`, whose blocks of steps are compiled once, for all networks and devices at once."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.pipeline import Resident, check_set
from advjax.data.stream import Stream
from advjax.fastcpu import accelerate
from advjax.training.faults import Faults
from advjax.training.feed import feed_of
from advjax.training.identity import identity_of
from advjax.training.keeper import Keeper
from advjax.training.networks import over_networks
from advjax.training.progress import bar
from advjax.training.run import Fitted, Plan, Run
from advjax.training.sharding import Placement, default_placement
from advjax.training.state import TrainState
from advjax.training.step import Batch, Metrics, Step

__all__ = ["Trainer"]


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains stacked states by `step`, `block` steps a call of one compiled program.

    The program is traced once for a shape of states and data: not again for another block, another number of
    steps, or other members of the data. Make one `Trainer` and use it for all networks of a kind.

    Attributes:
        step: from `train_step`.
        batch_size: images a step, for each network, over all devices. A `Stream` has its own, which must be this.
        block: steps between two looks at the loss; everything else happens between blocks too.
        placement: which devices; None: all of them (`default_placement`).

    >>> import optax
    >>> from flax import nnx
    >>> from advjax.training import ensemble, train_step
    >>> optimizer = optax.sgd(0.1)
    >>> def flat(x):
    ...     return x.reshape(x.shape[0], -1)
    >>> def network(rngs):
    ...     return nnx.Sequential(flat, nnx.Linear(4, 2, rngs=rngs))
    >>> data = Resident(np.zeros((6, 2, 2, 1), np.uint8), np.zeros(6, np.int32))
    >>> trainer = Trainer(train_step(optimizer), batch_size=2, block=5)
    >>> fitted = trainer.fit(ensemble(network, optimizer, seeds=3), data, 20, jax.random.key(0))
    >>> fitted.loss.shape, bool(fitted.loss[0, -1] < fitted.loss[0, 0])
    ((3, 4), True)
    """

    step: Step
    batch_size: int = 64
    block: int = 250
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.block < 1:
            raise ValueError(f"batch_size and block must be at least 1, got {self.batch_size} and {self.block}")

    def fit(
        self,
        states: TrainState,
        data: Resident | Stream,
        steps: int,
        key: jax.Array,
        *,
        folder: str | os.PathLike[str] | None = None,
        every: int | None = None,
        config: Mapping[str, Any] | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        patience: int | None = None,
        progress: str | None = None,
        tensorboard: bool = False,
    ) -> Fitted:
        """Trains each of the S networks for `steps` steps, or until validation improves no more.

        With a folder, the training is saved there every `every` steps and at its end, and a call with the same
        arguments goes on from the newest whole checkpoint to the same bits (on the same kind and number of devices);
        `metrics.csv` is written there too. SIGTERM and SIGINT then save first and end the program with status 0.

        The states are donated: do not use them afterwards.

        Args:
            states: stacked states [S], from `ensemble` or `stack`.
            data: the training set; each network reads its own order of a `Resident` set, all read one `Stream`.
            steps: steps to make, counted from `states.step`. A finished training goes on when it is larger;
                one that got further already is an error.
            key: decides the orders and the step's draws: step i of network s draws from
                `fold_in(split(key, S)[s], i)`.
            folder: for checkpoints and metrics; None: nothing is written, and signals do what they always do.
            every: steps between two checkpoints, and between two validations; a multiple of `block`; None: only the
                end.
            config: JSON values stored with each checkpoint; another one on resuming is an error.
            validation: images and labels, as for `Resident`, that are neither trained nor tested on; their mean
                accuracy over the networks decides what is best, and the best checkpoint is kept too.
            patience: stop after so many validations without a better one; None: never.
            progress: the title of a progress bar with loss, accuracy, images/s and time left; None: none.
            tensorboard: write TensorBoard events into the folder (`pip install "advjax[tensorboard]"`).

        Raises:
            ValueError: arguments that do not fit together; a folder that holds another training.
            DataError: images that are not finite, leave [0, 1] or are between the levels that the attack rounds to, or
                labels that are no class of the network. Nothing was saved after it.
            NonFiniteLossError: a loss, weight or batch statistic was NaN or infinite. Nothing was saved after it.
            CheckpointError: a checkpoint could not be written (a full disk), or all are damaged.
            FolderInUseError: another run trains in the folder.
            Preempted: a `SystemExit` with status 0, after a signal.
        """
        self._check(states, data, steps, every, validation, patience, folder, tensorboard)
        where = default_placement() if self.placement is None else self.placement
        _check_divides(self.batch_size, where)
        identity = identity_of(config, key, self.batch_size, data, states, validation)
        networks = states.step.shape[0]
        plan = Plan(_common_step(states) + steps, self.block, every, validation, patience)
        keys = where.put(jax.random.split(key, networks), where.replicated)
        feed = feed_of(data, where, keys, self.batch_size, self.block)

        def block(states: TrainState, content: Batch, order: np.ndarray, count: np.int32) -> Any:
            return self._block(where, feed.resident, states, content, order, keys, count)

        with contextlib.ExitStack() as stack:
            if isinstance(data, Stream):
                stack.callback(data.close)  # its threads; the position stays
            keeper = None
            if folder is not None:
                keeper = Keeper(pathlib.Path(folder), identity, tensorboard, stack)
            advance = stack.enter_context(bar(progress, plan.end * self.batch_size * networks))
            run = Run(plan, block, feed, where, keeper, advance)
            return run.train(where.put(states, where.of_states(states)), self.batch_size * networks)

    def _check(
        self,
        states: TrainState,
        data: Any,
        steps: int,
        every: int | None,
        validation: Any,
        patience: int | None,
        folder: Any,
        tensorboard: bool,
    ) -> None:
        if not isinstance(data, Resident | Stream):
            raise TypeError(f"data must be a Resident or a Stream, got {type(data).__name__}")
        if states.step.ndim != 1:
            raise ValueError(
                f"states must be stacked (see stack and ensemble), got a step of shape {states.step.shape}"
            )
        if isinstance(data, Resident) and data.members is not None and len(data.members) != states.step.shape[0]:
            raise ValueError(
                "members must hold one index array for each stacked network, "
                f"got {len(data.members)} for states of shape {states.step.shape}"
            )
        if isinstance(data, Stream) and data.batch_size != self.batch_size:
            raise ValueError(f"the stream's batch size must be the trainer's, {self.batch_size}, got {data.batch_size}")
        if validation is not None:
            images, labels = validation
            check_set(images, labels, "validation ")
        if steps < 0:
            raise ValueError(f"steps must be 0 or more, got {steps}")
        if every is not None and (every < 1 or every % self.block):
            raise ValueError(f"every must be a multiple of block={self.block}, got {every}")
        if patience is not None and (patience < 1 or validation is None or every is None):
            raise ValueError(f"patience must be at least 1 and needs validation and every, got {patience}")
        if tensorboard and folder is None:
            raise ValueError("tensorboard=True needs a folder to write to, got folder=None")

    @functools.cached_property
    def _block(self) -> Callable[..., tuple[TrainState, Metrics, jax.Array]]:
        """`(placement, resident, states, content, order, keys, steps) -> states, metrics [S, block], finite [S]`."""

        def block(
            placement: Placement, resident: bool, states: TrainState, content: Batch, order: Any, keys: Any, steps: Any
        ) -> tuple[TrainState, Metrics, jax.Array]:
            def body(
                i: jax.Array, carry: tuple[TrainState, Metrics], order: jax.Array, key: jax.Array
            ) -> tuple[TrainState, Metrics]:
                state, seen = carry
                batch = jax.tree.map(lambda rows: rows[order[i]] if resident else rows[i], content)
                batch = placement.constrain(batch, jax.tree.map(lambda x: placement.of_batch(0, x.ndim), batch))
                if placement.parameters == "sharded":
                    # Gathered for this step alone; left to itself the compiler splits the step's convolutions by
                    # channels, slowly, and in a loop of grouped ones wrongly (XLA of JAX 0.10.2, CPU).
                    state = dataclasses.replace(state, params=placement.constrain(state.params, placement.replicated))
                state, metrics = self.step(state, batch, jax.random.fold_in(key, state.step))
                return state, jax.tree.map(lambda all_steps, now: all_steps.at[i].set(now), seen, metrics)

            def one(state: TrainState, order: jax.Array, key: jax.Array) -> Any:
                zeros = jnp.zeros(self.block, jnp.float32)
                start = (state, Metrics(zeros, zeros, zeros, Faults(zeros, zeros, zeros, zeros)))
                state, seen = jax.lax.fori_loop(0, steps, lambda i, carry: body(i, carry, order, key), start)
                # Batch statistics too: the loss in training mode does not read the running averages.
                finite = [
                    jnp.all(jnp.isfinite(leaf))
                    for leaf in jax.tree.leaves((state.params, state.rest))
                    if jnp.issubdtype(leaf.dtype, jnp.inexact)
                ]
                return state, seen, jnp.all(jnp.stack(finite))

            states, seen, finite = over_networks(one, placement, states, order, keys)
            # Where they came from, so that the next block finds the same program.
            states = placement.constrain(states, placement.of_states(states))
            # Whole on every device, so that every process can read them.
            return states, *placement.constrain((seen, finite), placement.replicated)

        return jax.jit(
            lambda placement, resident, *arrays: accelerate(functools.partial(block, placement, resident))(*arrays),
            static_argnums=(0, 1),
            donate_argnums=2,
        )


def _common_step(states: TrainState) -> int:
    steps = Placement.to_host(states.step)
    if steps.min() != steps.max():
        raise ValueError(f"states must all be of one step, got states of steps {steps.tolist()}")
    return int(steps[0])


def _check_divides(batch_size: int, where: Placement) -> None:
    parts = where.mesh.shape["data"]
    if batch_size % parts:
        raise ValueError(f"batch_size must be divisible by the {parts} devices that share a batch, got {batch_size}")
