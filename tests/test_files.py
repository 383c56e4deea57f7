"""Files are written whole or not at all: the functions, and that nothing else in the project writes files."""

import ast
import dataclasses
import functools
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import advjax
import experiments
from advjax import fgs, from_function, perturb
from advjax.files import write_text, write_whole
from advjax.models.readers import write_safetensors
from experiments.store import open_store
from tests.full_disk import full_disk
from tests.models_for_tests import convolutional, convolutional_weights, grid_images


@dataclasses.dataclass(frozen=True)
class Tiny:
    seed: int = 0


@functools.cache
def _perturbation():
    classifier = from_function(convolutional, convolutional_weights())
    images = jnp.asarray(grid_images(0, (1, 8, 8, 1)))
    return perturb(fgs(), classifier, images, classifier(images).argmax(-1))


def _figure(store):
    figure = Figure()
    figure.subplots().plot(np.arange(9))
    store.write_figure("report.png", figure)


_WRITERS = {
    "00000.png": lambda folder: _perturbation().save_png(folder),
    "report.png": lambda folder: _figure(open_store(folder, Tiny())),
    "stages/a.npz": lambda folder: open_store(folder, Tiny()).ensure("a", lambda: {"x": np.zeros(9999)}),
    "report.md": lambda folder: write_text(folder / "report.md", "x" * 9999),
    "net.safetensors": lambda folder: write_safetensors(folder / "net.safetensors", {"x": np.zeros(9999)}),
}


@pytest.mark.parametrize("name", _WRITERS)
def test_a_full_disk_leaves_what_stood_there(tmp_path, name):
    write = functools.partial(_WRITERS[name], tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"old")
    open_store(tmp_path, Tiny())
    _perturbation()  # compiled now, for XLA writes files too
    with full_disk(50), pytest.raises(OSError, match="File too large"):
        write()
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.rglob("*.partial"))
    write()
    assert path.stat().st_size > 50


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_what_stood_there(tmp_path, error):
    def half(file):
        file.write(b"ne")
        raise error

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error):
        write_whole(tmp_path / "a", half)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_link_stays_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "new")


# These write a file or folder of another name and rename it when it is whole, or append to a file line by line.
_ALLOWED = {
    "advjax/files.py",
    "advjax/score_command/table.py",
    "advjax/training/checkpoint_files.py",
    "advjax/training/history.py",
    # With the standard library alone: they run before advjax can be imported.
    "experiments/gpu/pack.py",
    "experiments/gpu/plan.py",
}


def _writes(call):
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", None)
    texts = [each.value for each in (*call.args, *(k.value for k in call.keywords)) if isinstance(each, ast.Constant)]
    first = ast.unparse(call.args[0]) if call.args else ""
    if name == "open":
        return any(isinstance(text, str) and set(text) <= set("wxabt+") and set(text) & set("wxa+") for text in texts)
    if name in ("write_text", "write_bytes", "write_config", "write_figure"):
        return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) not in ("store", "self")
    return name in ("savefig", "save", "savez", "savez_compressed", "savetxt", "dump", "tofile") and first not in (
        "file",
    )


def test_nothing_else_writes_files():
    found = set()
    for package in (advjax, experiments):
        root = pathlib.Path(package.__path__[0])
        for path in root.rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            found |= {(f"{path.relative_to(root.parent)}", ast.unparse(call)) for call in calls if _writes(call)}
    strange = {(path, call) for path, call in found if path not in _ALLOWED}
    # Not files but a training's checkpoints, which have tests of their own; and `advjax.models.save`.
    assert {call for _, call in strange} == {
        "self._checkpoints.save(step, states, record, score=score)",
        "save(self.model, os.fspath(path))",
        "self._orbax.save(files.unfinished(self.folder) / _ARRAYS, args=ocp.args.PyTreeSave(named))",
        "self._keeper.save(step, states, self._history, self._feed.state(), score)",
    }
