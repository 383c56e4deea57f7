"""The code in the README runs, in order, in one scope."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_code_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    assert capsys.readouterr().out.splitlines() == ["8 of 8 succeeded", "(8,)", "(9, 8, 28, 28, 1)"]
