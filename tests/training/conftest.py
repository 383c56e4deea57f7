"""The loop of every training in these tests moves between host and device what it says, and nothing else."""

import jax
import pytest

from advjax.training.run import Run


@pytest.fixture(autouse=True)
def _guarded(monkeypatch):
    train = Run.train

    def guarded(self, states, images_a_step):
        with jax.transfer_guard("disallow"):
            return train(self, states, images_a_step)

    monkeypatch.setattr(Run, "train", guarded)
