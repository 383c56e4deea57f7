"""The training loop: blocks of steps compiled once, saved as they go, gone on with after any end."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.pipeline import Resident, Stream
from advjax.fastcpu import accelerate
from advjax.training.checkpoint import Checkpoints
from advjax.training.history import History, Log
from advjax.training.interrupts import Preempted, stop_requests
from advjax.training.networks import over_networks
from advjax.training.predictions import measure
from advjax.training.progress import bar
from advjax.training.sharding import Layout, default_layout
from advjax.training.state import TrainState
from advjax.training.step import Batch, Metrics, Step

__all__ = ["Fitted", "NonFiniteLossError", "Trainer"]


class NonFiniteLossError(FloatingPointError):
    """A loss or a weight was NaN or infinite; the message names the network, the step and the last good checkpoint."""


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What a training gave.

    Attributes:
        states: the stacked states [S] after the last step.
        best: those after the step of best validation accuracy (the mean over the networks); None without validation.
        history: one row for each block of steps.
        early: whether it stopped before the last step because validation improved no more.
    """

    states: TrainState
    best: TrainState | None
    history: History
    early: bool = False

    @property
    def loss(self) -> np.ndarray:
        """The mean loss of each network over each block of steps, float32 [S, blocks]."""
        return self.history.column("loss", self.states.step.shape[0])

    @property
    def accuracy(self) -> np.ndarray:
        """The share of right answers of each network in each block, for the images it learned on, [S, blocks]."""
        return self.history.column("accuracy", self.states.step.shape[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains stacked states by `step`, `block` steps a call of one compiled program.

    The program is traced once for a shape of states and data: not again for another block, another number of
    steps, or other members of the data. Make one `Trainer` and use it for all networks of a kind.

    Attributes:
        step: from `train_step`.
        batch_size: images a step, for each network, over all devices. A `Stream` has its own, which must be this.
        block: steps between two looks at the loss; everything else happens between blocks too.
        layout: which devices; None: all of them (`default_layout`).

    >>> import optax
    >>> from flax import nnx
    >>> from advjax.training import ensemble, train_step
    >>> optimizer = optax.sgd(0.1)
    >>> def network(rngs):
    ...     return nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 2, rngs=rngs))
    >>> data = Resident(np.zeros((6, 2, 2, 1), np.uint8), np.zeros(6, np.int32))
    >>> trainer = Trainer(train_step(optimizer), batch_size=2, block=5)
    >>> fitted = trainer.fit(ensemble(network, optimizer, seeds=3), data, 20, jax.random.key(0))
    >>> fitted.loss.shape, bool(fitted.loss[0, -1] < fitted.loss[0, 0])
    ((3, 4), True)
    """

    step: Step
    batch_size: int = 64
    block: int = 250
    layout: Layout | None = None

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
            steps: steps to make, counted from `states.step`. A finished training goes on when it is larger.
            key: decides the orders and the step's draws: step i of network s draws from
                `fold_in(split(key, S)[s], i)`.
            folder: for checkpoints and metrics; None: nothing is written, and signals do what they always do.
            every: steps between two checkpoints, and between two validations; a multiple of `block`; None: only the
                end.
            config: JSON values stored with each checkpoint; another one on resuming is an error.
            validation: images and labels, as for `measure`, that are neither trained nor tested on; their mean
                accuracy over the networks decides what is best, and the best checkpoint is kept too.
            patience: stop after so many validations without a better one; None: never.
            progress: the title of a progress bar with loss, accuracy, images/s and time left; None: none.
            tensorboard: write TensorBoard events into the folder (`pip install "advjax[tensorboard]"`).

        Raises:
            ValueError: arguments that do not fit together; a folder that holds another training.
            NonFiniteLossError: a loss or weight was NaN or infinite. Nothing was saved after it.
            CheckpointError: a checkpoint could not be written (a full disk), or all are damaged.
            Preempted: a `SystemExit` with status 0, after a signal.
        """
        self._check(states, data, steps, every, validation, patience, folder, tensorboard)
        where = default_layout() if self.layout is None else self.layout
        _check_divides(self.batch_size, where)
        identity = _identity(config, key, self.batch_size, data, states)
        end = int(np.max(Layout.to_host(states.step))) + steps
        states = where.put(states, where.of_states(states))
        keys = where.put(jax.random.split(key, states.step.shape[0]), where.replicated)
        run = _Run(self, where, data, keys, end, every, validation, patience)
        with contextlib.ExitStack() as stack:
            if folder is not None:
                run.open(stack, pathlib.Path(folder), identity, tensorboard)
            return run.train(states, stack.enter_context(bar(progress, end * self.batch_size * keys.shape[0])))

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
        if isinstance(data, Stream) and data.local_batch_size * jax.process_count() != self.batch_size:
            raise ValueError(
                f"the stream's batch size must be the trainer's, {self.batch_size}, "
                f"got {data.local_batch_size * jax.process_count()}"
            )
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
        """`(layout, resident, states, content, order, keys, steps) -> states, metrics [S, block], finite [S]`."""

        def block(
            layout: Layout, resident: bool, states: TrainState, content: Batch, order: Any, keys: Any, steps: Any
        ) -> tuple[TrainState, Metrics, jax.Array]:
            def body(
                i: jax.Array, carry: tuple[TrainState, Metrics], order: jax.Array, key: jax.Array
            ) -> tuple[TrainState, Metrics]:
                state, seen = carry
                batch = jax.tree.map(lambda rows: rows[order[i]] if resident else rows[i], content)
                if layout.mesh.size > 1:
                    batch = jax.tree.map(lambda x: _constrain(x, layout.of_batch(0, x.ndim)), batch)
                if layout.parameters == "sharded":
                    # Gathered for this step alone; left to itself the compiler splits the step's convolutions by
                    # channels, slowly, and in a loop of grouped ones wrongly (XLA of JAX 0.10.2, CPU).
                    whole = jax.tree.map(lambda x: _constrain(x, layout.replicated), state.params)
                    state = dataclasses.replace(state, params=whole)
                state, metrics = self.step(state, batch, jax.random.fold_in(key, state.step))
                return state, jax.tree.map(lambda all_steps, now: all_steps.at[i].set(now), seen, metrics)

            def one(state: TrainState, order: jax.Array, key: jax.Array) -> Any:
                zeros = jnp.zeros(self.block, jnp.float32)
                start = (state, Metrics(zeros, zeros, zeros))
                state, seen = jax.lax.fori_loop(0, steps, lambda i, carry: body(i, carry, order, key), start)
                finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]
                return state, seen, jnp.all(jnp.stack(finite))

            states, seen, finite = over_networks(one, layout, states, order, keys)
            # Where they came from, so that the next block finds the same program.
            states = jax.tree.map(_constrain, states, layout.of_states(states))
            # Whole on every device, so that every process can read them.
            seen, finite = jax.tree.map(lambda x: _constrain(x, layout.replicated), (seen, finite))
            return states, seen, finite

        return jax.jit(
            lambda layout, resident, *arrays: accelerate(functools.partial(block, layout, resident))(*arrays),
            static_argnums=(0, 1),
            donate_argnums=2,
        )


