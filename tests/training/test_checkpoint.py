"""Checkpoints: bit for bit, damage found in every file, kills and full disks survived, other numbers of devices."""

import dataclasses
import json
import logging
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from advjax.models.lenet import LeNet
from advjax.training.checkpoint import CheckpointError, Checkpoints
from advjax.training.state import create, stack
from tests.training import checkpoint_jobs as jobs
from tests.training.processes import run_processes


class WithStatistics(nnx.Module):
    """Batch statistics, a dropout key, and a layer in bfloat16."""

    def __init__(self, width=4, *, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(3, width, rngs=rngs, param_dtype=jnp.bfloat16)
        self.normalize = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def assert_same(first, second):
    """Same structure, types and bits."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (path, a), b in zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype, path
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def numbers(step):
    """A state that differs for each step."""
    return {"w": jax.random.normal(jax.random.key(step), (7, 5)), "step": jnp.int32(step)}


def fill(folder, *steps, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, numbers(step), {"step": step})
    return checkpoints


def newest(folder):
    return max(path for path in folder.iterdir() if path.name[0].isdigit())


def run(job, *arguments, **options):
    program = f"from tests.training import checkpoint_jobs\nreport(checkpoint_jobs.{job}(*arguments))"
    return run_processes(program, arguments=list(map(str, arguments)), **options)


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        (lambda seed: WithStatistics(seed=seed), optax.adam(1e-3)),
        (lambda seed: WithStatistics(seed=seed), optax.sgd(optax.cosine_decay_schedule(0.1, 10))),
        (lambda seed: LeNet(rngs=nnx.Rngs(seed)), optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))),
    ],
    ids=["adam", "no optimizer arrays but a count", "lenet"],
)
@pytest.mark.parametrize("networks", [None, 3])
def test_training_states_come_back_bit_for_bit(tmp_path, network, optimizer, networks):
    def make(seed):
        one = [create(network(seed + i), optimizer) for i in range(networks or 1)]
        return stack(one) if networks else one[0]

    saved, template = make(0), make(100)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, saved)
        restored = checkpoints.restore(template)
    assert restored.step == 3
    assert restored.record == {}
    assert_same(restored.arrays, saved)


def test_every_kind_of_array_comes_back(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    arrays = {
        "every bfloat16": jnp.asarray(bits.view(jnp.bfloat16)),
        "not finite": jnp.asarray([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
        "scalars": (jnp.bool_(True), jnp.uint8(255), jnp.int32(-7), jnp.float16(0.1)),
        "none": None,
        "empty": {"state": optax.EmptyState(), "tuple": ()},
        "keys": [jax.random.key(1), jax.random.split(jax.random.key(2), (2, 3)), jax.random.key(3, impl="rbg")],
        "old key": jax.random.PRNGKey(5),
        "odd /name.": {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}, "ü\n": jnp.ones((1, 1, 1))},
    }
    record = {"config": {"lr": 0.1, "name": "ü"}, "history": [1.5, float("inf")], "iterator": {"at": [1, None, True]}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, arrays, record)
        restored = checkpoints.restore(arrays)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        assert_same(checkpoints.restore(shapes).arrays, arrays)
    assert_same(restored.arrays, arrays)
    assert restored.record == record


def test_restored_arrays_are_placed_as_the_template(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, P("data"))
    values = jnp.arange(16.0)
    template = {
        "split": jax.device_put(values, split),
        "described": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=split),
        "third": jax.device_put(values, jax.devices()[3]),
        "anywhere": values,
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, dict.fromkeys(template, values))
        arrays = checkpoints.restore(template).arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, values)
        if name != "described":
            assert array.sharding == template[name].sharding
            assert array.committed == template[name].committed
    assert arrays["described"].sharding == split


def test_arrays_may_be_donated_right_after_save(tmp_path):
    @jax.jit
    def grow(x):
        return x + 1

    overwrite = jax.jit(grow, donate_argnums=0)
    x = jnp.zeros((500, 500))
    with Checkpoints(tmp_path, keep_last=20) as checkpoints:
        for step in range(8):
            checkpoints.save(step, {"x": x})
            given = x
            for _ in range(10):
                x = overwrite(x)
            assert given.is_deleted()
        for step in range(8):
            restored = checkpoints.restore({"x": x}, step)
            np.testing.assert_array_equal(restored.arrays["x"], np.full((500, 500), 10.0 * step))


def test_the_last_and_the_best_are_kept(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.9, 5: None, 6: 0.2, 7: 0.3}
    with Checkpoints(tmp_path, keep_last=2, keep_best=2) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.best_step() is None
        for step, score in scores.items():
            checkpoints.save(step, numbers(step), score=score)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 6, 7]
        assert checkpoints.best_step() == 2
        assert checkpoints.restore(numbers(0), "best").step == 2
        assert checkpoints.restore(numbers(0)).step == 7
        assert_same(checkpoints.restore(numbers(0), 4).arrays, numbers(4))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_step_saved_again_counts_and_what_was_written_last_is_newest(tmp_path):
    fill(tmp_path, 10, 20, 30)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(20, numbers(99), {"again": True})
        restored = checkpoints.restore(numbers(0))
        assert (restored.step, restored.record) == (20, {"again": True})
        assert_same(restored.arrays, numbers(99))
        assert checkpoints.steps() == [20, 30]
        checkpoints.save(25, numbers(25))
        assert checkpoints.restore(numbers(0)).step == 25
        assert checkpoints.steps() == [20, 25]


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "deleted": lambda content: None,
    "first byte": lambda content: flip(content, 0),
    "middle byte": lambda content: flip(content, len(content) // 2),
    "last byte": lambda content: flip(content, len(content) - 1),
    "grown": lambda content: content + b"\0",
}


def test_damage_to_any_file_is_found_and_the_checkpoint_before_is_used(tmp_path):
    original, folder = tmp_path / "original", tmp_path / "run"
    fill(original, 1, 2)
    files = [path.relative_to(original) for path in newest(original).rglob("*") if path.is_file()]
    assert {"record.json", "SHA256SUMS", "_METADATA", "manifest.ocdbt"} <= {file.name for file in files}
    for file in files:
        for what, damage in DAMAGES.items():
            shutil.copytree(original, folder)
            damaged = damage((folder / file).read_bytes())
            (folder / file).unlink() if damaged is None else (folder / file).write_bytes(damaged)
            with Checkpoints(folder) as checkpoints, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored = checkpoints.restore(numbers(0))
            (message,) = [str(each.message) for each in caught]
            assert str(folder / "000002-step-2") in message, (file, what)
            assert file.name in message or "SHA256SUMS" in message, (file, what, message)
            assert restored.step == 1, (file, what)
            assert_same(restored.arrays, numbers(1))
            shutil.rmtree(folder)


def test_no_byte_of_the_list_of_sums_can_change_unseen(tmp_path):
    checkpoints = fill(tmp_path, 1)
    sums = newest(tmp_path) / "SHA256SUMS"
    content = sums.read_bytes()
    for position in range(0, len(content), 13):
        sums.write_bytes(flip(content, position))
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.restore(numbers(0), 1)
    lines = content.splitlines(keepends=True)
    for changed in (b"".join(lines[:-1]), b"".join(reversed(lines)), content.replace(b"\n", b"\r\n")):
        sums.write_bytes(changed)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.restore(numbers(0), 1)
    sums.write_bytes(content)
    assert checkpoints.restore(numbers(0), 1).step == 1


def test_a_file_too_many_and_a_lost_folder_are_damage(tmp_path):
    checkpoints = fill(tmp_path, 1)
    (newest(tmp_path) / "more").write_text("")
    with pytest.raises(CheckpointError, match="more does not match SHA256SUMS"):
        checkpoints.restore(numbers(0), 1)
    (newest(tmp_path) / "more").unlink()
    shutil.rmtree(newest(tmp_path) / "arrays")
    with pytest.raises(CheckpointError, match=r"_CHECKPOINT_METADATA is missing.* and \d+ more"):
        checkpoints.restore(numbers(0), 1)


def test_training_goes_on_over_a_damaged_step(tmp_path):
    fill(tmp_path, 1, 2)
    (newest(tmp_path) / "record.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match=r"000002-step-2: record.json is missing"):
            assert checkpoints.restore(numbers(0)).step == 1
        assert checkpoints.restore(numbers(0)).step == 1, "set aside: no second warning"
        checkpoints.save(2, numbers(20))
        assert_same(checkpoints.restore(numbers(0)).arrays, numbers(20))
        assert checkpoints.steps() == [1, 2]
    assert (tmp_path / "damaged-000002-step-2").is_dir()


def test_a_damaged_step_that_nobody_read_can_be_saved_again(tmp_path):
    fill(tmp_path, 1, 2)
    (newest(tmp_path) / "record.json").write_text("{")
    fill(tmp_path, 2)
    assert_same(Checkpoints(tmp_path).restore(numbers(0)).arrays, numbers(2))


def test_all_damaged_is_an_error_each_time(tmp_path):
    checkpoints = fill(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        (path / "SHA256SUMS").unlink()
    for which in ("newest", "best", "newest"):
        with pytest.raises(CheckpointError, match=r"all checkpoints in .*step-2: SHA256SUMS is missing.*step-1: SHA"):
            checkpoints.restore(numbers(0), which)


def test_the_best_is_not_taken_from_a_damaged_record(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in {1: 0.5, 2: 0.75, 3: 0.25}.items():
            checkpoints.save(step, numbers(step), score=score)
        checkpoints.wait()
        record = tmp_path / "000003-step-3" / "record.json"
        record.write_text(record.read_text().replace("0.25", "0.95"))
        assert checkpoints.best_step() == 3
        with pytest.warns(UserWarning, match=r"step 2 is used instead: .*000003-step-3"):
            assert checkpoints.restore(numbers(0), "best").step == 2


def test_another_structure_is_refused_with_what_differs(tmp_path):
    state = create(WithStatistics(4), optax.adam(1e-3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    with pytest.raises(ValueError, match=r"'kernel'\].*: bfloat16\[3, 4\] in the checkpoint, bfloat16\[3, 5\] in"):
        checkpoints.restore(create(WithStatistics(5), optax.adam(1e-3)))
    with pytest.raises(ValueError, match=r"\.mu\['first'\].* in the checkpoint, nothing in the template"):
        checkpoints.restore(create(WithStatistics(4), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"nothing in the checkpoint, int32\[\] in the template"):
        checkpoints.restore((state, jnp.int32(0)))
    with pytest.raises(ValueError, match=r"\.step: int32\[\] in the checkpoint, float32\[\] in the template"):
        checkpoints.restore(dataclasses.replace(state, step=jnp.float32(0)))
    keys = {"key": jax.random.key(0)}
    checkpoints.save(2, keys)
    with pytest.raises(ValueError, match=r"key<fry>\[\] in the checkpoint, key<rbg>\[\] in"):
        checkpoints.restore({"key": jax.random.key(0, impl="rbg")})
    assert checkpoints.steps() == [1, 2]
    assert_same(checkpoints.restore(state, 1).arrays, state)


def test_arguments_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="keep_last must be at least 1"):
        Checkpoints(tmp_path, keep_last=0)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(numbers(0)) is None
        for step, arrays, options, error, match in [
            (-1, numbers(0), {}, ValueError, "step must be at least 0, got -1"),
            (0, numbers(0), {"score": float("nan")}, ValueError, "score must be finite or None, got nan"),
            (0, {"a": [1.5]}, {}, TypeError, r"arrays must hold JAX arrays, got float at \['a'\]\[0\]"),
            (0, {"a": np.ones(2)}, {}, TypeError, "got ndarray"),
            (0, {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}, {}, TypeError, "got ShapeDtypeStruct"),
            (0, {"a": jnp.ones((0, 3))}, {}, ValueError, r"at least one element, got float32\[0, 3\] at \['a'\]"),
            (0, {}, {}, ValueError, "arrays must hold at least one array"),
            (0, numbers(0), {"record": {"a": np.ones(2)}}, TypeError, "not JSON serializable"),
        ]:
            with pytest.raises(error, match=match):
                checkpoints.save(step, arrays, **options)
        assert list(tmp_path.iterdir()) == []
        checkpoints.save(1, numbers(1))
        with pytest.raises(ValueError, match='a number, "newest" or "best", got \'last\''):
            checkpoints.restore(numbers(0), "last")
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 2 in .*, but of \[1\]"):
            checkpoints.restore(numbers(0), 2)
        with pytest.raises(CheckpointError, match="has a score, so none is the best"):
            checkpoints.restore(numbers(0), "best")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run cannot be made or written: .*Not a directory"):
        Checkpoints(tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match="cannot be made or written"):
        Checkpoints("/proc/checkpoints")


def test_a_folder_that_turns_unwritable_is_an_error_and_does_not_hide_another(tmp_path):
    folder = tmp_path / "run"
    checkpoints = fill(folder, 1)
    folder.rename(tmp_path / "moved")
    folder.write_text("a file now")
    checkpoints.save(2, numbers(2))
    with pytest.raises(ZeroDivisionError) as raised, checkpoints:
        _ = 1 / 0
    assert "step 2 could not be written" in raised.value.__notes__[0]
    checkpoints.save(3, numbers(3))
    with pytest.raises(CheckpointError, match=r"step 3 could not be written to .*run, .* intact: .*Not a directory"):
        checkpoints.wait()
    assert_same(Checkpoints(tmp_path / "moved").restore(numbers(0)).arrays, numbers(1))


def test_a_full_disk_is_an_error_at_the_next_call(tmp_path):
    (found,) = run("full", tmp_path, processes=1, devices=1)
    assert len(found["errors"]) == 3, "at wait, save and close"
    for error in found["errors"]:
        assert "step 2 could not be written" in error
        assert "written before it are intact" in error
        assert "File too large" in error
    assert found["left"] == [["000001-step-1"], [1]]
    assert found["later"] == [1, 4]


@pytest.mark.parametrize("moment", ["write", "manifest", "rename", "prune"])
def test_a_kill_leaves_a_whole_checkpoint(tmp_path, moment):
    with pytest.raises(RuntimeError, match="exit codes \\[-9\\]"):
        run("killed", tmp_path, moment, processes=1, devices=1)
    assert (tmp_path / "unfinished").is_dir()
    last = 2 if moment == "prune" else 1
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        template = jobs.state(0, jax.devices()[:1])
        restored = checkpoints.restore(template)
        assert restored.step == last
        assert jobs.holds(restored.arrays, last)
        checkpoints.save(2, template)
        checkpoints.wait()
        assert checkpoints.steps() == [2]
    assert [path.name for path in tmp_path.iterdir()] == [f"{last + 1:06d}-step-2"]


def test_a_program_that_forgets_to_close_ends(tmp_path):
    run("forgotten", tmp_path, processes=1, devices=1, timeout=60)
    assert Checkpoints(tmp_path).restore(jobs.state(0, jax.devices()[:1])).step in (1, 2)


def test_written_on_8_devices_read_on_1_and_on_2_processes(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, jobs.state(step, jax.devices()), {"step": step})
        restored = checkpoints.restore(jobs.state(0, jax.devices()[:1]))
    assert restored.step == 2
    assert jobs.holds(restored.arrays, 2)
    for found in run("read", tmp_path):
        assert found["absent"].startswith("there is no checkpoint of step 7")
        del found["absent"]
        assert found == {"step": 2, "record": {"step": 2}, "equal": True, "placed": True, "warnings": []}


def test_written_by_2_processes_read_on_1_and_8_devices_and_again_by_2(tmp_path):
    assert run("write", tmp_path) == [{"steps": [1, 2, 3], "best": 1}] * 2
    with Checkpoints(tmp_path) as checkpoints:
        for devices in (jax.devices()[:1], jax.devices()):
            restored = checkpoints.restore(jobs.state(0, devices))
            assert (restored.step, restored.record) == (3, {"step": 3})
            assert jobs.holds(restored.arrays, 3)
    (newest(tmp_path) / "record.json").write_text(json.dumps({}))
    first, second = run("read", tmp_path)
    assert first["step"] == second["step"] == 2
    assert first["equal"]
    assert second["equal"]
    assert len(first["warnings"]) == 1
    assert second["warnings"] == [], "one warning, not one for each process"


def test_orbax_says_nothing_and_absl_is_left_as_it_was(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        fill(tmp_path, 1).restore(numbers(0))
        (tmp_path / "unfinished").write_text("in the way")
        with pytest.raises(CheckpointError, match="Not a directory"):
            fill(tmp_path, 2)
    assert [record.getMessage() for record in caplog.records if "orbax" in record.pathname] == []
    filters = logging.getLogger("absl").filters
    assert not [one for one in filters if getattr(one, "__module__", "").startswith("advjax")]
