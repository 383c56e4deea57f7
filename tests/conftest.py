"""Strict defaults for every test: eight simulated devices, no silent promotion, fixed seeds, real MNIST if at hand."""

import gc
import os
import pathlib

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


class _Programs:
    """Lets compiled programs go between files when there are so many that XLA's next compilation might crash.

    Each program on a CPU holds some six memory maps, of which Linux gives a process 65,530 by default; beyond them
    the compiler ends in a segmentation fault.  A long run of this suite compiles ten thousand programs.
    """

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item, nextitem):
        if nextitem is not None and nextitem.path != item.path and _maps_are_half_used():
            jax.clear_caches()
            gc.collect()


def _maps_are_half_used():
    maps, limit = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/sys/vm/max_map_count")
    if not (maps.exists() and limit.exists()):
        return False
    return maps.read_bytes().count(b"\n") > int(limit.read_text()) // 2


def pytest_configure(config):
    """As a plugin, so that it sees the doctests of the package too: a conftest sees the tests below it alone."""
    config.pluginmanager.register(_Programs())


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)
