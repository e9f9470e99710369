"""What README.md shows works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "README.md"


def test_the_lines_of_python_run(
    small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, object] = {}
    exec(example.replace("cache/dtd.zarr", str(small_cache)), found)
    values, record = capsys.readouterr().out.strip().splitlines()
    assert len(eval(values)) == 2
    assert record.startswith("{'dataset': 'shapes-small'")
    assert type(found["adapter"]).__name__ == "MultiModalAdapter"


def test_the_commands_that_continuous_integration_runs_are_two() -> None:
    commands = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "mma demo" in commands[0]
    assert "python -m pytest" in commands[1]
