"""The plan for a machine with a GPU: its order, what goes on, what a failure holds up, and what is handed back."""

import os
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from experiments.command import _parser
from experiments.config import with_settings
from experiments.gpu import carried
from experiments.gpu.pack import pack, unpack
from experiments.gpu.plan import DONE, GOES_ON, NOT_BEGUN, PRESETS, Task, run, tasks
from experiments.papers import STUDIES

TINY = """
import pathlib, sys, time
with open("order", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "sleep":
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module that ends with the code of its first argument."""
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clock(*seconds):
    return iter(seconds).__next__


@pytest.mark.parametrize("preset", PRESETS)
def test_every_experiment_of_the_plan_is_one_that_there_is(preset):
    plan = tasks(preset, ["pgd"])
    assert plan[0].arguments[0] == "benchmarks"
    assert plan[0].arguments[-1] == "pgd"
    papers = [task.arguments for task in plan[1:]]
    order = [arguments[1] for arguments in papers]
    papers_in_order = ["hard_positives", "robust_optimization", "localized_training", "random_sign"]
    assert list(dict.fromkeys(order)) == papers_in_order
    for module, *arguments in papers:
        options = _parser(STUDIES, arguments)
        assert module == "experiments"
        assert options.out.startswith("{runs}/")
        with_settings(STUDIES[options.paper].presets[options.preset], options.set)


def test_tasks_run_in_order_and_a_failure_holds_up_none(folder):
    plan = [
        Task("fails", ("tiny", "3")),
        Task("stops", ("tiny", "75", "{runs}/stops")),
        Task("ends", ("tiny", "0"), False),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{folder}"}
    runs = folder / "runs"
    states = run(plan, runs, 10, environment, clock=clock(0, 60, 120, 180))
    assert states == {"fails": f"failed with code 3, see {runs / 'fails.log'}", "stops": GOES_ON, "ends": DONE}
    assert (folder / "order").read_text() == f"3 --minutes 9.00\n75 {runs / 'stops'} --minutes 8.00\n0\n"
    # Again: what is done is not run, what is not goes on, and nothing begins when time is over.
    (runs / "stops").mkdir()
    states = run(plan, runs, 1, environment, clock=clock(0, 1, 40, 50))
    assert states == {"fails": f"failed with code 3, see {runs / 'fails.log'}", "stops": GOES_ON, "ends": DONE}
    assert len((folder / "order").read_text().splitlines()) == 4
    (runs / "ends.done").unlink()
    assert run(plan[2:], runs, 1, environment, clock=clock(0, 40)) == {"ends": NOT_BEGUN}


def test_what_does_not_stop_by_itself_is_ended(folder, monkeypatch):
    monkeypatch.setattr("experiments.gpu.plan._LEAST_SECONDS", 0)
    plan = [Task("sleeps", ("tiny", "sleep"), False)]
    assert run(plan, folder / "runs", 0.01, {**os.environ, "PYTHONPATH": f"{folder}"}) == {"sleeps": GOES_ON}


def test_reports_come_back_and_a_stage_with_its_marker_or_not_at_all(tmp_path, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "out"
    packed = {
        "b.done": 0,
        "b/table.md": 9,
        "a/table.md": 900,
        "a/stages/row/FGV.npz": 3000,
        "a/stages/row/FGV.json": 10,
    }
    packed |= {"a/checkpoints/base/5/weights": 2000, "a/checkpoints/base/steps.csv": 2000}
    others = {"a/stages/large.npz": 5000, "a/stages/large.json": 10, "a/checkpoints/before/5/weights": 2000}
    others |= {"a/lock": 1, "cache/x": 9, "site/x": 9, "b/stages/base.npz": 9, "b/checkpoints/base/weights": 9}
    for name, size in {**packed, **others}.items():
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_bytes(np.random.default_rng(size).bytes(size))
    os.utime(runs / "a" / "checkpoints" / "before" / "5" / "weights", (0, 0))  # that training is over
    monkeypatch.setattr("experiments.gpu.pack._ROOM", 16_000)
    monkeypatch.setattr("experiments.gpu.pack._PIECE", 4_000)
    out.mkdir()
    (out / "state.tar.gz.9").write_bytes(b"of an older run")
    assert {path.name for path in pack(runs, out)} == {"large.npz", "large.json"}
    assert {path.name for path in out.iterdir()} == {"reports.tar.gz.0", "state.tar.gz.0", "state.tar.gz.1"}
    assert max(path.stat().st_size for path in out.iterdir()) <= 4000
    again = tmp_path / "again"
    unpack(out, again)
    assert {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()} == packed.keys()
    assert all((again / name).read_bytes() == (runs / name).read_bytes() for name in packed)
    (again / "b.done").unlink()
    unpack(out, again)
    assert not (again / "b.done").exists()  # what is on the machine is newer than what was carried


def test_only_what_the_machine_lacks_is_installed_and_halves_are_joined(tmp_path, monkeypatch):
    box, runs = tmp_path / "carried", tmp_path / "runs"
    (box / "wheels").mkdir(parents=True)
    for name in ("numpy-0.1-py3-none-any.whl", "never_heard_of-2.0-py3-none-any.whl"):
        with zipfile.ZipFile(box / "wheels" / name, "w"):
            pass
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "some").write_text("records")
    with tarfile.open(tmp_path / "whole", "w") as archive:
        archive.add(tmp_path / "cifar10", "cifar10")
    whole = (tmp_path / "whole").read_bytes()
    (box / "cifar10.aa").write_bytes(whole[:700])
    calls = []
    monkeypatch.setattr(carried.subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert "TFDS_DATA_DIR" not in carried.environment(box, runs)
    (command,) = calls
    assert command[0] == sys.executable
    assert command[-1] == f"{box / 'wheels' / 'never_heard_of-2.0-py3-none-any.whl'}"
    assert "numpy" not in " ".join(command)
    (box / "cifar10.ab").write_bytes(whole[700:])
    found = carried.environment(box, runs)
    assert (box / "tfds" / "cifar10" / "some").read_text() == "records"
    assert found["TFDS_DATA_DIR"] == f"{box / 'tfds'}"
    assert found["PYTHONPATH"].split(os.pathsep)[:2] == [os.getcwd(), f"{runs / 'site'}"]
