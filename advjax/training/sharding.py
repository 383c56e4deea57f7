"""Where arrays live: a mesh of all devices of all processes, and the shardings of states and batches over it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jax.typing import ArrayLike

__all__ = ["Placement", "default_placement", "placement", "initialize"]

Tree = TypeVar("Tree")
Result = TypeVar("Result")


def initialize(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of its job, so that `jax.devices()` are the devices of all of them.

    Every process runs the same program and calls this first, before anything else of JAX. Without arguments the
    job is found from its environment: Slurm, Kubernetes (`jax[k8s]`), Cloud TPU pods, Open MPI. By hand, all
    three are given, and a process takes all devices that it sees. Processes on CPUs talk through Gloo, on GPUs
    through NCCL.

    Args:
        coordinator_address: "host:port" of process 0, where it opens that port.
        num_processes: the number of processes.
        process_id: which of them this is, 0..num_processes-1.

    Raises:
        ValueError: some but not all three are given, or none and no job is found, or the id is out of range.
        RuntimeError: called twice, or after JAX was used.

    >>> initialize("localhost:1234", num_processes=2)
    Traceback (most recent call last):
    ...
    ValueError: give all of coordinator_address, num_processes, process_id, or none, got 'localhost:1234', 2 and None
    """
    missing = (coordinator_address, num_processes, process_id).count(None)
    if 0 < missing < 3:
        raise ValueError(
            "give all of coordinator_address, num_processes, process_id, or none, got "
            f"{coordinator_address!r}, {num_processes} and {process_id}"
        )
    if not missing:
        # "deactivate": a job around it, if any, must not choose this process's devices.
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, cluster_detection_method="deactivate"
        )
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            f"found no job of several processes ({error}) Start the program through Slurm, Kubernetes, Open MPI or on "
            "a Cloud TPU pod, or give coordinator_address='host:port', num_processes and process_id to each process"
        ) from error


@dataclasses.dataclass(frozen=True)
class Placement:
    """How stacked states and batches are spread over a mesh with the axes "network" and "data".

    The networks of a stack are divided over "network", the images of a batch over "data". Under `jit` the
    compiler propagates these shardings and adds the collectives: the mean gradient over "data" is an all-reduce
    with replicated parameters; sharded ones are gathered before use, and each device updates its part alone
    (FSDP: Rajbhandari et al., ZeRO, 2020, stage 3). Hashable, so it can be a static argument. Made by `placement`.

    A placement of one device places arrays there without naming axes: XLA compiles programs over a mesh, be it of one
    device, in another way, which on a CPU made a LeNet's training step take 13 to 25 times as long (JAX 0.10.2).

    Attributes:
        mesh: the devices, [networks, devices / networks].
        parameters: "replicated" over "data", or "sharded" over it.
        smallest: an array with fewer elements for one network stays replicated when parameters are sharded.

    >>> here = placement()
    >>> images = here.put(np.zeros((8, 4, 4, 1), np.uint8), here.of_batch(0, 4))
    >>> len(images.addressable_shards) == jax.device_count(), here.to_host(images).shape
    (True, (8, 4, 4, 1))
    """

    mesh: Mesh
    parameters: Literal["replicated", "sharded"] = "replicated"
    smallest: int = 2**16

    def of_states(self, states: Tree) -> Tree:
        """The `NamedSharding` of each array [S, ...] of stacked states (or of their shapes).

        The leading axis is divided over "network". With sharded parameters, the largest other axis that the size
        of "data" divides is divided over "data", for each array of at least `smallest` elements a network. The
        optimizer's state has the parameters' shapes, so it follows them. Typed keys have the leading axis alone.

        Raises:
            ValueError: an array is not stacked, or "network" does not divide the number of networks.
        """
        return jax.tree.map(lambda leaf: self._over_mesh(self._spec(leaf)), states)

    def _spec(self, leaf: Any) -> PartitionSpec:
        networks, parts = self.mesh.shape["network"], self.mesh.shape["data"]
        if not leaf.shape or leaf.shape[0] % networks:
            raise ValueError(
                f"states must be stacked, with a leading axis that {networks} (the mesh's networks) divides, "
                f"got an array of shape {leaf.shape}"
            )
        axes: list[str | None] = ["network" if networks > 1 else None, *[None] * (len(leaf.shape) - 1)]
        large = math.prod(leaf.shape[1:]) >= self.smallest
        divisible = [i for i in range(1, len(leaf.shape)) if leaf.shape[i] and leaf.shape[i] % parts == 0]
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if self.parameters == "sharded" and parts > 1 and large and divisible and not is_key:
            axes[max(divisible, key=lambda i: leaf.shape[i])] = "data"
        # As the compiler writes a spec, so that its results are placed equally: another spec is another program.
        while axes and axes[-1] is None:
            axes.pop()
        return PartitionSpec(*axes)

    def of_batch(self, axis: int, ndim: int) -> Sharding:
        """The sharding of an array with `ndim` axes whose axis `axis` counts images: that one over "data".

        Raises:
            ValueError: no such axis.

        >>> placement(jax.devices()[:1]).of_batch(1, 3).is_fully_replicated
        True
        """
        if not 0 <= axis < ndim:
            raise ValueError(f"axis must be in 0..{ndim - 1} for an array with {ndim} axes, got {axis}")
        return self._over_mesh(PartitionSpec(*["data" if i == axis else None for i in range(ndim)]))

    @property
    def replicated(self) -> Sharding:
        """The sharding of what every device holds in full."""
        return self._over_mesh(PartitionSpec())

    def constrain(self, tree: Tree, shardings: Any) -> Tree:
        """Inside `jit`: the arrays, placed by a sharding for all of them or a tree of one for each."""
        return tree if self.mesh.size == 1 else jax.lax.with_sharding_constraint(tree, shardings)

    def over_networks(self, one: Callable[..., Result], *stacked: Any) -> Result:
        """Inside `jit`: `one` of each network's part of `stacked` [S, ...], the results stacked again.

        vmap turns a stack's convolutions into grouped ones, which fill an accelerator. A CPU is full with one network,
        and slow at grouped convolutions (measured in benchmarks/NOTES.md): there they come in turn, and the
        program compiles sooner too.
        """
        networks = self.mesh.shape["network"]
        if jax.default_backend() == "cpu" and networks == 1:
            return jax.lax.map(lambda arguments: one(*arguments), stacked)
        return jax.vmap(one, spmd_axis_name="network" if networks > 1 else None)(*stacked)

    def _over_mesh(self, spec: PartitionSpec) -> Sharding:
        if self.mesh.size == 1:
            return SingleDeviceSharding(self.mesh.devices.item())
        return NamedSharding(self.mesh, spec)

    def put(self, tree: Any, shardings: Any) -> Any:
        """Global arrays of values that every process holds in full.

        Arrays that are already spread over several processes are moved to the given shardings (each process must
        then call this).

        Args:
            tree: NumPy or `jax.Array` leaves, typed keys too; the same values in every process.
            shardings: one sharding for all leaves, or a tree of them like `tree`.
        """
        if isinstance(shardings, Sharding):
            return jax.tree.map(lambda leaf: _put(leaf, shardings), tree)
        return jax.tree.map(_put, tree, shardings)

    def from_local(self, local: Any, sharding: Sharding) -> Any:
        """Global arrays from each process's own part of them, such as its rows of each batch.

        Args:
            local: NumPy leaves; along a sharded axis the processes' parts follow one another in process order.
            sharding: of the global arrays, for all leaves.
        """
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), local)

    @staticmethod
    def to_host(tree: Any) -> Any:
        """The whole arrays as NumPy arrays, in every process; every process must call this.

        Typed keys become their key data, uint32 [..., 2] for the default generator.

        >>> Placement.to_host({"a": jax.numpy.arange(3)})
        {'a': array([0, 1, 2], dtype=int32)}
        """
        tree = jax.tree.map(_without_key_type, tree)
        leaves, structure = jax.tree.flatten(tree)
        spread = [i for i, leaf in enumerate(leaves) if _is_spread(leaf)]
        if spread:
            everywhere = tuple(NamedSharding(leaves[i].sharding.mesh, PartitionSpec()) for i in spread)
            gathered = jax.jit(_same, out_shardings=everywhere)(tuple(leaves[i] for i in spread))
            for i, leaf in zip(spread, gathered, strict=True):
                leaves[i] = leaf
        return jax.tree.unflatten(structure, jax.device_get(leaves))


