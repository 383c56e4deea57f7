"""`python -m experiments`: what it lists, explains and refuses, and how a run whose minutes are over goes on."""

import contextlib
import dataclasses
import itertools
import json
import re
import runpy
import signal
import sys
import time

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.training import Resident, Trainer, keeper, train_step
from experiments.command import main
from experiments.networks import train
from experiments.page import Page
from experiments.papers import STUDIES
from experiments.study import Stage
from tests.experiments.studies import STUDY

TINY = {"tiny": STUDY}


def ended(arguments, studies=TINY):
    with pytest.raises(SystemExit) as found:
        main(studies, arguments)
    return found.value.code


def test_a_run_prints_its_summary_and_goes_where_it_was_told(tmp_path, capsys, monkeypatch):
    main(TINY, ["tiny", "--out", str(tmp_path / "a"), "--data-dir", "5", "--set", "seed=3"])
    first = f"{2 * np.random.default_rng(3).random(2)[0] + 5:.3f}"
    assert capsys.readouterr().out.startswith(first)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["config"]["seed"] == 3
    monkeypatch.chdir(tmp_path)
    main(TINY, ["tiny", "--preset", "paper", "--set", "seed=2", "seed=4", "--set", "data=digits"])
    content = json.loads((tmp_path / "runs" / "tiny-paper" / "config.json").read_text())
    assert content["config"] == {"preset": "paper", "data": "digits", "seed": 4}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["tiny", "--set", "speed=1"], "--set must be field=value with a field of seed, data; got 'speed=1'"),
        (["tiny", "--set", "seed"], "--set must be field=value with a field of seed, data; got 'seed'"),
        (["tiny", "--set", "seed=-1"], "seed must be at least 0, got -1"),
        (["tiny", "--set", "data=mnist"], "data must be among ('digits',), got 'mnist'"),
        (["tiny", "--minutes", "0"], "minutes must be more than 0, got 0.0"),
    ],
)
def test_what_cannot_be_set_ends_in_one_line(arguments, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ended(arguments) == 2
    assert capsys.readouterr().err == f"python -m experiments tiny: error: {line}\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nobody"], "invalid choice: 'nobody' (choose from"),
        ([], "a PAPER is needed, one of tiny, or --list"),
        (["tiny", "--preset", "slow"], "argument --preset: invalid choice: 'slow'"),
        (["tiny", "--seed", "1"], "unrecognized arguments: --seed 1"),
    ],
)
def test_an_unknown_paper_or_option_is_refused(arguments, line, capsys):
    assert ended(arguments) == 2
    assert line in capsys.readouterr().err


def test_an_absent_data_set_ends_in_one_line(tmp_path, capsys):
    arguments = ["localized_training", "--preset", "cpu", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert ended(arguments, STUDIES) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m experiments localized_training: error: data set 'mnist' is not there")
    assert said.count("\n") == 1


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_help_explains_every_field_and_every_preset(study, capsys):
    assert ended([study.name, "--help"], STUDIES) == 0
    said = capsys.readouterr().out
    for field in dataclasses.fields(study.presets["paper"]):
        assert (f"\n{field.name}=" in said) == (field.name != "preset"), field.name
    joined = "".join(said.split())
    for preset, told in study.times.items():
        assert f"{preset}: {told}".replace(" ", "") in joined


def test_the_list_says_what_was_measured_last(capsys):
    main({**STUDIES, **TINY}, ["--list"])
    said = capsys.readouterr().out
    for study in STUDIES.values():
        assert f"{study.name}: {study.title}\n" in said
        for preset, told in study.times.items():
            assert f"  --preset {preset}: {told}\n" in said
        content = json.loads((study.results / "quick" / "config.json").read_text())
        assert f"measured {content['written'][:10]}, {content['seconds_in_all'] / 60:.1f} minutes on" in said
        assert f"      {content['summary'][0]}\n" in said
    assert said.endswith("  --preset paper: another: moment\n    not measured\n")


@pytest.mark.parametrize("name", STUDIES)
def test_the_old_module_of_a_paper_is_the_same_command(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--set", "nothing=1"])
    with pytest.raises(SystemExit, match=f"python -m experiments {name}: error: --set must be field=value"):
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["", name, "--set", "nothing=1"])
    with pytest.raises(SystemExit, match=f"python -m experiments {name}: error: --set must be field=value"):
        runpy.run_module("experiments", run_name="__main__")


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)]


