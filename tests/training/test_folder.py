"""A training in a folder: it goes on to the same bits, stops at signals, is held by one run and refuses another."""

import csv
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from advjax.lock import FolderInUseError
from advjax.training import (
    CheckpointError,
    Checkpoints,
    Preempted,
    Resident,
    Score,
    Trainer,
    ensemble,
    train_step,
)
from advjax.training import keeper as keeper_module
from advjax.training import run as run_module
from tests.training.nets import OPTIMIZER, TRAINER, Small, equal, states, toy_set


@pytest.fixture
def data():
    return toy_set()


def test_a_run_goes_on_where_it_was_saved_and_logs_each_row_once(data, tmp_path):
    trainer = TRAINER
    key = jax.random.key(0)
    whole = trainer.fit(states(2), data, 24, key)
    for steps in (8, 24, 24):
        fitted = trainer.fit(states(2), data, steps, key, folder=tmp_path, every=8, config={"name": "toy"})
        equal(fitted.states.step, np.full(2, steps, np.int32))
    equal(whole.states, fitted.states)
    assert fitted.history.rows == whole.history.rows
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [(int(row["step"]), int(row["network"])) for row in rows] == [
        (s, n) for s in range(4, 25, 4) for n in (0, 1)
    ]
    assert float(rows[-1]["loss"]) == whole.history.rows[-1]["loss"][1]


def test_another_training_in_the_folder_is_refused_and_kept(data, tmp_path):
    trainer, key = TRAINER, jax.random.key(0)
    first = trainer.fit(states(1), data, 4, key, folder=tmp_path, config={"rate": 0.05})
    with pytest.raises(ValueError, match=r"another training \(config.rate: 0.05 -> 0.1\)"):
        trainer.fit(states(1), data, 8, key, folder=tmp_path, config={"rate": 0.1})
    with pytest.raises(ValueError, match="key"):
        trainer.fit(states(1), data, 8, jax.random.key(1), folder=tmp_path, config={"rate": 0.05})
    other = Resident(data.images, data.labels[::-1].copy())
    with pytest.raises(ValueError, match="labels"):
        trainer.fit(states(1), other, 8, key, folder=tmp_path, config={"rate": 0.05})
    again = trainer.fit(states(1), data, 4, key, folder=tmp_path, config={"rate": 0.05})
    equal(first.states, again.states)


