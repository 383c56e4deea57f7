"""`make mutate`: breaks the code on purpose, one mistake at a time, and sees that a test fails.

Each `*.toml` beside this file lists the mistakes of one area:

    [[mutation]]
    name = "one line: the mistake"
    file = "advjax/attacks/attack.py"
    old = '''exact text, occurring once'''
    new = '''the mistake'''
    tests = ["tests/attacks/test_x.py::test_y"]     # fast ones, of which at least one must fail

The tracked files are copied into a temporary folder and broken there. `python tests/mutations/run.py [AREA ...]` ends
with status 1 if a mistake goes unnoticed, or if the tests fail without one.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

__all__ = ["Mutation", "check", "main", "mutated", "read"]

ROOT = pathlib.Path(__file__).parents[2]
_LIMIT = 1800  # seconds for the tests of one mutation
_PASSED, _FAILED = 0, 1  # pytest's exit statuses; all others mean that it could not run the tests


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One mistake: `old` becomes `new` in `file`, and one of `tests` must fail."""

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read(folder: pathlib.Path, areas: list[str]) -> list[Mutation]:
    """The mutations of the areas in a folder; of all, if none is named.

    Raises:
        ValueError: an area that has no file, or an entry that is not as described above.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    unknown = sorted(set(areas) - set(files))
    if unknown:
        raise ValueError(f"area must be one of {', '.join(files)}, got {', '.join(unknown)}")
    return [mutation for area in areas or files for mutation in _of_file(area, files[area])]


def _of_file(area: str, path: pathlib.Path) -> list[Mutation]:
    found = []
    for entry in tomllib.loads(path.read_text())["mutation"]:
        if set(entry) != {"name", "file", "old", "new", "tests"} or not entry["tests"]:
            raise ValueError(f"{path.name}: a mutation has name, file, old, new and tests, got {entry}")
        found.append(Mutation(area, **{**entry, "tests": tuple(entry["tests"])}))
    return found


def check(mutation: Mutation, root: pathlib.Path) -> str:
    """What is wrong with an entry; "" if nothing is."""
    path = root / mutation.file
    if not path.exists():
        return f"there is no file {mutation.file}"
    count = path.read_text().count(mutation.old)
    if count != 1:
        return f"the old text must occur once in {mutation.file}, it occurs {count} times"
    if mutation.old == mutation.new:
        return "the new text is the old one"
    return next((f"there is no test {test}" for test in mutation.tests if not _is_there(test, root)), "")


def _is_there(test: str, root: pathlib.Path) -> bool:
    file, _, name = test.partition("::")
    path = root / file
    return path.exists() and (not name or f"def {name.split('[')[0].split('::')[-1]}(" in path.read_text())


def mutated(mutation: Mutation, root: pathlib.Path) -> str:
    """Breaks the copy in `root`, runs the tests, mends it; "caught", "SURVIVED", or what went wrong."""
    problem = check(mutation, root)
    if problem:
        return f"ERROR: {problem}"
    path = root / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        status, output = _pytest(root, mutation.tests, "-x")
    finally:
        path.write_text(text)
    if status == _PASSED:
        return "SURVIVED"
    return "caught" if status == _FAILED else f"ERROR: pytest could not run the tests:\n{output}"


def _pytest(root: pathlib.Path, tests: tuple[str, ...], *options: str) -> tuple[int, str]:
    # The copy's modules, not those of an installed package; and none compiled before a change.
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # to import them takes longer than many a test
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=_LIMIT
        )
    except subprocess.TimeoutExpired:
        return -1, f"they ran past {_LIMIT} s"
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-30:])


def _copy(root: pathlib.Path, target: pathlib.Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, copy = root / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def main(areas: list[str], root: pathlib.Path = ROOT) -> int:
    """Runs the mutations, prints a table, and returns the exit status."""
    try:
        mutations = read(root / "tests" / "mutations", areas)
    except (ValueError, KeyError, tomllib.TOMLDecodeError) as error:
        print(f"error: {error}")
        return 1
    with tempfile.TemporaryDirectory(prefix="advjax-mutate-") as folder:
        copy = pathlib.Path(folder).resolve()
        _copy(root, copy)
        tests = tuple(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
        print(f"{len(mutations)} mutations, {len(tests)} tests; first without any mutation ...", flush=True)
        status, output = _pytest(copy, tests)
        if status != _PASSED:
            print(f"error: the tests do not pass as they are\n{output}")
            return 1
        results = []
        for mutation in mutations:
            start = time.perf_counter()
            results.append(mutated(mutation, copy))
            seconds = time.perf_counter() - start
            word, _, why = results[-1].partition(": ")
            print(f"{word:8} {seconds:6.1f} s  {mutation.area}: {mutation.name}", flush=True)
            if why:
                print(f"         {why}")
    caught = results.count("caught")
    print(f"{caught} of {len(results)} caught")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
