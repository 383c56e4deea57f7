"""Stages on disk: each result is written whole or not at all, and a rerun goes on after the finished ones."""

import dataclasses
import datetime
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from advjax.environment import hardware, versions
from advjax.files import write_text, write_whole
from advjax.fingerprint import differences, fingerprint
from advjax.lock import FolderInUseError, FolderLock
from experiments.provenance import commit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Arrays", "Store", "finished_stages", "open_store"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of finished stages of one configuration: `stages/<name>.npz`, marked as done by `<name>.json`.

    While the store that `open_store` gave lives, no other process can open one in its folder.

    Attributes:
        root: the folder.
        fingerprint: of the configuration.
        data: the images that are read, in words; see `experiments.provenance`.
        lock: held on the folder.
    """

    root: pathlib.Path
    fingerprint: str
    data: str = ""
    lock: FolderLock | None = dataclasses.field(default=None, compare=False, repr=False)

    def done(self, name: str) -> bool:
        """Whether the stage was finished, by this configuration."""
        marker = self._path(name, ".json")
        return marker.exists() and json.loads(marker.read_text())["fingerprint"] == self.fingerprint

    def ensure(self, name: str, compute: Callable[[], Arrays]) -> None:
        """Runs `compute` and stores its arrays, unless that was done before."""
        if self.done(name):
            return
        start = time.perf_counter()
        arrays = compute()
        path = self._path(name, ".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file object, because NumPy would append ".npz" to the temporary name; `Any`: keys are argument names.
        content: Any = arrays
        write_whole(path, lambda file: np.savez(file, **content))
        marker = {
            "fingerprint": self.fingerprint,
            "seconds": round(time.perf_counter() - start, 2),
            "finished": _now(),
            "commit": commit(),
        }
        write_text(self._path(name, ".json"), json.dumps(marker))

    def read(self, name: str, *keys: str) -> Arrays:
        """The named arrays of a finished stage, or all of them."""
        with np.load(self._path(name, ".npz")) as stored:
            return {key: stored[key] for key in keys or stored.files}

    def checkpoints(self, *words: str) -> pathlib.Path:
        """The folder in which a training keeps its checkpoints."""
        return self.root.joinpath("checkpoints", *words)

    def seconds(self) -> dict[str, float]:
        """How long each finished stage took."""
        return {name: marker["seconds"] for name, marker in _markers(self.root).items()}

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the report, whole or not at all."""
        write_text(self.root / name, text)

    def write_figure(self, name: str, figure: "Figure") -> None:
        """Writes a picture of the report, whole or not at all; the end of its name says the format."""
        form = pathlib.PurePath(name).suffix.removeprefix(".")
        write_whole(self.root / name, lambda file: figure.savefig(file, format=form))

    def write_config(self, config: Any, **more: Any) -> None:
        """`config.json`: the configuration, the images read, the commit, the machine, the versions, and `more`.

        Where stages were made by other commits than the one that writes this, all of them are named.
        """
        made_by = {marker.get("commit", "not recorded") for marker in _markers(self.root).values()}
        others = {"commits_of_stages": sorted(made_by)} if made_by - {commit()} else {}
        content = {
            "config": dataclasses.asdict(config),
            "fingerprint": self.fingerprint,
            "data": self.data,
            "written": _now(),
            "commit": commit(),
            **others,
            "hardware": hardware(),
            "versions": versions(),
            **more,
        }
        self.write_text("config.json", json.dumps(content, indent=2) + "\n")

    def _path(self, name: str, suffix: str) -> pathlib.Path:
        return self.root / "stages" / (name + suffix)


def finished_stages(root: str | os.PathLike[str]) -> list[str]:
    """The names of the finished stages of the run in a folder, in the order in which they were."""
    return list(_markers(pathlib.Path(root)))


def open_store(root: str | os.PathLike[str], config: Any, data: str = "") -> Store:
    """The store of `config`, a dataclass of JSON values, in the folder `root`, made if it is not there.

    Raises:
        ValueError: the folder holds a run of another configuration, or of other images than `data` says.
        FolderInUseError: another process has it open.
        OSError: the folder cannot be made or written to.
    """
    path = pathlib.Path(root)
    try:
        store = Store(path, fingerprint(dataclasses.asdict(config)), data, FolderLock(path))
        existing = path / "config.json"
        if existing.exists():
            _check_same(json.loads(existing.read_text()), config, data, path)
        else:
            store.write_config(config)
    except FolderInUseError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to the output folder {path}: {error}. Choose another with --out.") from error
    return store


def _check_same(stored: dict[str, Any], config: Any, data: str, path: pathlib.Path) -> None:
    read = stored.get("data") or data  # runs of before 2026-11-25 do not say
    if read != data:
        raise ValueError(
            f"the output folder {path} holds a run of other images ({read}; now: {data}). "
            "Choose another with --out, or remove that one."
        )
    if changed := differences(stored["config"], json.loads(json.dumps(dataclasses.asdict(config)))):
        raise ValueError(
            f"the output folder {path} holds a run of another configuration ({changed}). "
            "Choose another with --out, or remove that one."
        )


def _markers(root: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What was noted of each finished stage, the oldest first."""
    folder = root / "stages"
    markers = sorted(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return {path.relative_to(folder).with_suffix("").as_posix(): json.loads(path.read_text()) for path in markers}


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
