"""A study of two numbers, for the tests of what all studies share."""

import dataclasses
from typing import Literal

import numpy as np

from advjax.classifier import from_function
from experiments.config import Settings, presets, setting
from experiments.page import Page
from experiments.study import Loaded, Row, Stage, Study

__all__ = ["PRESETS", "STUDY", "Config"]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run."""

    data: Literal["digits"] = setting("digits", "where the number comes from.")


PRESETS = presets(Config, {"quick": "", "paper": "seed=1"})


def stages(config, data, store):
    """A draw; then, made of what it left, its double."""
    yield Stage("drawn", lambda: {"number": np.random.default_rng(config.seed).random(2)})
    drawn = store.read("drawn", "number")["number"]
    yield Stage("doubled/all", lambda: {"number": 2 * drawn + data})


def page(config, data, read):
    """What there is to say."""
    summary = [f"{number:.3f}" for number in read("doubled/all")["number"]]
    return Page("| the table |", {"seed": "0"}, {"seed": "1"}, ["Holds: a claim."], summary, {"More": "a"})


def rows(config, data, read):
    """Both numbers."""
    numbers = read("doubled/all")["number"]
    return [Row("tiny", "digits/test", "base", k, "", None, "number", 0, value) for k, value in enumerate(numbers)]


STUDY = Study(
    name="tiny",
    title="A study",
    doc="Two numbers.\n\n  --preset quick   # a moment\n  --preset paper   # another: moment\n",
    presets=PRESETS,
    load=lambda config, data_dir: Loaded(config, np.float64(data_dir or 0), "two numbers"),
    stages=stages,
    classifiers=lambda config, data, read: {"base": from_function(lambda w, x: x * w, read("drawn")["number"])},
    rows=rows,
    page=page,
    figures=lambda config, data, read: {},
)
