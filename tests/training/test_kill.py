"""A training that is killed with SIGKILL again and again ends with the bits of one that is left alone."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(folder, cache):
    environment = {**os.environ, "KILL_JOB_CACHE": str(cache), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.kill_job", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    assert job.stdout.readline().strip() == "ready", job.communicate()[1]
    return job


def result(job):
    out, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    return out.split()[-1]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, kills):
    cache = tmp_path / "cache"
    result(start(tmp_path / "compiled", cache))
    job, begun = start(tmp_path / "alone", cache), time.monotonic()
    expected = result(job)
    whole = time.monotonic() - begun
    draw, runs, hits, writes = random.Random(kills), 0, 0, 0
    while hits < kills:
        folder = tmp_path / f"run-{runs}"
        job = start(folder, cache)
        # Any moment of the run: while its program loads, in a step, in a write.
        time.sleep(draw.uniform(0, whole))
        if job.poll() is not None:
            # It came to its end before this kill. The kills go on with a new run.
            assert result(job) == expected
            runs += 1
            continue
        job.kill()
        job.communicate()
        hits += 1
        writes += (folder / "checkpoints" / "unfinished" / "new").exists()
    assert result(start(tmp_path / f"run-{runs}", cache)) == expected
    # Of twenty kills some come in the middle of a write.
    assert writes or kills < 20
