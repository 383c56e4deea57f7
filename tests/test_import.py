"""A plain import stays light, and leaves the process as it was."""

import subprocess
import sys

HEAVY = (
    "tensorflow", "tensorflow_datasets", "array_record", "grain", "orbax", "matplotlib", "sklearn", "torch", "tqdm",
)  # fmt: skip


def test_import_pulls_in_nothing_heavy():
    code = "import sys, advjax, advjax.data, advjax.models, advjax.scores; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    # Flax itself imports Orbax's checkpoint types; what counts is what advjax adds to jax, flax and optax.
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, jax, flax.linen, flax.nnx, optax, dm_pix; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    added = {module.split(".")[0] for module in set(modules) - set(bare)}
    assert added.isdisjoint(HEAVY), added & set(HEAVY)


def test_import_leaves_the_logging_of_the_process_alone():
    code = """
import logging, orbax.checkpoint
def configured():
    every = {"": logging.getLogger(), **logging.Logger.manager.loggerDict}
    return {n: (x.level, *x.filters, *x.handlers) for n, x in every.items() if isinstance(x, logging.Logger)}
before = configured()
import advjax.data, advjax.evaluate, advjax.training.checkpoint, advjax.train_command, advjax.score_command.command
after = configured()
print([name for name in before if before[name] != after[name]])
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
