"""Settings of every kind, what is refused and by which name, and what `--help` says of each field."""

import dataclasses
import inspect
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import Settings, explained, presets, setting, with_settings
from experiments.papers import STUDIES

WORDS = st.text("abcxyz019=.- ", max_size=6)
REAL = st.floats(0, allow_infinity=False)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One of each kind."""

    preset: str = "tiny"
    steps: int = setting(1, "of training, in all: not half of them.")
    least: int = setting(0, "of training.", least=0)
    rate: float = setting(0.5, "of learning.")
    shuffle: bool = setting(False, "or not.")
    mode: Literal["eval", "train"] = setting("eval", "of the network.")
    neighbors: Literal[4, 8] = setting(8, "of a pixel.")
    name: str = setting("", "of the run.")
    norms: tuple[str, ...] = setting(("l2",), "of the attacks.", among=["l1", "l2", "linf"])
    radii: tuple[float, ...] = setting((), "of the norms.")


@given(
    st.builds(
        Config,
        steps=st.integers(1, 10**9),
        least=st.integers(0, 9),
        rate=REAL,
        shuffle=st.booleans(),
        mode=st.sampled_from(["eval", "train"]),
        neighbors=st.sampled_from([4, 8]),
        name=WORDS,
        norms=st.lists(st.sampled_from(["l1", "l2", "linf"])).map(tuple),
        radii=st.lists(REAL).map(tuple),
    )
)
def test_a_configuration_is_made_again_from_the_texts_that_help_shows(config):
    shown = [text.partition(" (")[0] for text in explained(config).splitlines()]
    assert with_settings(Config(), shown) == config


def test_settings_are_read_as_people_write_them():
    config = with_settings(Config(), ["steps=1_000", "rate=1e-3", "shuffle=True", "norms=", "radii=1,2.5"])
    assert config == Config(steps=1000, rate=1e-3, shuffle=True, norms=(), radii=(1.0, 2.5))
    assert with_settings(Config(), ["steps=2", "steps=3"]).steps == 3  # the last one, as on any command line
    assert with_settings(Config(), []) == Config()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "--set must be field=value with a field of seed, steps, least, rate, .*; got 'steps'"),
        ("speed=1", "--set must be field=value with a field of .*; got 'speed=1'"),
        ("preset=quick", "--set must be field=value with a field of seed, steps, .*; got 'preset=quick'"),
        ("steps=1.5", "steps must be int, got '1.5'"),
        ("steps=", "steps must be int, got ''"),
        ("steps=0", "steps must be at least 1, got 0"),
        ("least=-1", "least must be at least 0, got -1"),
        ("rate=fast", "rate must be float, got 'fast'"),
        ("shuffle=yes", "shuffle must be true or false, got 'yes'"),
        ("mode=both", r"mode must be among \('eval', 'train'\), got 'both'"),
        ("neighbors=6", r"neighbors must be among \(4, 8\), got '6'"),
        ("radii=1,wide", "radii must be float, got 'wide'"),
        ("rate=nan", "rate must be finite, got nan"),
        ("rate=-inf", "rate must be finite, got -inf"),
        ("rate=-1e-9", "rate must be at least 0, got -1e-09"),
        ("radii=1,-2", r"radii must be at least 0, got \(1.0, -2.0\)"),
        ("norms=l1,l3", r"norms must be among \('l1', 'l2', 'linf'\), got \('l1', 'l3'\)"),
        ("radii=1,inf", r"radii must be finite, got \(1.0, inf\)"),
    ],
)
def test_a_setting_is_refused_by_its_name(setting, message):
    with pytest.raises(ValueError, match=message):
        with_settings(Config(), [setting])


def test_a_preset_is_its_name_and_what_its_text_changes():
    found = presets(Config, {"quick": "steps=2\n  name='two words'", "whole": ""})
    assert found == {"quick": Config("quick", steps=2, name="two words"), "whole": Config("whole")}
    with pytest.raises(ValueError, match="least must be at least 0, got -1"):
        presets(Config, {"quick": "least=-1"})


def test_help_says_value_kind_and_meaning_of_each_field():
    lines = explained(Config(norms=("l1", "linf"))).splitlines()
    assert lines[0] == "seed=0 (int): decides every draw of the run."
    assert lines[1] == "steps=1 (int): of training, in all: not half of them."
    assert "norms=l1,linf (strs between commas): of the attacks." in lines
    assert "neighbors=8 (4 or 8): of a pixel." in lines


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_field_of_every_study_is_explained_and_made_again(study):
    for config in study.presets.values():
        lines = explained(config).splitlines()
        fields = [field.name for field in dataclasses.fields(config) if field.name != "preset"]
        assert sorted(line.partition("=")[0] for line in lines) == sorted(fields)
        assert all(inspect.cleandoc(line.partition("): ")[2]).endswith(".") for line in lines)
        assert with_settings(config, [line.partition(" (")[0] for line in lines]) == config
