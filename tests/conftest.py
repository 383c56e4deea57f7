"""Strict defaults for every test: eight simulated devices, no silent promotion, fixed seeds, real MNIST if at hand."""

import os

# Before JAX is imported: the devices are made when its backend starts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile("advjax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("advjax")


def pytest_collection_modifyitems(config, items):
    """Tests marked `mnist` say why they did not run when the data set is absent."""
    if os.environ.get("TFDS_DATA_DIR") and os.path.isdir(os.path.join(os.environ["TFDS_DATA_DIR"], "mnist")):
        return
    absent = pytest.mark.skip(reason="real MNIST is not in TFDS_DATA_DIR")
    for item in items:
        if "mnist" in item.keywords:
            item.add_marker(absent)


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)
