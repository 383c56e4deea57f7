"""What the checkpoint tests do in processes of their own: write, read, be killed, meet a full disk, end too early."""

import os
import pathlib
import resource
import signal
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from advjax.training import checkpoint_files
from advjax.training.checkpoint import CheckpointError, Checkpoints


def values(step):
    """The numbers of a small state, the same in every process."""
    rng = np.random.default_rng(step)
    return {
        "split": rng.normal(size=(8, 6)).astype(np.float32),
        "columns": rng.normal(size=(3, 16)).astype(jnp.bfloat16),
        "whole": rng.integers(100, size=5).astype(np.int32),
        "step": np.int32(step),
        "keys": np.asarray(jax.random.key_data(jax.random.split(jax.random.key(step), 8))),
    }


def state(step, devices):
    """`values(step)` on `devices`: split over them, repeated on them, or (the step) on one of this process."""
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"split": P("data"), "columns": P(None, "data"), "whole": P(), "keys": P("data")}
    numbers = values(step)
    placed = {
        name: jax.make_array_from_callback(numbers[name].shape, NamedSharding(mesh, spec), numbers[name].__getitem__)
        for name, spec in specs.items()
    }
    placed["step"] = jax.device_put(numbers["step"], SingleDeviceSharding(jax.local_devices()[0]))
    return placed | {"keys": jax.random.wrap_key_data(placed["keys"])}


def holds(arrays, step):
    """Whether the parts of `arrays` that this process can see are those of `values(step)`, bit for bit."""
    numbers = values(step)
    arrays = arrays | {"keys": jax.random.key_data(arrays["keys"])}
    return all(
        np.asarray(shard.data).tobytes() == numbers[name][shard.index].tobytes()
        for name, array in arrays.items()
        for shard in array.addressable_shards
    )


def large():
    """More bytes than the other jobs' limits and delays let through; random, so that they cannot be packed."""
    return {"large": jnp.asarray(np.random.default_rng(0).random(10_000_000, np.float32))}


def write(folder):
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step, jax.devices()), {"step": step}, score=-step)
        checkpoints.wait()
        return {"steps": checkpoints.steps(), "best": checkpoints.best_step()}


def read(folder):
    template = state(0, jax.devices())
    with warnings.catch_warnings(record=True) as caught, Checkpoints(folder) as checkpoints:
        warnings.simplefilter("always")
        restored = checkpoints.restore(template)
        try:
            absent = str(checkpoints.restore(template, 7))
        except CheckpointError as error:
            absent = str(error)
    return {
        "step": restored.step,
        "record": restored.record,
        "equal": holds(restored.arrays, restored.step),
        "placed": all(restored.arrays[name].sharding == template[name].sharding for name in template),
        "absent": absent,
        "warnings": [str(warning.message) for warning in caught],
    }


def killed(folder, moment):
    """Writes step 1, then dies at a moment of writing step 2."""

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_in_write():
        while not list(pathlib.Path(folder).glob("unfinished/new/*/ocdbt.process_0/d/*")):
            pass
        die()

    checkpoints = Checkpoints(folder, keep_last=1, keep_best=0)
    checkpoints.save(1, state(1, jax.devices()))
    checkpoints.wait()
    if moment == "write":
        threading.Thread(target=die_in_write, daemon=True).start()
        checkpoints.save(2, large())
    else:
        # Orbax is done; all bytes are there but for the name; the new checkpoint is there, the old one still too.
        vars(checkpoint_files)[{"manifest": "_sums", "rename": "_flush", "prune": "best_first"}[moment]] = die
        checkpoints.save(2, state(2, jax.devices()))
    checkpoints.close()


def full(folder):
    """Files may not grow beyond 4 kB: what the system says then is as final as a full disk."""
    errors = []
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state(1, jax.devices()))
        checkpoints.wait()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        for call in (checkpoints.wait, lambda: checkpoints.save(3, large()), checkpoints.close):
            checkpoints.save(2, large())
            try:
                call()
            except CheckpointError as error:
                errors.append(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        left = [sorted(os.listdir(folder)), checkpoints.steps()]
        checkpoints.save(4, state(4, jax.devices()))
        checkpoints.wait()
        return {"errors": errors, "left": left, "later": checkpoints.steps()}


def forgotten(folder):
    """Ends with a write under way, without `close`."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state(1, jax.devices()))
    checkpoints.wait()
    checkpoints.save(2, state(2, jax.devices()))
