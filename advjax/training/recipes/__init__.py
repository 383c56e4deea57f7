"""The adversarial trainings that papers compare with, each a step for `Trainer` of the parts of `train_step`."""

from advjax.training.recipes.awp import awp
from advjax.training.recipes.fast import fast
from advjax.training.recipes.free import free
from advjax.training.recipes.mart import Mart, mart
from advjax.training.recipes.trades import Trades, trades
from advjax.training.recipes.watched import watched

__all__ = ["Mart", "Trades", "awp", "fast", "free", "mart", "trades", "watched"]
