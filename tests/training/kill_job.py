"""A training that is killed and started again: prints a hash of its final parameters."""

import hashlib
import os
import sys

import jax
import numpy as np

from advjax.attacks import fgs
from advjax.training import Trainer, ensemble, train_step
from tests.training.nets import OPTIMIZER, Small, toy_set


def main(folder: str) -> None:
    """Trains for 400 steps with a checkpoint every 5; a kill hits steps, reads and writes alike."""
    print("ready", flush=True)
    trainer = Trainer(train_step(OPTIMIZER, attack=fgs(0.05), clean_weight=0.5), batch_size=8, block=5)
    fitted = trainer.fit(ensemble(Small, OPTIMIZER, 2), toy_set(), 400, jax.random.key(5), folder=folder, every=5)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((fitted.states.params, fitted.states.opt_state))]
    rows = [repr(row) for row in fitted.history.rows]
    print(hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves) + "".join(rows).encode()).hexdigest(), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", os.environ["KILL_JOB_CACHE"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    main(sys.argv[1])
