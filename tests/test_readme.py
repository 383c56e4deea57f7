"""The code in the README runs, in order, in one scope."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_code_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:5] == ["8 of 8 succeeded", "(8,)", "(9, 8, 28, 28, 1)", "(1, 2)", "(8, 28, 28, 1)"]
    assert shown[5].startswith("| model | attack | accuracy")
    assert any(line.startswith("| lenet | worst of all | 0.00 [") for line in shown)
    assert (tmp_path / "runs" / "robust" / "metrics.csv").exists()
