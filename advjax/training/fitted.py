"""What a training gave: the states, and what one does with them: models, classifiers, files of weights."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.models.weights import save
from advjax.training.history import History
from advjax.training.sharding import Placement
from advjax.training.state import TrainState, to_model, unstack

__all__ = ["Fitted"]


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What a training gave.

    Models, classifiers and files are of the states that are `kept`; they lie whole on this process's first device,
    wherever the training was. Of several processes, all must ask for them.

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
    def kept(self) -> TrainState:
        """The best states where there was a validation, else the last ones."""
        return self.states if self.best is None else self.best

    @functools.cached_property
    def models(self) -> list[nnx.Module]:
        """The networks, in evaluation mode."""
        return [to_model(state) for state in unstack(jax.tree.map(_here, self.kept))]

    @property
    def model(self) -> nnx.Module:
        """The network, where one was trained. A `LinenModel` has the `variables` that its Linen module takes.

        Raises:
            ValueError: several networks were trained.
        """
        if len(self.models) != 1:
            raise ValueError(
                f"model, classifier and save are of one network, got {len(self.models)}: take them from models"
            )
        return self.models[0]

    def classifiers(self) -> list[Classifier]:
        """The networks as attacks and evaluations take them."""
        return [from_nnx(model) for model in self.models]

    def classifier(self) -> Classifier:
        """That of the one network; raises as `model`."""
        return from_nnx(self.model)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the weights of the one network to a `.safetensors` file, which `advjax.models.load` reads into one.

        Raises:
            ValueError: as `model`, or another suffix.
        """
        save(self.model, os.fspath(path))

    @property
    def loss(self) -> np.ndarray:
        """The mean loss of each network over each block of steps, float32 [S, blocks]."""
        return self.history.column("loss", self.states.step.shape[0])

    @property
    def accuracy(self) -> np.ndarray:
        """The share of right answers of each network in each block, for the images it learned on, [S, blocks]."""
        return self.history.column("accuracy", self.states.step.shape[0])


def _here(leaf: jax.Array) -> jax.Array:
    array = jnp.asarray(Placement.to_host(leaf))
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_key else array
