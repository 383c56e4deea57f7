"""Runs one program as several processes of a JAX job on this machine, each with some simulated CPU devices."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

__all__ = ["run_processes"]

ROOT = pathlib.Path(__file__).parents[2]

# Before the program: the strict settings of the tests, and `report(value)` for what it found.
PRELUDE = """
import json, os, sys
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
coordinator, num_processes, process_id, arguments = json.loads(sys.argv[1])
def fail(*error):  # at once: the usual way out waits for the other processes
    sys.__excepthook__(*error)
    sys.stderr.flush()
    os._exit(1)
sys.excepthook = fail
def report(value):
    with open(sys.argv[2], "w") as file:
        json.dump(value, file)
"""
JOIN = """
from advjax.training.sharding import initialize
initialize(coordinator, num_processes, process_id)
"""


def run_processes(
    program: str,
    *,
    processes: int = 2,
    devices: int = 2,
    arguments: Any = None,
    join: bool = True,
    timeout: float = 120,
) -> list[Any]:
    """What `program` reported in each process, in process order.

    Args:
        program: Python source. It finds `jax`, `coordinator`, `num_processes`, `process_id`, `arguments` and
            `report(value)`, which it calls with a JSON value (each call replaces the one before).
        processes: how many processes; one runs without `jax.distributed`.
        devices: simulated CPU devices of each process.
        arguments: a JSON value for the program.
        join: whether `initialize` is called before the program; else it does so itself.
        timeout: seconds for all of it.

    Raises:
        RuntimeError: a process failed; the message holds the end of its stderr. The others are killed.
        TimeoutError: they took too long, and were killed.
    """
    source = PRELUDE + (JOIN if join and processes > 1 else "") + program
    coordinator = f"localhost:{_free_port()}"
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    with tempfile.TemporaryDirectory() as folder:
        running = []
        try:
            for process_id in range(processes):
                place = pathlib.Path(folder, str(process_id))
                given = json.dumps([coordinator, processes, process_id, arguments])
                with open(f"{place}.err", "w") as errors:
                    running.append(
                        subprocess.Popen(
                            [sys.executable, "-c", source, given, f"{place}.json"],
                            env=environment,
                            stdout=errors,
                            stderr=errors,
                        )
                    )
            _wait(running, folder, time.monotonic() + timeout)
        finally:
            for process in running:
                process.kill()
                process.wait()
        return [json.loads(pathlib.Path(folder, f"{i}.json").read_text()) for i in range(processes)]


def _wait(running: list[subprocess.Popen], folder: str, end: float) -> None:
    codes = [process.poll() for process in running]
    while None in codes and not any(codes):
        if time.monotonic() > end:
            late = [i for i, code in enumerate(codes) if code is None]
            raise TimeoutError(f"processes {late} still ran\n{_ends(folder)}")
        time.sleep(0.05)
        codes = [process.poll() for process in running]
    if any(codes):
        raise RuntimeError(f"exit codes {codes}\n{_ends(folder)}")


def _ends(folder: str) -> str:
    files = sorted(pathlib.Path(folder).glob("*.err"))
    return "\n".join(f"--- process {file.stem}:\n{file.read_text()[-3000:]}" for file in files)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
