"""The notebooks run from top to bottom."""

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "colab").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook, capsys):
    matplotlib.use("Agg")
    cells = json.loads(notebook.read_text())["cells"]
    # Without the cell that installs the library, whose %pip is no Python.
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][1:]
    scope: dict[str, object] = {}
    for source in code:
        exec(source, scope)
    assert "after" in capsys.readouterr().out
