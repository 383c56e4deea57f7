"""What this machine can do at most: how fast it multiplies matrices and reads memory, and the least time of a work."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Rates", "floor_seconds", "measure_rates", "operations_of"]


class Rates(NamedTuple):
    """Operations and bytes a second, each the best of what was tried."""

    operations: float
    bytes: float
    best: str


def measure_rates(smoke: bool) -> Rates:
    """The best float32 matrix product by XLA, NumPy or PyTorch, and the best triad `a <- a + s b`."""
    on_cpu = jax.default_backend() == "cpu"
    sizes = (64,) if smoke else (512, 1024, 2048) if on_cpu else (4096, 8192)
    elements, repeats = (2**12, 1) if smoke else (2**25, 7)
    # On other hardware than a CPU the host's own libraries say nothing.
    products = {
        f"{name}, {size} x {size}": 2 * size**3 / _best(run, repeats)
        for size in sizes
        for name, run in _products(size, on_cpu)
    }
    # Two arrays are read and one is written.
    triads = {name: 12 * elements / _best(run, repeats) for name, run in _triads(elements, on_cpu)}
    fastest, widest = max(products, key=products.__getitem__), max(triads, key=triads.__getitem__)
    return Rates(products[fastest], triads[widest], f"product by {fastest}; triad by {widest}")


def _products(size: int, on_cpu: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    x, y, product = jnp.asarray(a), jnp.asarray(b), jax.jit(jnp.matmul)
    yield "XLA", lambda: product(x, y)
    if on_cpu:
        yield "NumPy", lambda: a @ b
        if (torch := _torch()) is not None:
            s, t = torch.tensor(a), torch.tensor(b)
            yield "PyTorch", lambda: s @ t


def _triads(elements: int, on_cpu: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    triad = jax.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)
    # The result takes the place of the array that is given away.
    held, b = [jnp.zeros(elements, jnp.float32)], jnp.ones(elements, jnp.float32)

    def in_place() -> jax.Array:
        held[0] = triad(held[0], b)
        return held[0]

    yield "XLA", in_place
    if on_cpu and (torch := _torch()) is not None:
        s, t = torch.zeros(elements), torch.ones(elements)
        yield "PyTorch", lambda: s.add_(t, alpha=0.5)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def _best(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def floor_seconds(operations: float, moved: float, rates: Rates) -> float:
    """The time that no program can beat: all operations at the matrix rate, or all bytes at the memory's."""
    return max(operations / rates.operations, moved / rates.bytes)


def operations_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a plain program, as XLA counts them before it optimizes (a loop's body once).

    It is counted as a CPU's program, of arguments by their shapes: JAX's GPU plugin counts nothing.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), arguments)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        counts: Any = jax.jit(function).lower(*shapes).cost_analysis()
    return float(counts["flops"])
