from __future__ import annotations

from pathlib import Path

import pytest

from mma.cache import open_cache

from ...conftest import Run


@pytest.mark.slow
def test_the_demo_embeds_fits_prints_its_table_and_says_what_to_type_next(mma_here: Run, tmp_path: Path) -> None:
    done = mma_here("demo", "--out", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for adapter in ("zero-shot", "linear-probe", "clip-adapter", "mma"):
        assert f"│ {adapter} " in done.stdout
    assert "mma fit --cache demo/shapes.zarr" in done.stdout
    assert open_cache(tmp_path / "demo/shapes.zarr").complete
    again = mma_here("demo", "--out", "demo", cwd=tmp_path)
    assert "is complete: nothing to do" in again.stderr
    assert again.stdout == done.stdout
