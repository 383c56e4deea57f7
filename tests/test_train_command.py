"""`advjax train`: trains, goes on after a stop, and says in one line what is wrong."""

import re

import numpy as np
import pytest

from advjax.cli import main

SMALL = ["train", "--data", "digits", "--steps", "20", "--every", "10", "--batch-size", "16", "--validation", "300"]


def test_it_trains_goes_on_and_prints_the_test_accuracy(tmp_path, capsys):
    command = [*SMALL, "--folder", str(tmp_path), "--attack", "linf", "--epsilon", "0.05", "--seeds", "2"]
    main(command)
    first = capsys.readouterr().out
    accuracies = [
        float(number) for number in re.findall(r"network \d, best \(step \d+\): test accuracy ([\d.]+) %", first)
    ]
    assert len(accuracies) == 2
    assert np.all(np.array(accuracies) > 10)
    main(command)
    assert capsys.readouterr().out == first
    main([*command, "--steps", "30"])
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--optimizer", "sdg"], "optimizer must be one of sgd, adam"),
        (["--optimizer", "adam", "--momentum", "0.9"], "does not take these options"),
        (["--model", "resnet50"], "--model must be one of lenet"),
        (["--validation", "100000"], "--validation must be in"),
        (["--attack", "pgd", "--epsilon", "-1"], "epsilon must not be negative"),
        (["--attack", "pgd", "--attack-steps", "0"], "--attack-steps must be at least 1"),
        (["--every", "0"], "--every must be at least 1"),
        (["--data", "mnist", "--data-dir", "nowhere"], "mnist' is not there"),
        (["--processes", "2"], "give all of coordinator_address"),
        (["--networks-over", "3"], "networks must divide"),
    ],
)
def test_a_bad_argument_ends_it_with_one_line(tmp_path, capsys, change, message):
    with pytest.raises(SystemExit) as ended:
        main([*SMALL, "--folder", str(tmp_path / "run"), *change])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "run").exists()


def test_another_configuration_in_the_folder_is_refused(tmp_path, capsys):
    main([*SMALL, "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        main([*SMALL, "--folder", str(tmp_path), "--learning-rate", "0.5"])
    assert "config.learning_rate: 0.01 -> 0.5" in capsys.readouterr().err