class _Run:
    """One call of `fit`: what it knows, and what it has open."""

    def __init__(
        self,
        trainer: Trainer,
        where: Layout,
        data: Resident | Stream,
        keys: jax.Array,
        end: int,
        every: int | None,
        validation: tuple[np.ndarray, np.ndarray] | None,
        patience: int | None,
    ) -> None:
        self.trainer, self.where, self.data, self.keys = trainer, where, data, keys
        self.end, self.every, self.validation, self.patience = end, every, validation, patience
        self.history = History()
        self.checkpoints: Checkpoints | None = None
        self.log: Log | None = None
        self.requested: Callable[[], str | None] = lambda: None
        self.identity: dict[str, Any] = {}
        self.folder = pathlib.Path()
        self.open_log: Callable[[], Log] | None = None
        self.saved: int | None = None
        self.content = self._resident_content()

    def _resident_content(self) -> Batch | None:
        if isinstance(self.data, Stream):
            return None
        images, labels = self.where.put((self.data.images, self.data.labels), self.where.replicated)
        return Batch(images, labels)

    def open(
        self, stack: contextlib.ExitStack, folder: pathlib.Path, identity: dict[str, Any], tensorboard: bool
    ) -> None:
        """Opens the checkpoints, and holds signals back from now on."""
        self.folder, self.identity = folder, identity
        self.checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
        self.requested = stack.enter_context(stop_requests())

        def open_log() -> Log:
            log = Log(folder, self.history, tensorboard=tensorboard)
            stack.callback(log.close)
            return log

        # One process writes; and only after the rows of an earlier call are known.
        self.open_log = open_log if jax.process_index() == 0 else None

    def train(self, states: TrainState, advance: Callable[[int, float, float], None]) -> Fitted:
        """From the newest checkpoint, if there is one, to the end."""
        states, best = self._restored(states)
        if self.open_log is not None:
            self.log = self.open_log()
        step = int(np.max(Layout.to_host(states.step)))
        advance(step * self.trainer.batch_size * len(self.keys), 0.0, 0.0)
        waiting: tuple[int, int, Metrics, jax.Array] | None = None
        early = self._is_early()
        while step < self.end and not early:
            count = min(self.trainer.block, self.end - step)
            # The host makes this order while the device still works on the block before.
            content, order = self._next(step, count)
            states, metrics, finite = self.trainer._block(
                self.where, isinstance(self.data, Resident), states, content, order, self.keys, np.int32(count)
            )
            step += count
            if waiting is not None:
                self._read(*waiting, advance)
            waiting = (step, count, metrics, finite)
            name = self.requested()
            due = step == self.end or (self.every is not None and step % self.every == 0)
            if due or name is not None:
                self._read(*waiting, advance)
                waiting = None
                best = self._validate(states, step, best) if due else best
                self._save(states, step)
                early = self._is_early()
            if name is not None and step < self.end and not early:
                self._stop(name, step)
        if self.checkpoints is not None:
            self.checkpoints.wait()
        return Fitted(states, best, self.history, early)

    def _next(self, step: int, count: int) -> tuple[Batch, np.ndarray]:
        block, networks = self.trainer.block, self.keys.shape[0]
        if isinstance(self.data, Resident):
            assert self.content is not None
            order = np.zeros((networks, block, self.trainer.batch_size), np.int32)
            order[:, :count] = self.data.order(self.keys, step, count, self.trainer.batch_size)
            return self.content, order
        images, labels = self.data.take(count)
        missing = block - count
        if missing:  # one shape, one program
            images, labels = (np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) for x in (images, labels))
        placed = [self.where.from_local(x, self.where.of_batch(1, x.ndim)) for x in (images, labels)]
        return Batch(*placed), np.zeros((networks, 0), np.int32)

    def _read(
        self, step: int, count: int, metrics: Metrics, finite: jax.Array, advance: Callable[[int, float, float], None]
    ) -> None:
        """The row of the block that ended before `step`; waits for the device."""
        losses, right, seen = (np.asarray(part)[:, :count] for part in metrics)
        if not np.isfinite(losses).all():
            at, network = np.argwhere(~np.isfinite(losses.T))[0]
            what = f"the loss of network {network} is {losses[network, at]} at step {step - count + at}"
            raise NonFiniteLossError(f"{what}: {self._advice()}")
        if not np.asarray(finite).all():
            network = int(np.argmin(np.asarray(finite)))
            raise NonFiniteLossError(f"a weight of network {network} is not finite after step {step}: {self._advice()}")
        total = seen.sum(axis=1)
        self.history.add(step, losses.sum(axis=1) / total, right.sum(axis=1) / total)
        row = self.history.rows[-1]
        if self.log is not None and not self._validates(step):
            self.log.write(row)
        advance(int(total.sum()), float(np.mean(row["loss"])), float(np.mean(row["accuracy"])))

    def _advice(self) -> str:
        advice = "the learning rate may be too high, or the data not finite"
        if self.checkpoints is None:
            return advice
        last = (
            "no checkpoint was saved yet" if self.saved is None else f"the last good checkpoint is of step {self.saved}"
        )
        return f"{advice}; {last}, in {self.folder / 'checkpoints'}"

    def _validates(self, step: int) -> bool:
        due = step == self.end or (self.every is not None and step % self.every == 0)
        return self.validation is not None and due

    def _validate(self, states: TrainState, step: int, best: TrainState | None) -> TrainState | None:
        if self.validation is None:
            return best
        before = self.history.best()
        self.history.validated(measure(states, *self.validation, layout=self.where))
        if self.log is not None:
            self.log.write(self.history.rows[-1])
        # A copy: the next block is given the states' own memory.
        return jax.tree.map(jnp.copy, states) if self.history.best() != before else best

    def _is_early(self) -> bool:
        return self.patience is not None and self.history.validations_since_best() >= self.patience

    def _save(self, states: TrainState, step: int) -> None:
        if self.checkpoints is None:
            return
        record = {"identity": self.identity, "history": self.history.rows}
        if isinstance(self.data, Stream):
            record["stream"] = self.data.state()
        row = self.history.rows[-1]
        score = float(np.mean(row["validation_accuracy"])) if "validation_accuracy" in row else None
        self.checkpoints.save(step, states, record, score=score)
        self.saved = step

    def _stop(self, name: str, step: int) -> None:
        assert self.checkpoints is not None
        self.checkpoints.wait()
        message = f"stopped by {name} at step {step} of {self.end}, saved in {self.folder}: the same command goes on"
        if jax.process_index() == 0:
            print(message, file=sys.stderr, flush=True)
        raise Preempted(message)

    def _restored(self, states: TrainState) -> tuple[TrainState, TrainState | None]:
        if self.checkpoints is None:
            return states, None
        found = self.checkpoints.restore(states)
        if found is None:
            return states, None
        _check_identity(found.record["identity"], self.identity, self.folder)
        self.history = History(list(found.record["history"]))
        self.saved = found.step
        if isinstance(self.data, Stream):
            self.data.restore(found.record["stream"])
        top = self.history.best()
        if top is None or self.validation is None:
            return found.arrays, None
        if top[0] == found.step:
            return found.arrays, jax.tree.map(jnp.copy, found.arrays)
        kept = self.checkpoints.restore(states, top[0])
        return found.arrays, None if kept is None else kept.arrays


