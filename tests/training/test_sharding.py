"""Layouts: the rule for shapes, values there and back, one step on eight devices as on one, and real processes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from advjax.data import Stream
from advjax.training import create, stack
from advjax.training.sharding import Placement, initialize, placement
from tests.training.processes import run_processes

OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Network(nnx.Module):
    """Two dense layers: one kernel is large enough to be sharded, the biases are not."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(12, 16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, images):
        return self.last(nnx.relu(self.first(images.reshape(images.shape[0], -1))))


def states(count):
    return stack([create(Network(seed), OPTIMIZER) for seed in range(count)])


shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 40]), min_size=0, max_size=4)


@given(shape=shapes, networks=st.sampled_from([1, 2, 4]), smallest=st.integers(1, 500), floating=st.booleans())
def test_rule_divides_the_largest_axis_it_can_and_never_the_stack(shape, networks, smallest, floating):
    spread = placement(networks=networks, parameters="sharded", smallest=smallest)
    parts = 8 // networks
    leaf = jax.ShapeDtypeStruct((4, *shape), jnp.float32 if floating else jnp.uint32)
    spec = spread.of_states({"a": leaf})["a"].spec
    axes = [*spec, *[None] * (1 + len(shape) - len(spec))]
    assert axes[0] == ("network" if networks > 1 else None)
    sharded = [size for size, axis in zip(shape, axes[1:], strict=True) if axis == "data"]
    possible = [size for size in shape if size % parts == 0]
    if np.prod(shape) >= smallest and possible:
        assert sharded == [max(possible)]
    else:
        assert not sharded
    replicated = placement(networks=networks, smallest=smallest).of_states({"a": leaf})["a"].spec
    assert replicated == (PartitionSpec("network") if networks > 1 else PartitionSpec())


def test_the_optimizer_follows_its_parameters_and_keys_are_not_sharded():
    spread = placement(networks=2, parameters="sharded", smallest=64)
    shardings = spread.of_states(states(2))
    kernel = shardings.params["first"]["kernel"].get_value()
    momentum = shardings.opt_state[0].trace["first"]["kernel"].get_value()
    assert kernel == momentum == NamedSharding(spread.mesh, PartitionSpec("network", None, "data"))
    assert shardings.step.spec == PartitionSpec("network")
    keys = jax.random.split(jax.random.key(0), (2, 64))
    assert spread.of_states(keys).spec == PartitionSpec("network")


def test_one_device_shards_nothing():
    alone = placement(jax.devices()[:1], parameters="sharded", smallest=1)
    shardings = [*jax.tree.leaves(alone.of_states(states(1))), alone.of_batch(0, 4), alone.replicated]
    assert set(shardings) == {jax.sharding.SingleDeviceSharding(jax.devices()[0])}


@pytest.mark.parametrize("networks", [1, 2, 8])
def test_values_come_back_from_the_devices(networks):
    spread = placement(networks=networks, parameters="sharded", smallest=16)
    before = {"states": states(8), "host": np.arange(48, dtype=np.float32).reshape(8, 6)}
    there = spread.put(before, spread.of_states(before))
    for expected, actual in zip(*(jax.tree.leaves(Placement.to_host(tree)) for tree in (before, there)), strict=True):
        assert isinstance(actual, np.ndarray)
        np.testing.assert_array_equal(actual, expected)
    # Typed keys stay keys on the devices, and onto another placement it is one more `put`.
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), before, there)
    again = placement(jax.devices()[:4]).put(there["host"], placement(jax.devices()[:4]).replicated)
    np.testing.assert_array_equal(again, before["host"])


def test_each_device_holds_its_part_alone():
    spread = placement(networks=2, parameters="sharded", smallest=64)
    there = spread.put(states(2), spread.of_states(states(2)))
    kernel = there.params["first"]["kernel"].get_value()
    assert kernel.shape == (2, 12, 16)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(1, 12, 4)}


def test_from_local_is_the_whole_in_one_process(rng):
    images = rng.integers(0, 256, (3, 16, 2, 2, 1), np.uint8)
    spread = placement()
    there = spread.from_local({"image": images}, spread.of_batch(1, 5))["image"]
    np.testing.assert_array_equal(there, images)
    assert {shard.data.shape for shard in there.addressable_shards} == {(3, 2, 2, 2, 1)}


def descend(all_states, images, labels):
    def one(state):
        def loss(params):
            logits = nnx.merge(state.graphdef, params, state.rest, copy=True)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state, value

    return jax.vmap(one)(all_states)


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("parameters", ["replicated", "sharded"])
def test_a_step_on_eight_devices_is_the_step_on_one(rng, networks, parameters):
    images, labels = rng.random((16, 2, 2, 3), np.float32), rng.integers(0, 3, 16).astype(np.int32)
    results = []
    for here in (
        placement(jax.devices()[:1]),
        placement(networks=networks, parameters=parameters, smallest=64),
    ):
        placed = here.put(states(2), here.of_states(states(2)))
        batch = [here.put(x, here.of_batch(0, x.ndim)) for x in (images, labels)]
        wanted = here.of_states(placed)
        step = jax.jit(descend, out_shardings=(wanted.params, wanted.opt_state, here.replicated))
        params, opt_state, loss = step(placed, *batch)
        jax.tree.map(lambda leaf, sharding: np.testing.assert_equal(leaf.sharding, sharding), params, wanted.params)
        results.append(here.to_host([params, opt_state, loss]))
    # The sum over the batch is taken in another order: float32 rounding, 1e-6 of values below 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *results)