def test_another_network_or_optimizer_in_the_folder_is_refused(data, tmp_path):
    trainer, key = TRAINER, jax.random.key(0)
    trainer.fit(states(1), data, 4, key, folder=tmp_path)
    adam = optax.adam(0.1)
    with pytest.raises(ValueError, match="opt_state"):
        Trainer(train_step(adam), batch_size=8, block=4).fit(ensemble(Small, adam, 1), data, 8, key, folder=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_prints_how_to_go_on_and_exits_with_zero(data, tmp_path, capsys, number):
    sent = []

    class Sends:
        """Order and all else of the data; raises the signal when the third block is asked for."""

        def order(self, keys, start, steps, batch_size):
            if start == 8 and not sent:
                sent.append(os.kill(os.getpid(), number))
            return Resident.order(interrupting, keys, start, steps, batch_size)

    interrupting = Resident(data.images, data.labels)
    object.__setattr__(interrupting, "order", Sends().order)
    trainer, key = TRAINER, jax.random.key(0)
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as stopped:
        trainer.fit(states(1), interrupting, 20, key, folder=tmp_path)
    assert stopped.value.code == 0
    assert f"stopped by {signal.Signals(number).name} at step 12 of 20" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    whole = trainer.fit(states(1), data, 20, key)
    equal(whole.states, trainer.fit(states(1), data, 20, key, folder=tmp_path).states)


def signalling(data, at, number=signal.SIGTERM):
    """The data; asking for the block that begins at step `at` raises SIGTERM, or another signal."""

    def order(keys, start, steps, batch_size):
        if start == at:
            signal.raise_signal(number)
        return data.order(keys, start, steps, batch_size)

    result = Resident(data.images, data.labels)
    object.__setattr__(result, "order", order)
    return result


def test_a_signal_before_the_first_step_saves_the_start(data, tmp_path, monkeypatch):
    trainer, key = TRAINER, jax.random.key(0)
    options = {"folder": tmp_path, "every": 4, "validation": (data.images, data.labels)}
    with monkeypatch.context() as patch:
        begin = keeper_module.Keeper.open_log

        def open_log(self, history):
            begin(self, history)
            signal.raise_signal(signal.SIGTERM)

        patch.setattr(keeper_module.Keeper, "open_log", open_log)
        with pytest.raises(Preempted, match="at step 0 of 8"):
            trainer.fit(states(1), data, 8, key, **options)
    whole = trainer.fit(states(1), data, 8, key, every=4, validation=options["validation"])
    fitted = trainer.fit(states(1), data, 8, key, **options)
    equal(whole.states, fitted.states)
    assert whole.history.rows == fitted.history.rows


def test_ctrl_c_before_the_first_block_is_compiled_loses_no_step_and_keeps_what_was_saved(data, tmp_path):
    trainer, key = TRAINER, jax.random.key(0)
    for start, steps in ((0, 8), (4, 8)):
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(states(1), signalling(data, start, signal.SIGINT), steps, key, folder=tmp_path)
        assert Checkpoints(tmp_path / "checkpoints").steps() == [4][:start]
        trainer.fit(states(1), data, steps - 4, key, folder=tmp_path)
        trainer.fit(states(1), data, steps - 4, key, folder=tmp_path)


def test_a_signal_in_the_last_block_ends_the_program_too(data, tmp_path):
    trainer, key = TRAINER, jax.random.key(0)
    with pytest.raises(Preempted, match="stopped by SIGTERM at step 8 of 8"):
        trainer.fit(states(1), signalling(data, 4), 8, key, folder=tmp_path)
    equal(trainer.fit(states(1), data, 8, key).states, trainer.fit(states(1), data, 8, key, folder=tmp_path).states)


def test_a_finished_training_that_goes_on_validates_when_the_longer_one_does(data, tmp_path):
    """Its first end, 14, is no multiple of the block or of `every`."""
    trainer, key = TRAINER, jax.random.key(0)
    options = {"every": 8, "validation": (data.images, data.labels)}
    whole = trainer.fit(states(2), data, 32, key, **options)
    trainer.fit(states(2), data, 14, key, folder=tmp_path, **options)
    fitted = trainer.fit(states(2), data, 32, key, folder=tmp_path, **options)
    equal(whole.states, fitted.states)
    rows = {row["step"]: row for row in fitted.history.rows}
    assert [step for step, row in rows.items() if "validation_loss" in row] == [8, 14, 16, 24, 32]
    assert all(rows[row["step"]] == row for row in whole.history.rows if row["step"] != 16)
    with pytest.raises(ValueError, match="newest checkpoint, of step 32, got an end at step 24"):
        trainer.fit(states(2), data, 24, key, folder=tmp_path, **options)


def test_best_states_that_are_lost_do_not_stop_the_training(data, tmp_path):
    trainer, key = TRAINER, jax.random.key(0)
    options = {"folder": tmp_path, "every": 8, "validation": (data.images, data.labels)}
    trainer.fit(states(1), data, 8, key, **options)
    # Three checkpoints that signals asked for have no score.
    for at in (8, 16, 20):
        with pytest.raises(Preempted):
            trainer.fit(states(1), signalling(data, at), 40, key, **{**options, "every": 40})
    (best,) = (tmp_path / "checkpoints").glob("*-step-8")
    (best / "record.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"best states so far are lost.*step-8: record.json does not match"):
        fitted = trainer.fit(states(1), data, 40, key, **{**options, "every": 40})
    equal(fitted.best.step, np.full(1, 40, np.int32))
    equal(fitted.states, trainer.fit(states(1), data, 40, key).states)


def test_equal_scores_in_another_order_are_equal(data, tmp_path, monkeypatch):
    """The mean over networks in float32 depends on their order; the best checkpoint must be that of the history."""
    scores = iter([[0.1, 0.2, 0.6, 0.7], [0.7, 0.6, 0.2, 0.1], [0.6, 0.1, 0.7, 0.2]] * 2)
    zeros = np.zeros(4, np.float32)
    monkeypatch.setattr(run_module, "measure", lambda *_, **__: Score(zeros, np.array(next(scores), np.float32)))
    trainer = TRAINER
    trainer.fit(states(4), data, 12, jax.random.key(0), folder=tmp_path, every=4, validation=(data.images, data.labels))
    assert Checkpoints(tmp_path / "checkpoints").best_step() == 4


def test_an_unwritable_folder_is_named_before_training(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made or written"):
        TRAINER.fit(states(1), data, 4, jax.random.key(0), folder=tmp_path / "file" / "run")


def test_a_folder_in_which_another_run_trains_is_refused_and_left_alone(data, tmp_path):
    program = (
        "import sys, time; from advjax.lock import FolderLock; lock = FolderLock(sys.argv[1]); print(1, flush=True)"
    )
    command = [sys.executable, "-c", program + "; sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        job.stdout.readline()
        with pytest.raises(FolderInUseError, match=rf"in use by process {job.pid} on"):
            TRAINER.fit(states(1), data, 4, jax.random.key(0), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    TRAINER.fit(states(1), data, 4, jax.random.key(0), folder=tmp_path)


def test_config_must_be_json(data, tmp_path):
    with pytest.raises(TypeError, match="config must be a mapping of JSON values"):
        TRAINER.fit(states(1), data, 4, jax.random.key(0), folder=tmp_path, config={"optimizer": OPTIMIZER})