def test_a_run_out_of_time_keeps_its_finished_stages_and_goes_on_to_the_same_result(tmp_path, capsys):
    """By the real timer: the second stage takes longer than there is."""
    main(TINY, ["tiny", "--out", str(tmp_path / "whole")])
    whole = capsys.readouterr().out.splitlines()[:2]
    seconds, before = [60], handlers()

    def patient():
        with contextlib.suppress(Exception):  # what handles errors does not handle this
            time.sleep(seconds[0])

    def stages(config, data, store):
        for name, compute in STUDY.stages(config, data, store):
            yield Stage(name, compute if name == "drawn" else lambda own=compute: patient() or own())

    arguments = ["tiny", "--out", str(tmp_path / "out"), "--minutes", "0.005"]
    slow = {"tiny": STUDY._replace(stages=stages)}
    assert ended(arguments, slow) == 75
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"0.005 minutes are over, in the middle of a stage, which begins anew. 1 stages are finished in "
        f"{tmp_path / 'out'}, the last is drawn; the same command goes on.\n"
    )
    assert handlers() == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    kept = (tmp_path / "out" / "stages" / "drawn.json").stat().st_mtime_ns
    seconds[0] = 0
    main(slow, [*arguments[:-1], "10"])
    assert capsys.readouterr().out.splitlines()[:2] == whole
    assert (tmp_path / "out" / "stages" / "drawn.json").stat().st_mtime_ns == kept
    assert handlers() == before


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, images):
        return self.dense(images.reshape(images.shape[0], -1))


def training_study():
    """Twelve steps of a linear network, two a block and a checkpoint."""
    images = np.random.default_rng(0).integers(0, 256, (16, 2, 2, 1)).astype(np.uint8)
    data, optimizer = Resident(images, (images.mean((1, 2, 3)) > 127).astype(np.int32)), optax.sgd(0.1)

    def stages(config, _, store):
        yield Stage("before", lambda: {"number": np.zeros(1)})
        told = Linear(nnx.Rngs(0)), data, 12, jax.random.key(0), store.checkpoints("base")
        trainer = Trainer(train_step(optimizer), batch_size=8, block=2)
        yield Stage("train/base", lambda: train(trainer, *told, every=2))

    empty = Page("", {}, {}, [], ["trained"], {})
    return STUDY._replace(stages=stages, rows=lambda *args: [], page=lambda *args: empty)


def trained(out):
    with np.load(out / "stages" / "train" / "base.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_a_training_out_of_time_stops_at_a_checkpoint_and_goes_on_to_the_same_weights(tmp_path, capsys, monkeypatch):
    """The timer's signal comes after the first block."""
    studies = {"tiny": training_study()}
    main(studies, ["tiny", "--out", str(tmp_path / "whole")])
    original, before = keeper.stop_requests, handlers()

    @contextlib.contextmanager
    def the_time_is_over_at_the_second_question():
        with original() as requested:
            asked = itertools.count()

            def answer():
                if next(asked) == 1:
                    signal.raise_signal(signal.SIGALRM)
                return requested()

            yield answer

    arguments = ["tiny", "--out", str(tmp_path / "out"), "--minutes", "10"]
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "stop_requests", the_time_is_over_at_the_second_question)
        assert ended(arguments, studies) == 75
    said = capsys.readouterr()
    assert not (tmp_path / "out" / "table.md").exists()
    last = said.err.splitlines()[-1]
    found = re.match(r"10 minutes are over, stopped by SIGTERM at step (\d+) of 12, saved in .*base: the same", last)
    assert found, said.err
    assert 0 < int(found[1]) < 12
    assert "1 stages are finished in" in last
    assert "the last is before" in last
    assert handlers() == before
    main(studies, arguments)
    whole = trained(tmp_path / "whole")
    assert len(whole["loss"]) == 6
    for name, values in trained(tmp_path / "out").items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


def test_a_training_that_is_stopped_without_minutes_ends_as_any_training(tmp_path, monkeypatch):
    """By a cluster's SIGTERM: code 0, and its own line."""
    original = keeper.stop_requests

    @contextlib.contextmanager
    def stopped_from_outside():
        with original() as requested:
            signal.raise_signal(signal.SIGTERM)
            yield requested

    monkeypatch.setattr(keeper, "stop_requests", stopped_from_outside)
    assert ended(["tiny", "--out", str(tmp_path)], {"tiny": training_study()}) == 0
