"""Training: a state that can be stacked, one step as a pure function, a loop that scales and never loses work."""

from advjax.data.pipeline import Resident
from advjax.data.stream import Stream
from advjax.training.checkpoint import CheckpointError, Checkpoints
from advjax.training.faults import DataError, Faults
from advjax.training.fitted import Fitted
from advjax.training.heads import with_heads
from advjax.training.history import History
from advjax.training.interface import Batch, Metrics, TrainingStep
from advjax.training.interrupts import Preempted
from advjax.training.linen import LinenModel
from advjax.training.loop import Trainer
from advjax.training.optimizers import optimizer, triangular
from advjax.training.pair_loss import PairLoss
from advjax.training.predictions import Score, measure, predict
from advjax.training.recipes import awp, fast, free, mart, trades, watched
from advjax.training.run import NonFiniteLossError
from advjax.training.sharding import Placement, default_placement, initialize, placement
from advjax.training.state import TrainState, create, ensemble, stack, to_model, unstack, weights_of, with_weights
from advjax.training.step import cross_entropy, train_step

__all__ = [
    "TrainState", "create", "ensemble", "stack", "unstack", "to_model", "LinenModel",
    "weights_of", "with_weights",
    "Batch", "Faults", "Metrics", "PairLoss", "TrainingStep", "cross_entropy", "optimizer", "train_step", "triangular",
    "awp", "fast", "free", "mart", "trades", "watched",
    "with_heads",
    "Resident", "Stream", "Trainer", "Fitted", "History", "DataError", "NonFiniteLossError", "Preempted",
    "Placement", "placement", "default_placement", "initialize",
    "Checkpoints", "CheckpointError",
    "Score", "measure", "predict",
]  # fmt: skip
