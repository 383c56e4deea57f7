"""What a number was measured on: the machine, and the versions of everything that decides it."""

import os
import pathlib
import platform
from importlib import metadata
from typing import Any

import jax

from advjax.version import __version__

__all__ = ["hardware", "versions"]


def hardware() -> dict[str, Any]:
    """The processor, the cores this process may use, and JAX's devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    return {"processor": _processor(), "cores": cores, "devices": devices}


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of everything that a result depends on."""
    packages = ("jax", "jaxlib", "flax", "optax", "dm-pix", "numpy")
    found = {package: metadata.version(package) for package in packages}
    return {"advjax": __version__, "python": platform.python_version(), **found}
