"""A run that is killed goes on where it was, to the same bytes; a folder holds one evaluation alone."""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from advjax import fgs, from_function
from advjax.evaluate import evaluate
from tests.models_for_tests import linear, linear_weights

PROGRAM = """
import jax, numpy as np
from advjax import fgs, from_function, pgd
from advjax.evaluate import evaluate

def linear(weights, images):
    return images.reshape(images.shape[0], -1) @ weights

def run(folder):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8), rng.integers(0, 3, 60)
    models = {name: from_function(linear, rng.normal(size=(16, 3)).astype(np.float32)) for name in "ab"}
    attacks = {"fgs": fgs(0.1), "pgd": pgd(0.1, step_size=0.05, steps=3)}
    options = {"batch_size": 2, "restarts": 2, "transfer": True, "devices": jax.devices()[:1]}
    evaluate(models, attacks, data, key=jax.random.key(0), folder=folder, **options)
"""
CHUNKS = 30 * 2 * (1 + 1 + 2)


def start(folder):
    return subprocess.Popen([sys.executable, "-c", f"{PROGRAM}\nrun({os.fspath(folder)!r})"])


def finished(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "chunks").glob("*.npz")}


def test_killed_at_random_it_resumes_to_the_same_bytes(tmp_path):
    process = start(tmp_path / "killed")
    goal, deadline = random.Random(0).randrange(1, CHUNKS // 2), time.monotonic() + 120
    while len(finished(tmp_path / "killed")) < goal:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = finished(tmp_path / "killed")
    assert goal <= len(before) < CHUNKS
    assert not (tmp_path / "killed" / "report.json").exists()
    assert start(tmp_path / "killed").wait() == 0
    after = finished(tmp_path / "killed")
    assert len(after) == CHUNKS
    assert {name: after[name] for name in before} == before  # nothing finished was done again
    program = {"__name__": "__main__"}
    exec(PROGRAM, program)
    program["run"](tmp_path / "whole")
    report = (tmp_path / "whole" / "report.json").read_bytes()
    assert (tmp_path / "killed" / "report.json").read_bytes() == report


BASE = {
    "models": {"m": from_function(linear, linear_weights(0))},
    "attacks": {"fgs": fgs(0.1)},
    "data": (np.zeros((5, 6, 6, 1), np.uint8), np.arange(5) % 4),
    "key": jax.random.key(0),
    "batch_size": 2,
}


def run(folder, **change):
    arguments = {**BASE, "folder": folder, "devices": jax.devices()[:1], **change}
    return evaluate(arguments.pop("models"), arguments.pop("attacks"), arguments.pop("data"), **arguments)


def test_a_second_run_reads_what_the_first_found(tmp_path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.delattr("advjax.evaluate.stream.measure_attack")
    monkeypatch.delattr("advjax.evaluate.stream.measure_clean")
    # Another number of devices is the same evaluation.
    assert run(tmp_path, devices=jax.devices()[:2]).to_json() == first.to_json()
    assert (tmp_path / "report.json").read_text() == first.to_json()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("models", {"models": {"m": from_function(linear, linear_weights(1))}}),
        ("models", {"models": {"n": BASE["models"]["m"]}}),
        ("attacks", {"attacks": {"fgs": fgs(0.2)}}),
        ("attacks", {"attacks": {"fgs": fgs(0.1, levels=None)}}),
        ("data", {"data": (np.ones((5, 6, 6, 1), np.uint8), np.arange(5) % 4)}),
        ("data", {"data": (np.zeros((5, 6, 6, 1), np.uint8), np.arange(5) % 3)}),
        ("key", {"key": jax.random.key(1)}),
        ("batch_size", {"batch_size": 3}),
        ("restarts", {"restarts": 2}),
        ("transfer", {"transfer": True}),
    ],
)
def test_another_evaluation_in_the_folder_is_an_error(tmp_path, part, change):
    run(tmp_path)
    with pytest.raises(ValueError, match=f"holds another evaluation, which differs in {part}: .* Choose another"):
        run(tmp_path, **change)
    run(tmp_path)


@pytest.mark.parametrize("part", ["models", "attacks"])
def test_another_order_is_another_evaluation(tmp_path, part):
    """Chunks are named by place: what was found for one must not be given out as the other's."""
    others = {"models": {"n": from_function(linear, linear_weights(1))}, "attacks": {"weak": fgs(0.0)}}
    run(tmp_path, **{part: BASE[part] | others[part]})
    with pytest.raises(ValueError, match=f"holds another evaluation, which differs in {part}: .* Choose another"):
        run(tmp_path, **{part: others[part] | BASE[part]})


def test_a_chunk_half_written_is_written_again(tmp_path):
    first = run(tmp_path)
    victim = sorted((tmp_path / "chunks").glob("*.npz"))[1]
    victim.rename(victim.with_name(victim.name + ".partial"))
    victim.with_name(victim.name + ".partial").write_bytes(b"half")
    assert run(tmp_path).to_json() == first.to_json()
    assert victim.exists()
