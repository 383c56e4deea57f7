"""The small network, optimizer and images of the training tests, for their processes too."""

import jax
import numpy as np
import optax
from flax import nnx

from advjax.training import Resident, Trainer, ensemble, train_step

__all__ = ["OPTIMIZER", "TRAINER", "Small", "equal", "states", "toy_set"]

OPTIMIZER = optax.sgd(0.05, momentum=0.9)
# One for all tests that need no other: its program is compiled once for each number of networks.
TRAINER = Trainer(train_step(OPTIMIZER), batch_size=8, block=4)


class Small(nnx.Module):
    """A convolution and a dense layer: what a stack makes grouped convolutions of."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(4 * 36, 3, rngs=rngs)

    def __call__(self, images):
        return self.dense(nnx.relu(self.conv(images)).reshape(images.shape[0], -1))


def toy_set():
    """Sixty 6x6 images of three classes, which differ in brightness."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 60)
    image = rng.integers(0, 100, (60, 6, 6, 1)) + 60 * label[:, None, None, None]
    return Resident(image.astype(np.uint8), label.astype(np.int32))


def states(seeds):
    """Stacked small networks."""
    return ensemble(Small, OPTIMIZER, seeds)


def equal(one, other):
    """Asserts that two trees hold the same bits."""
    jax.tree.map(np.testing.assert_array_equal, one, other)