def _constrain(array: jax.Array, sharding: Any) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, sharding)


def _check_divides(batch_size: int, where: Layout) -> None:
    parts = where.mesh.shape["data"]
    if batch_size % parts:
        raise ValueError(f"batch_size must be divisible by the {parts} devices that share a batch, got {batch_size}")


def _identity(
    config: Mapping[str, Any] | None, key: jax.Array, batch_size: int, data: Resident | Stream, states: TrainState
) -> dict[str, Any]:
    """What must be the same for a training to go on: everything that decides its bits and can be named."""
    identity: dict[str, Any] = {f"config.{name}": setting for name, setting in (config or {}).items()}
    identity |= {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "batch_size": batch_size,
        "networks": int(states.step.shape[0]),
    }
    if isinstance(data, Resident):
        members = data.members if data.members is not None else []
        identity |= {
            "images": list(data.images.shape),
            "labels": zlib.crc32(np.asarray(data.labels).tobytes()),
            "members": zlib.crc32(b"".join(np.asarray(member, np.int64).tobytes() for member in members)),
            "shuffle": data.shuffle,
        }
    return identity


def _check_identity(old: Mapping[str, Any], new: Mapping[str, Any], folder: pathlib.Path) -> None:
    names = list(dict.fromkeys([*old, *new]))
    changed = [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]
    if changed:
        raise ValueError(
            f"the folder {folder} holds another training ({'; '.join(changed)}): choose another folder, or remove that one"
        )
