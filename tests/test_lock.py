"""The lock of a folder: one process at a time, free when its holder is gone, and it says who holds it."""

import dataclasses
import errno
import gc
import os
import signal
import subprocess
import sys

import pytest

from advjax.evaluate.store import open_chunks
from advjax.lock import FolderInUseError, FolderLock
from experiments.store import open_store

HOLD = """
import sys, time
from advjax.lock import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    job = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "held\n"
    yield job
    job.kill()
    job.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, other):
    with pytest.raises(FolderInUseError, match=rf"{tmp_path} is in use by process {other.pid} on \S+ since 20\d\d-"):
        FolderLock(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with FolderLock(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


def in_use(folder):
    """Whether another process finds the folder in use."""
    program = "import sys; from advjax.lock import FolderLock; FolderLock(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "FolderInUseError" in done.stderr
    return done.returncode != 0


def test_the_same_process_enters_again_and_the_last_one_out_frees_the_folder(tmp_path):
    first = FolderLock(tmp_path)
    with FolderLock(os.path.relpath(tmp_path)):
        first.release()
        first.release()  # once counts
        assert in_use(tmp_path)
    dropped = FolderLock(tmp_path)
    del dropped
    gc.collect()
    assert not in_use(tmp_path)


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0


@pytest.mark.parametrize(
    "open_it", [lambda folder: open_store(folder, Config()), lambda folder: open_chunks(folder, {})]
)
def test_stores_hold_their_folder_as_long_as_they_live(tmp_path, other, open_it):
    with pytest.raises(FolderInUseError, match=f"process {other.pid}"):
        open_it(tmp_path)
    other.kill()
    other.wait()
    store, again = open_it(tmp_path), open_it(tmp_path)
    assert os.getpid() == int((tmp_path / "lock").read_text().split()[1])
    assert store.lock is not again.lock


def test_where_there_are_no_locks_one_warning_says_so(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match=r"cannot be locked \(.*No locks available\): nothing keeps a second run out"):
        FolderLock(tmp_path).release()
