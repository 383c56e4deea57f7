"""Training: a state that can be stacked, one descent step as a pure function, a loop for several networks."""

from advjax.training.loop import NonFiniteLossError, Trainer, predict
from advjax.training.state import TrainState, create, stack, to_model, unstack
from advjax.training.step import Batch, Metrics, train_step

__all__ = [
    "TrainState",
    "create",
    "stack",
    "unstack",
    "to_model",
    "Batch",
    "Metrics",
    "train_step",
    "Trainer",
    "NonFiniteLossError",
    "predict",
]
