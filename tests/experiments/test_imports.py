"""Imports run one way, as CONTRIBUTING.md says. Read from the files; those for type checkers count too."""

import ast
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAPERS = {path.parent.name for path in (ROOT / "experiments").glob("*/study.py")}
COMMANDS = {"advjax.__main__", "advjax.cli", "advjax.score_command", "advjax.train_command"}


def modules(root):
    """The paths of all modules by name, a package's under its own."""
    paths = [path.relative_to(root) for top in ("advjax", "experiments") for path in (root / top).rglob("*.py")]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): root / path for path in paths}


def nodes(tree, inside_functions):
    for node in ast.iter_child_nodes(tree):
        yield node
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from nodes(node, inside_functions)


def imports(root, *, inside_functions=True):
    """By module, which others of `advjax` and `experiments` it imports."""
    known, found = modules(root), {}
    for name, path in known.items():
        found[name] = set()
        for node in nodes(ast.parse(path.read_text()), inside_functions):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative imports are not followed"
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {each if each in known else node.module for each in whole}
        found[name] &= known.keys()
    return found


def circle(graph):
    """The modules of a circle; [] if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def parts(graph):
    """The same between the parts of `advjax`, and `experiments`: what `part` says of both ends."""
    found = {}
    for name, others in graph.items():
        found.setdefault(part(name), set()).update({part(other) for other in others} - {part(name)})
    return found


def part(name):
    """ "advjax.attacks" of "advjax.attacks.named"; "experiments" of all in it."""
    return "experiments" if name.startswith("experiments") else ".".join(name.split(".")[:2])


@pytest.fixture(scope="module")
def found():
    return imports(ROOT)


def test_there_is_no_circle(found):
    assert circle(imports(ROOT, inside_functions=False)) == []
    assert circle(parts(found)) == []


def test_nothing_in_the_library_imports_an_experiment_or_a_command(found):
    below = {name: others for name, others in found.items() if part(name) not in {"experiments", *COMMANDS}}
    assert len(below) > 50
    for name, others in below.items():
        assert not {other for other in others if part(other) in {"experiments", *COMMANDS}}, name


def test_no_paper_imports_another_and_what_they_share_imports_none(found):
    assert {"localized_training", "robust_optimization"} <= PAPERS
    for name, others in found.items():
        if name == "experiments.papers" or not name.startswith("experiments"):
            continue
        own = name.split(".")[1] if "." in name else ""
        papers = {other.split(".")[1] for other in others if other.startswith("experiments.")} & PAPERS
        assert papers <= {own}, name


def test_the_floors_are_those_of_contributing(found):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    floors = re.search(r"Imports run one way: (.*)\.\n", text)[1].split(" -> ")
    assert floors[0] == "experiments"
    height = {name: -number for number, names in enumerate(floors) for name in names.split(", ")}
    # The package itself gives the names of its attacks; what is no floor carries all of them, or is a command.
    height["advjax"], ground = height["attacks"], -len(floors)
    for name, others in parts(found).items():
        if name not in COMMANDS:
            own = height.get(name.removeprefix("advjax."), ground)
            for other in others:
                assert height.get(other.removeprefix("advjax."), ground) <= own, f"{name} imports {other}"


@pytest.mark.parametrize(
    ("importing", "expected"),
    [
        ("from advjax.b import thing", True),
        ("from advjax import b", True),
        ("import advjax.b", True),
        ("if TYPE_CHECKING:\n    from advjax.b import thing", True),
        ("try:\n    import advjax.b\nexcept ImportError:\n    pass", True),
        ("def later():\n    import advjax.b", False),
        ("import numpy", False),
    ],
)
def test_a_circle_is_found_however_it_is_written(importing, expected, tmp_path):
    for name, text in {"__init__": "", "a": importing, "b": "from advjax.a import other"}.items():
        (tmp_path / "advjax").mkdir(exist_ok=True)
        (tmp_path / "advjax" / f"{name}.py").write_text(text)
    assert bool(circle(imports(tmp_path, inside_functions=False))) == expected
