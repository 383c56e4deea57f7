"""The list of mutations fits the code, and its runner tells a caught one from one that survives."""

import shutil
import subprocess

import pytest

from tests.mutations.run import ROOT, check, main, read

MUTATIONS = read(ROOT / "tests" / "mutations", [])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.area}: {mutation.name}")
def test_every_mutation_fits_the_code_as_it_is(mutation):
    assert check(mutation, ROOT) == ""
    assert "\n" not in mutation.name


def test_the_three_experiments_have_mutations():
    files = [mutation.file for mutation in MUTATIONS if mutation.area == "experiments"]
    for name in ("hard_positives", "robust_optimization", "localized_training"):
        assert any(name in file for file in files)
    assert len(files) >= 8


@pytest.fixture
def project(tmp_path):
    """A checkout of one function and a test that knows one of its two promises."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    (tmp_path / "tests" / "mutations").mkdir(parents=True)
    (tmp_path / "code.py").write_text("def halves(x):\n    assert x >= 0\n    return x / 2\n")
    (tmp_path / "tests" / "test_code.py").write_text(
        "from code import halves\n\ndef test_halves():\n    assert halves(4) == 2\n\ndef test_nothing():\n    pass\n"
    )
    return tmp_path


def listed(project, *mutations):
    blocks = []
    for changes in mutations:
        entry = {
            "name": "a mistake",
            "file": "code.py",
            "old": "x / 2",
            "new": "x / 3",
            "test": "test_halves",
            **changes,
        }
        lines = [f"{key} = '''{entry[key]}'''" for key in ("name", "file", "old", "new")]
        blocks += ["[[mutation]]", *lines, f"tests = ['tests/test_code.py::{entry['test']}']"]
    (project / "tests" / "mutations" / "area.toml").write_text("\n".join(blocks))
    for arguments in (["init"], ["add", "-A"]):
        subprocess.run(["git", *arguments], cwd=project, check=True, capture_output=True)
    return project


def test_the_runner_tells_what_became_of_each_mutation(project, capsys):
    before = (project / "code.py").read_text()
    survives = {"old": "x >= 0", "new": "x >= 1"}
    assert main([], listed(project, {}, survives, {"old": "x"}, {"new": "x /"})) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in lines if " s  area: a mistake" in line]
    assert rows == ["caught", "SURVIVED", "ERROR", "ERROR"]
    assert "         the old text must occur once in code.py, it occurs 3 times" in lines
    assert "         pytest could not run the tests:" in lines
    assert lines[-1] == "1 of 4 caught"
    assert (project / "code.py").read_text() == before
    assert main([], listed(project, {})) == 0


def test_tests_that_fail_anyway_prove_nothing(project, capsys):
    (project / "code.py").write_text("def halves(x):\n    return x / 2 + 1\n")
    assert main([], listed(project, {})) == 1
    assert "error: the tests do not pass as they are" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "other.py"}, "there is no file other.py"),
        ({"new": "x / 2"}, "the new text is the old one"),
        ({"test": "test_missing"}, "there is no test tests/test_code.py::test_missing"),
    ],
)
def test_an_entry_that_fits_nothing_is_found(changes, message, project):
    (mutation,) = read(listed(project, changes) / "tests" / "mutations", [])
    assert check(mutation, project) == message


def test_an_area_without_a_file_is_refused(project, capsys):
    assert main(["nowhere"], listed(project, {})) == 1
    assert "area must be one of area, got nowhere" in capsys.readouterr().out