def placement(
    devices: Sequence[jax.Device] | None = None,
    *,
    networks: int = 1,
    parameters: Literal["replicated", "sharded"] = "replicated",
    smallest: int = 2**16,
) -> Placement:
    """The `Placement` over `devices`: by default all devices of all processes.

    The devices are ordered by process, and neighbors hold different networks: as long as `networks` divides the
    number of devices of a process, the processes hold disjoint parts of a batch, in process order.

    Args:
        devices: the devices to use, the same ones in every process.
        networks: into how many parts the stack of networks is divided; all else is data parallelism.
        parameters: "replicated", or "sharded" for networks that are too large for one device.
        smallest: with "sharded", arrays with fewer elements for one network stay replicated.

    Raises:
        ValueError: `networks` does not divide the number of devices, or an unknown way to place the parameters.

    >>> dict(placement(jax.devices()[:1]).mesh.shape)
    {'network': 1, 'data': 1}
    """
    if parameters not in ("replicated", "sharded"):
        raise ValueError(f'parameters must be "replicated" or "sharded", got {parameters!r}')
    if smallest < 1:
        raise ValueError(f"smallest must be at least 1 element, got {smallest}")
    chosen = sorted(jax.devices() if devices is None else devices, key=lambda device: (device.process_index, device.id))
    if not chosen or networks < 1 or len(chosen) % networks:
        raise ValueError(f"networks must divide the number of devices, {len(chosen)}, got {networks}")
    grid = np.array(chosen).reshape(-1, networks).T
    mesh = Mesh(grid, ("network", "data"), axis_types=(AxisType.Auto, AxisType.Auto))
    return Placement(mesh, parameters, smallest)


def default_placement() -> Placement:
    """All devices of all processes as one data axis; but on the CPUs of a single process its first device.

    A CPU is one device, whose cores XLA shares out by itself. More of them are simulated ones, for tests.

    >>> dict(default_placement().mesh.shape)
    {'network': 1, 'data': 1}
    """
    alone_on_cpu = jax.default_backend() == "cpu" and jax.process_count() == 1
    return placement(jax.devices()[:1] if alone_on_cpu else None)


def _put(leaf: ArrayLike, sharding: Sharding) -> jax.Array:
    if _is_spread(leaf):
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _is_spread(leaf: Any) -> bool:
    """Whether no process holds all of it."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _without_key_type(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _same(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return arrays
