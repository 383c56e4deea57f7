"""`Trainer`: everything of a training that can be said beforehand, and `fit`, which puts one together and runs it."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from advjax.data.pipeline import Resident
from advjax.data.stream import Stream
from advjax.training.block import Block, BlockResult, block_of
from advjax.training.feed import feed_of
from advjax.training.fitted import Fitted
from advjax.training.identity import identity_of
from advjax.training.interface import Batch, TrainingStep
from advjax.training.keeper import Keeper
from advjax.training.progress import bar
from advjax.training.run import Plan, Run
from advjax.training.sharding import Placement, default_placement
from advjax.training.state import TrainState, create, stack

__all__ = ["Trainer"]


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains a network, or several side by side, by `step`, `block` steps a call of one compiled program.

    The program is traced once for a shape of states and data: not again for another block, another number of
    steps, or other members of the data. Make one `Trainer` and use it for all networks of a kind.

    Attributes:
        step: from `train_step`, or `advjax.generators.generator_step`.
        batch_size: images a step, for each network, over all devices. A `Stream` has its own, which must be this.
        block: steps between two looks at the loss; everything else happens between blocks too.
        placement: which devices; None: all of them (`default_placement`).

    >>> import optax
    >>> from flax import nnx
    >>> from advjax.training import train_step
    >>> network = nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    >>> data = Resident(np.zeros((6, 2, 2, 1), np.uint8), np.zeros(6, np.int32))
    >>> trainer = Trainer(train_step(optax.sgd(0.1)), batch_size=2, block=5)
    >>> fitted = trainer.fit(network, data, 20, jax.random.key(0))
    >>> fitted.loss.shape, bool(fitted.loss[0, -1] < fitted.loss[0, 0])
    ((1, 4), True)
    >>> fitted.classifier()(jax.numpy.zeros((1, 2, 2, 1))).shape
    (1, 2)
    """

    step: TrainingStep
    batch_size: int = 64
    block: int = 250
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.block < 1:
            raise ValueError(f"batch_size and block must be at least 1, got {self.batch_size} and {self.block}")

    def fit(
        self,
        model: TrainState | nnx.Module,
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
        """Trains a network, or each of S stacked ones, for `steps` steps, or until validation improves no more.

        With a folder, the training is saved there every `every` steps and at its end, and a call with the same
        arguments goes on from the newest whole checkpoint to the same bits (on the same kind and number of devices);
        `metrics.csv` is written there too. SIGTERM and SIGINT then save first and end the program with status 0.

        A network is copied and stays as it was: the trained one is the result's `model`. Stacked states are donated:
        do not use them afterwards.

        Args:
            model: one network, an `nnx.Module` or a `LinenModel`, which starts with a fresh state of the step's
                optimizer; or stacked states [S], from `ensemble` or `stack`.
            data: the training set; each network reads its own order of a `Resident` set, all read one `Stream`.
            steps: steps to make, counted from the states' own. A finished training goes on when it is larger;
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

        Warns:
            RuntimeWarning: what the step finds wrong with a block of steps (`TrainingStep.doubt`).

        Raises:
            ValueError: arguments that do not fit together; a folder that holds another training.
            DataError: images that are not finite, leave [0, 1] or are between the levels that the attack rounds to, or
                labels that are no class of the network. Nothing was saved after it.
            NonFiniteLossError: a loss, weight or batch statistic was NaN or infinite. Nothing was saved after it.
            CheckpointError: a checkpoint could not be written (a full disk), or all are damaged.
            FolderInUseError: another run trains in the folder.
            Preempted: a `SystemExit` with status 0, after a signal.
        """
        states = self._stacked(model)
        networks = states.step.shape[0]
        where = default_placement() if self.placement is None else self.placement
        self._check_data(data, networks, where)
        if steps < 0:
            raise ValueError(f"steps must be 0 or more, got {steps}")
        if tensorboard and folder is None:
            raise ValueError("tensorboard=True needs a folder to write to, got folder=None")
        plan = Plan(_common_step(states) + steps, self.block, every, validation, patience)
        identity = identity_of(config, key, self.batch_size, data, states, validation)
        keys = where.put(jax.random.split(key, networks), where.replicated)
        feed = feed_of(data, where, keys, self.batch_size, self.block)

        def block(states: TrainState, content: Batch, order: jax.Array, count: int) -> BlockResult:
            here = where.put(np.int32(count), where.replicated)
            return self._block(where, feed.resident, states, content, order, keys, here)

        with contextlib.ExitStack() as held:
            if isinstance(data, Stream):
                held.callback(data.close)  # its threads; the position stays
            keeper = Keeper(None if folder is None else pathlib.Path(folder), identity, tensorboard, held)
            advance = held.enter_context(bar(progress, plan.end * self.batch_size * networks))
            run = Run(plan, self.step, block, feed, where, keeper, advance)
            return run.train(where.put(states, where.of_states(states)), self.batch_size * networks)

    def _stacked(self, model: TrainState | nnx.Module) -> TrainState:
        if isinstance(model, nnx.Module):
            return stack([create(model, self.step.optimizer)])
        if not isinstance(model, TrainState):
            raise TypeError(
                "model must be an nnx.Module (of Linen, a LinenModel), or stacked states of ensemble or stack, "
                f"got {type(model).__name__}"
            )
        if model.step.ndim != 1:
            raise ValueError(f"states must be stacked (see stack and ensemble), got a step of shape {model.step.shape}")
        return model

    def _check_data(self, data: Resident | Stream, networks: int, placement: Placement) -> None:
        if not isinstance(data, Resident | Stream):
            raise TypeError(f"data must be a Resident or a Stream, got {type(data).__name__}")
        if isinstance(data, Resident) and data.members is not None and len(data.members) != networks:
            raise ValueError(
                f"members must hold one index array for each stacked network, got {len(data.members)} for {networks}"
            )
        if isinstance(data, Stream) and data.batch_size != self.batch_size:
            raise ValueError(f"the stream's batch size must be the trainer's, {self.batch_size}, got {data.batch_size}")
        if self.batch_size % (parts := placement.mesh.shape["data"]):
            raise ValueError(
                f"batch_size must be divisible by the {parts} devices that share a batch, got {self.batch_size}"
            )

    @functools.cached_property
    def _block(self) -> Block:
        return block_of(self.step, self.block)


def _common_step(states: TrainState) -> int:
    steps = Placement.to_host(states.step)
    if steps.min() != steps.max():
        raise ValueError(f"states must all be of one step, got states of steps {steps.tolist()}")
    return int(steps[0])
