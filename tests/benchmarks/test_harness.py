"""The harness of the benchmarks: who is timed, against whom, and what is kept of it."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import floor
from benchmarks.__main__ import main
from benchmarks.harness import Case, Job, measure, peak_memory
from benchmarks.jobs import JOBS
from benchmarks.summary import write_pages, write_record


def missing():
    raise ImportError("no module named rival")


def broken():
    raise RuntimeError("it does not work\nat all")


def case(smoke=True):
    found = {"ours": 0, "near": 0, "far": 0, "slow": 0}

    def run(name, answer):
        found[name] += 1
        return answer

    return Case(
        ours=lambda: run("ours", [1.0, 2.0]),
        peers={
            "near": lambda: lambda: run("near", [1.0, 2.1]),
            "far": lambda: lambda: run("far", [1.0, 3.0]),
            "absent": missing,
            "wrong": lambda: lambda: broken(),
            "advjax, another way": lambda: lambda: run("slow", [1.0, 2.0]),
        },
        judge=lambda answer: {"answer": np.array(answer), "calls": found["ours"]},
        bars={"answer": 0.1, "calls": None},
        operations=lambda answer: 1e9 * answer[1],
        moved=4e9,
        counted="by hand",
    )


@pytest.fixture(scope="module")
def record():
    return measure(Job("some work", case), repeats=3, smoke=True)


def test_only_sides_that_agree_are_timed(record):
    sides = record["sides"]
    assert {name for name in sides if "seconds" in sides[name]} == {"advjax", "near", "advjax, another way"}
    assert all(len(sides[name]["seconds"]) == 3 for name in ("advjax", "near"))
    assert sides["far"]["absent"] == "disagrees: answer 0.33 apart, bar 0.1"
    assert sides["far"]["answers"]["answer"] == 2.0
    assert sides["absent"]["absent"] == "not installed (no module named rival)"
    assert sides["wrong"]["absent"] == "failed: RuntimeError: it does not work"
    assert record["agreed"] == {"answer": 0.1}


def test_what_is_far_too_slow_is_not_run_again(monkeypatch):
    monkeypatch.setattr("benchmarks.harness._LONGEST", 0.01)
    slow = dataclasses.replace(case(), peers={"snail": lambda: lambda: time.sleep(0.02) or [1.0, 2.0]})
    side = measure(Job("some work", lambda _: slow), repeats=1, smoke=True)["sides"]["snail"]
    assert "seconds" not in side
    assert side["absent"].startswith("too slow to repeat")


def test_the_floor_is_the_tighter_of_operations_and_bytes(record):
    rates = record["floor"]["rates"]
    assert record["floor"]["operations"] == 2e9
    assert record["floor"]["seconds"] == max(2e9 / rates["operations"], 4e9 / rates["bytes"])
    assert rates["operations"] > 0
    assert rates["bytes"] > 0
    assert floor.floor_seconds(6.0, 1.0, floor.Rates(2.0, 1.0, "")) == 3.0
    assert floor.floor_seconds(1.0, 6.0, floor.Rates(2.0, 1.0, "")) == 6.0


def test_operations_are_those_of_the_plain_program():
    assert floor.operations_of(jnp.matmul, jnp.ones((4, 5)), jnp.ones((5, 6))) == 2 * 4 * 5 * 6


def timed_record(record, ours, **peers):
    sides = {"advjax": {"seconds": ours, "first": 1.0, "answers": {}}}
    sides |= {name.replace("_", ", "): {"seconds": times, "first": 1.0, "answers": {}} for name, times in peers.items()}
    return {**record, "sides": sides}


def test_a_row_compares_with_the_fastest_peer_and_other_rows_stay(tmp_path, record):
    first, second = list(JOBS)[:2]
    write_record(tmp_path, second, record)
    kept = (tmp_path / "records" / f"{second}.json").read_bytes()
    times = {"slow": [9.0, 9.0, 9.0], "fast": [3.0, 4.0, 8.0], "advjax_other": [1.0, 1.0, 1.0]}
    write_record(tmp_path, first, timed_record(record, [2.0, 2.0, 2.0], **times))
    rows = [row for row in (tmp_path / "SUMMARY.md").read_text().splitlines() if row.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {first}", f"| {second}"]
    assert "| 2 (2-2) | fast: 4 | **2.00** (1.50-4.00) |" in rows[0]
    assert "differ: far" in rows[1]
    assert (tmp_path / "records" / f"{second}.json").read_bytes() == kept
    assert "| slow | 9 | 9 - 9 |" in (tmp_path / "DETAILS.md").read_text()


def test_a_record_of_a_job_that_is_gone_has_no_row(tmp_path, record):
    write_record(tmp_path, "gone", record)
    write_pages(tmp_path)
    assert "gone" not in (tmp_path / "SUMMARY.md").read_text()


def test_the_command_measures_what_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.jobs.JOBS", {"one": Job("one work", case), "two": Job("another", case)})
    assert main(["one", "--within", "--smoke", "--repeats", "2", "--out", str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["one.json"]
    assert json.loads((tmp_path / "records" / "one.json").read_text())["repeats"] == 2
    main(["--list"])
    assert "another" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such job: three"):
        main(["three"])


def test_memory_is_this_process_own_and_not_that_of_who_started_it():
    ballast = np.ones(2**25)  # 256 MiB
    code = "from benchmarks.harness import peak_memory; print(peak_memory())"
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert float(done.stdout) < peak_memory()
    assert peak_memory() > ballast.nbytes / 2**20


def test_a_real_job_without_other_libraries(monkeypatch):
    for name in ("torch", "foolbox", "torchattacks", "art", "adv_lib"):
        monkeypatch.setitem(sys.modules, name, None)
    for variable in ("TFDS_DATA_DIR", "ADVJAX_NETWORKS"):
        monkeypatch.delenv(variable, raising=False)
    record = measure(JOBS["fgs-lenet"], repeats=1, smoke=True)
    others = {name: side["absent"] for name, side in record["sides"].items() if name != "advjax"}
    assert len(others) == 5
    assert all(reason.startswith("not installed") for reason in others.values())
    assert record["sides"]["advjax"]["answers"]["change of the images"] != 0
    assert "random weights" in record["notes"]


@pytest.mark.peers
@pytest.mark.parametrize("name", ["lenet", "madry", "resnet20"])
def test_copies_in_pytorch_are_the_same_networks(name, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.networks import arrays_of, network, torch_copy

    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    known = network(name)
    copied, arrays = torch_copy(known).arrays(), arrays_of(known.model)
    assert all(np.array_equal(copied[key], arrays[key]) for key in copied)
