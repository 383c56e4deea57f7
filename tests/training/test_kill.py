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
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(job):
    out, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    return out.split()[-1]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, kills):
    cache = tmp_path / "cache"
    begun = time.monotonic()
    job = start(tmp_path / "alone", cache)
    job.stdout.readline()
    ready = time.monotonic()
    expected = result(job)
    whole = time.monotonic() - ready
    assert ready > begun
    draw, done, hits = random.Random(kills), 0, []
    while done < kills:
        job = start(tmp_path / "killed", cache)
        job.stdout.readline()
        # Any moment of the run: while the first program loads, in a step, in a write.
        time.sleep(draw.uniform(0, whole))
        if job.poll() is not None:
            # It came to its end before this kill: the run starts over from nothing, the kills go on.
            assert result(job) == expected
            (tmp_path / "killed").rename(tmp_path / f"finished-{done}")
            continue
        job.kill()
        job.communicate()
        done += 1
        newest = sorted((tmp_path / "killed" / "checkpoints").glob("*"), key=lambda path: path.name)
        hits.append([path.name for path in newest][-2:])
    assert result(start(tmp_path / "killed", cache)) == expected, hits
