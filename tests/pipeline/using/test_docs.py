"""docs/use.md: every command of the page runs, in its order, on images that the project draws."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mma.pipeline.datasets.shapes import draw_form

from ...conftest import Run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "use.md"
CLASSES = ("red_circle", "blue_star", "green_square")


def drawn(folder: Path, each: int, seed: int) -> None:
    """PNGs of three classes, in folders of their names."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = draw_form(*name.split("_"), np.random.default_rng([seed, label, number]))
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def blocks() -> list[tuple[str, str]]:
    """Language and text of every code block, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_page_is_what_the_commands_do(mma_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(tmp_path / "photos", 40, 0)
    drawn(tmp_path / "new", 2, 1)
    (tmp_path / "new" / "broken.jpg").write_text("no image")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    commands = 0
    for language, text in blocks():
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for line in text.splitlines() if language == "sh" else ():
            if "mma " not in line:
                subprocess.run(line, shell=True, check=True, timeout=20)
                continue
            before, _, command = line.rpartition("| ")
            fed = subprocess.run(before, shell=True, capture_output=True, check=True, timeout=20).stdout
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(fed)))
            words = [part.strip("'") for part in re.findall(r"'[^']*'|\S+", command)]
            found = [str(m) for word in words[1:] for m in (sorted(Path().glob(word)) if "*" in word else [word])]
            done = mma_here(*found)
            assert done.returncode == 0, f"{line}: {done.stderr}"
            commands += 1
    assert commands >= 10
    assert (tmp_path / "answers.csv").read_text().count("\n") == 1 + 7
    assert "broken.jpg" in (tmp_path / "answers.csv").read_text()


@pytest.mark.slow
def test_the_page_names_every_option_of_both_commands() -> None:
    from mma.pipeline.options import fields_of
    from mma.pipeline.using.settings import ExportSettings, PredictSettings

    text = PAGE.read_text(encoding="utf-8")
    for field in (*fields_of(ExportSettings), *fields_of(PredictSettings)):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
