from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mma.cache import import_npz
from mma.pipeline.fitting.ablate import ablate
from mma.pipeline.fitting.factors import read_factors
from mma.pipeline.fitting.plan import GridPlan, add_grid
from mma.pipeline.fitting.settings import AblateSettings
from mma.pipeline.reports.live import live_table, running, telling_apart

from ...conftest import small_features


@pytest.mark.parametrize(
    ("words", "apart"),
    [
        (["shots=1,2"], ["shots"]),
        (["shots=2", "select=val,last"], ["select"]),
        (["shots=1,2", "protocol=few-shot,base-to-new", "lam=0,0.5"], ["protocol", "shots"]),
        (["shots=2", "reduce=unit,raw"], ["reduce"]),
        (["shots=2"], []),
    ],
)
def test_rows_of_the_live_table_differ_where_settings_do(
    words: list[str], apart: list[str], small_cache: Path, tmp_path: Path
) -> None:
    words = [*words, "epochs=1", "seed=0"]
    asked = AblateSettings(cache=(str(small_cache),), factors=read_factors(words, None), device="cpu", out=tmp_path)
    done = {r.cell.id: r for row in ablate(asked, Console(quiet=True)).rows for r in row.results}
    plan = GridPlan()
    add_grid(plan, [str(small_cache)], asked.factors, "cpu")
    assert telling_apart(plan) == apart
    table = running(list(plan.rows), plan, done, apart)
    texts = list(zip(*(list(column.cells) for column in table.columns[: 1 + len(apart)]), strict=True))
    assert len(texts) == len(plan.rows)
    assert len(set(texts)) == len(texts)


def test_two_caches_of_one_data_set_are_told_apart(tmp_path: Path) -> None:
    plan = GridPlan()
    for seed in (0, 1):
        np.savez(tmp_path / "shapes-small.npz", **small_features(seed=seed))
        cache = import_npz(tmp_path / "shapes-small.npz", tmp_path / f"{seed}.zarr")
        add_grid(plan, [str(cache)], {"shots": [2], "seed": [0]}, "cpu")
    assert telling_apart(plan) == ["cache"]


def test_a_grid_on_a_terminal_shows_the_live_table_and_names_the_cell_that_failed(
    small_cache: Path, tmp_path: Path
) -> None:
    words = ["lr=0.01,1e9", "shots=1,2", "epochs=3", "seed=0"]
    asked = AblateSettings(cache=(str(small_cache),), factors=read_factors(words, None), device="cpu", out=tmp_path)
    said = io.StringIO()
    ablate(asked, Console(file=said, force_terminal=True, width=160, color_system=None), live_table)
    assert "shots" in said.getvalue()
    for shots in (1, 2):
        assert f"failed: shapes-small, mma lr=1e+09 shots={shots} epochs=3, seed 0: " in said.getvalue()
