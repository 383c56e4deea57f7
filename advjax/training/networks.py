"""One function for each network of a stack: side by side on an accelerator, in turn on a CPU."""

from collections.abc import Callable
from typing import Any

import jax

from advjax.training.sharding import Placement

__all__ = ["over_networks"]


def over_networks(one: Callable[..., Any], placement: Placement, *stacked: Any) -> Any:
    """`one` of each network's part of `stacked` [S, ...], the results stacked again; to be called inside `jit`."""
    networks = placement.mesh.shape["network"]
    # vmap turns a stack's convolutions into grouped ones, which fill an accelerator. A CPU is full with one network,
    # and slow at grouped convolutions (measured in benchmarks/results/training.md); the program compiles sooner too.
    if jax.default_backend() == "cpu" and networks == 1:
        return jax.lax.map(lambda arguments: one(*arguments), stacked)
    return jax.vmap(one, spmd_axis_name="network" if networks > 1 else None)(*stacked)