def test_layouts_are_values():
    assert placement(networks=2) == placement(networks=2)
    assert len({placement(networks=2), placement(networks=2), placement(networks=2, parameters="sharded")}) == 2
    assert dict(placement(networks=4).mesh.shape) == {"network": 4, "data": 2}


def test_layouts_refuse_bad_arguments():
    with pytest.raises(ValueError, match=r"networks must divide the number of devices, 8, got 3"):
        placement(networks=3)
    with pytest.raises(ValueError, match="networks must divide"):
        placement([])
    with pytest.raises(ValueError, match=r"\"replicated\" or \"sharded\", got 'fsdp'"):
        placement(parameters="fsdp")
    with pytest.raises(ValueError, match="smallest"):
        placement(smallest=0)
    with pytest.raises(ValueError, match=r"axis must be in 0\.\.2"):
        placement().of_batch(3, 3)
    with pytest.raises(ValueError, match=r"leading axis that 2 .* got an array of shape \(3, 4\)"):
        placement(networks=2).of_states(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"stacked.*\(\)"):
        placement().of_states(jnp.zeros(()))


def test_initialize_refuses_half_of_the_flags_and_a_late_call():
    with pytest.raises(ValueError, match="all of coordinator_address, num_processes, process_id, or none"):
        initialize(num_processes=2, process_id=0)
    jax.devices()
    with pytest.raises(RuntimeError, match="before"):
        initialize("localhost:1", 2, 0)


TWO_PROCESSES = """
import numpy as np
from jax.sharding import PartitionSpec as P
from advjax.data import Stream
from advjax.training.sharding import initialize, placement
for name in [name for name in os.environ if name.startswith(("SLURM", "KUBERNETES", "OMPI", "TPU"))]:
    del os.environ[name]
try:
    initialize()
except ValueError as error:
    not_found = str(error)
initialize(coordinator, num_processes, process_id)
here = placement(parameters="sharded", smallest=4)
total = jax.shard_map(lambda x: jax.lax.psum(x.sum(), "data"), mesh=here.mesh, in_specs=P("data"), out_specs=P())
part = np.full((2, 3), process_id + 1, np.int32)
rows = here.from_local(part, here.of_batch(0, 2))
whole = {"a": np.arange(24, dtype=np.float32).reshape(1, 8, 3), "key": jax.random.split(jax.random.key(3), 1)}
placed = here.put(whole, here.of_states(whole))
moved = here.put(placed["a"], here.replicated)
moved = here.put(moved, here.of_batch(1, 3))
source = [{"image": np.full((2, 2, 1), i, np.uint8), "label": i} for i in range(11)]
labels = here.from_local(Stream(source, 8, seed=0).take(3)[1], here.of_batch(1, 2))
report({
    "not_found": not_found,
    "devices": [jax.device_count(), jax.local_device_count()],
    "psum": int(jax.jit(total)(rows)),
    "rows": here.to_host(rows)[:, 0].tolist(),
    "spread": not placed["a"].is_fully_addressable and not placed["a"].is_fully_replicated,
    "equal": [bool((here.to_host(x) == whole["a"]).all()) for x in (placed["a"], moved)],
    "key": here.to_host(placed["key"]).tolist(),
    "labels": here.to_host(labels).tolist(),
})
"""


def test_two_processes_with_two_devices_each_are_one_mesh():
    source = [{"image": np.full((2, 2, 1), i, np.uint8), "label": i} for i in range(11)]
    labels = Stream(source, 8, seed=0).take(3)[1].tolist()
    for result in run_processes(TWO_PROCESSES, join=False):
        assert "found no job" in result["not_found"]
        assert result["devices"] == [4, 2]
        assert result["labels"] == labels
        assert result["psum"] == 2 * 3 * (1 + 2)
        assert result["rows"] == [1, 1, 2, 2]
        assert result["spread"]
        assert result["equal"] == [True, True]
        assert result["key"] == jax.random.key_data(jax.random.split(jax.random.key(3), 1)).tolist()


def test_a_failing_process_ends_the_others_and_is_quoted():
    program = "if process_id == 1: raise ValueError('number one')\nimport time; time.sleep(100)"
    with pytest.raises(RuntimeError, match="number one"):
        run_processes(program, devices=1)
    with pytest.raises(TimeoutError, match=r"processes \[0\] still ran"):
        run_processes("import time; time.sleep(100)", processes=1, timeout=2)
