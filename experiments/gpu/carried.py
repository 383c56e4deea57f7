"""What a machine without a network lacks, from a folder that was carried there: packages as wheels, and data sets."""

import importlib.metadata
import io
import os
import pathlib
import subprocess
import sys
import tarfile

__all__ = ["environment"]


def environment(carried: pathlib.Path, runs: pathlib.Path) -> dict[str, str]:
    """The environment of the tasks: in it they find this checkout, what was carried, and what was compiled before.

    Args:
        carried: what `make gpu-carry` made, or no folder at all.
        runs: where packages are installed, in `site`, and compilations are kept, in `cache`.
    """
    here, site, data = pathlib.Path.cwd(), runs / "site", carried / "tfds"
    _install(sorted(carried.glob("wheels/*.whl")), site)
    _join(sorted(carried.glob("cifar10.a?")), data)
    paths = [f"{here}", f"{site.resolve()}", *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {"JAX_COMPILATION_CACHE_DIR": f"{(runs / 'cache').resolve()}"}
    for variable, folder in {"TFDS_DATA_DIR": data, "ADVJAX_NETWORKS": carried / "networks"}.items():
        if folder.exists():
            found[variable] = f"{folder.resolve()}"
    return {**found, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _install(wheels: list[pathlib.Path], site: pathlib.Path) -> None:
    """Installs those of which the machine has no version at all."""
    where = [*sys.path, f"{site}"]
    missing = [
        f"{wheel}"
        for wheel in wheels
        if not any(importlib.metadata.distributions(name=wheel.name.split("-")[0], path=where))
    ]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", f"{site}"]
        subprocess.run([*pip, *missing], check=True)


def _join(parts: list[pathlib.Path], data: pathlib.Path) -> None:
    """CIFAR-10 is larger than what one call carries: it comes in two halves, of one archive."""
    if len(parts) == 2 and not (data / "cifar10").exists():
        with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            archive.extractall(data, filter="data")
