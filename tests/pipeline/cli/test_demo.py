from __future__ import annotations

import re
from pathlib import Path

import pytest

from mma.cache import open_cache

from ...conftest import Run

README = Path(__file__).resolve().parents[3] / "README.md"


@pytest.mark.slow
def test_the_demo_embeds_fits_prints_its_table_and_says_what_to_type_next(mma_here: Run, tmp_path: Path) -> None:
    done = mma_here("demo", "--out", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for adapter in ("zero-shot", "linear-probe", "clip-adapter", "mma"):
        assert f"│ {adapter} " in done.stdout
    (shown,) = re.findall(r"```\n(shapes, .*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in shown.splitlines():
        if line[0] in "┏┡└" or (line[0] == "│" and "zero-shot" not in line):
            continue  # widths, and the last digits of what is trained, are of a machine
        parts = [part.strip() for part in re.split(r"[┃│]", line)]
        assert all(part in done.stdout for part in parts if not part.endswith(" s")), line
    assert "mma fit --cache demo/shapes.zarr" in done.stdout
    assert open_cache(tmp_path / "demo/shapes.zarr").complete
    again = mma_here("demo", "--out", "demo", cwd=tmp_path)
    assert "is complete: nothing to do" in again.stderr
    assert again.stdout == done.stdout
