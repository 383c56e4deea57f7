"""How commands end: one line and a code for what their users can mend, at any moment of a Ctrl-C."""

import os
import signal
import subprocess
import sys

import pytest

import advjax
import experiments.command
from advjax.command import Ended, ExplainedError, command
from advjax.data import ExampleError
from advjax.lock import FolderInUseError
from advjax.training import CheckpointError, DataError, NonFiniteLossError, Preempted
from experiments.papers import STUDIES


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("steps must be\n  0 or more"), 2, "work: error: steps must be 0 or more"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "No such file or directory: 'a.png'"),
        (NonFiniteLossError("the loss of network 0 is nan at step 7"), 2, "error: the loss of network 0 is nan"),
        (CheckpointError("disk full"), 2, "work: error: disk full"),
        (ExplainedError(), 2, "work: error: ExplainedError()"),
        (KeyboardInterrupt(), 130, "work: interrupted: the rows so far are in a.csv"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(capsys, error, code, line):
    with pytest.raises(Ended) as ended, command("work", interrupted="the rows so far are in a.csv"):
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert line in said
    assert said.count("\n") == 1
    assert str(ended.value) == said.strip()


def test_notes_belong_to_the_line():
    error = CheckpointError("no space left")
    error.add_note("the checkpoint of step 4 was not written either")
    with pytest.raises(Ended, match="no space left; the checkpoint of step 4"), command("work"):
        raise error


def test_a_stopped_training_keeps_its_code_and_a_mistake_its_traceback():
    with pytest.raises(Preempted) as ended, command("work"):
        raise Preempted("stopped by SIGTERM at step 4 of 8")
    assert ended.value.code == 0
    with pytest.raises(KeyError), command("work"):
        raise KeyError("a mistake of the program")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NonFiniteLossError("the loss of network 0 is nan"), 2, "error: the loss of network 0 is nan"),
        (CheckpointError("all checkpoints in runs are damaged"), 2, "error: all checkpoints in runs are damaged"),
        (DataError("4 of 4 images leave [0, 1]"), 2, "error: 4 of 4 images leave [0, 1]"),
        (ExampleError("example 3 of cifar10 could not be read"), 2, "error: example 3 of cifar10 could not be read"),
        (FolderInUseError("the folder x is in use"), 2, "error: the folder x is in use"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: the finished stages are in x, and the same command goes on from there",
        ),
        (Preempted("stopped by SIGTERM at step 4 of 8"), 0, ""),
    ],
)
def test_an_experiment_ends_in_one_line_too(error, code, line, monkeypatch, capsys):
    def run(*_):
        raise error

    monkeypatch.setattr(experiments.command, "run", run)
    with pytest.raises(SystemExit) as ended:
        experiments.command.main(STUDIES, ["localized_training", "--preset", "quick", "--out", "x"])
    assert ended.value.code == code
    # A Preempted was told of by who raised it.
    assert capsys.readouterr().err == (f"python -m experiments localized_training: {line}\n" if line else "")


def start(*arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], **pipes, **options)


def test_whoever_reads_the_output_may_leave():
    program = "from advjax.command import command\nwith command('work'):\n    print('row\\n' * 100000)"
    with start("-c", program) as job:
        job.stdout.close()
        assert job.stderr.read() == ""
    assert job.returncode == 141


def test_a_pipe_that_is_not_the_output_is_an_error(capsys):
    with pytest.raises(Ended, match="error: peer left"), command("work"):
        raise BrokenPipeError("peer left")


def test_version_and_help_do_not_wait_for_jax():
    program = (
        "import sys, runpy\ntry: runpy.run_module('advjax', run_name='__main__')\nfinally: print('jax' in sys.modules)"
    )
    with start("-c", program, "--version") as job:
        out, errors = job.communicate(timeout=60)
    assert out == f"advjax {advjax.__version__}\nFalse\n", errors


# On the way to the first step. Before NumPy is imported there is nothing to catch the signal with.
MARKS = ["numpy._core", "jax._src.core", "sklearn.utils", pytest.param("jit(<lambda>)", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mark", MARKS)
def test_ctrl_c_while_it_imports_and_compiles_ends_it_in_one_line(tmp_path, mark):
    arguments = ("train", "--folder", str(tmp_path / "run"), "--steps", "200000", "--every", "100000")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_LOG_COMPILES": "1"}
    with start("-X", "importtime", "-m", "advjax", *arguments, env=environment) as job:
        for line in job.stderr:
            if mark in line:
                break
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=300)
    assert job.returncode == 130, errors[-2000:]
    lines = errors.splitlines()
    assert sum(line.startswith("advjax: interrupted") for line in lines) == 1
    assert not any(word in errors for word in ("Traceback", "KeyboardInterrupt", "Error"))
