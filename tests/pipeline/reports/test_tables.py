from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Grid
from mma.pipeline.fitting.settings import FitSettings
from mma.pipeline.reports.grid_tables import ablated_json, show_ablated
from mma.pipeline.reports.pivot import show_pivot
from mma.pipeline.reports.tables import fitted_json, label, show_fitted


def fitted(cache: Path, out: Path, **changes: Any) -> Grid:
    asked = FitSettings(cache=(str(cache),), out=out, device="cpu", **{"shots": 2, "epochs": 2, **changes})
    return fit(asked, Console(quiet=True))


def shown(grid: Grid) -> list[str]:
    console = Console(record=True, width=200)
    show_fitted(console, grid)
    return console.export_text().splitlines()


def test_a_table_of_zero_shot_alone_claims_no_seeds_shots_or_selection(small_cache: Path, tmp_path: Path) -> None:
    assert shown(fitted(small_cache, tmp_path, adapter="zero-shot", epochs=None))[0].strip() == "small, base-to-new"


def test_a_recipe_and_a_selection_that_all_share_stand_in_the_title(small_cache: Path, tmp_path: Path) -> None:
    lines = shown(fitted(small_cache, tmp_path, adapter="mma,linear-probe"))
    title = "small, base-to-new, 2 shots, seeds 0, 1, 2, recipe validated, selected on validation"
    assert lines[0].strip() == title
    assert "select" not in lines[2]


def test_those_that_differ_stand_in_columns(small_cache: Path, tmp_path: Path) -> None:
    lines = shown(fitted(small_cache, tmp_path, adapter="clip-adapter,linear-probe", seeds=1))
    assert lines[0].strip() == "small, base-to-new, 2 shots, seed 0"
    assert lines[2].split("┃")[-3:-1] == [" recipe    ", " select "]
    (row,) = (line for line in lines if "clip-adapter" in line)
    assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["published", "last"]


def test_a_label_names_a_recipe_that_is_not_the_default_and_values_that_are_not_its_own(
    small_cache: Path, tmp_path: Path
) -> None:
    grid = fitted(small_cache, tmp_path, adapter="clip-adapter", recipe="clip-mma", seeds=1, lr=0.25)
    assert label(grid["clip-adapter"].setting) == "clip-adapter recipe=clip-mma lr=0.25 epochs=2"
    assert json.loads(fitted_json(grid))["rows"][1]["recipe_name"] == "clip-mma"


@pytest.fixture(scope="module")
def one_support(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Ten shots of ten rows: whatever the seed, all of them."""
    out = tmp_path_factory.mktemp("one")
    grid = fitted(small_cache, out, adapter="linear-probe,mma,gda", shots=10, options={"alpha": 1.0})
    assert len(set(grid["mma"].values("H"))) > 1
    return grid


def test_over_one_support_an_interval_is_called_one_of_training_seeds(one_support: Grid) -> None:
    lines = shown(one_support)
    (mma,) = (line for line in lines if "│ mma" in line)
    assert "‡" in mma
    assert mma.count("±") == mma.count("‡")
    assert any(
        line.startswith("one support: all seeds draw the same shots; ±‡ is over training seeds") for line in lines
    )
    (gda,) = (line for line in lines if "│ gda" in line)
    assert "±" not in gda  # the same fit for every seed
    rows = json.loads(fitted_json(one_support))["rows"]
    assert [row["one_support"] for row in rows] == [False, True, True, True]


def test_a_grid_says_so_too_and_of_differences_and_pivots(one_support: Grid) -> None:
    console = Console(record=True, width=200)
    show_ablated(console, one_support, ["shots"], "zero-shot")
    (mma,) = (line for line in console.export_text(clear=False).splitlines() if "│ mma" in line)
    assert mma.count("±") == mma.count("‡") > 3
    assert [row["one_support"] for row in json.loads(ablated_json(one_support, "zero-shot"))["rows"]][:2] == [
        False,
        True,
    ]
    console = Console(record=True, width=200)
    show_pivot(console, replace(one_support, rows=[one_support["mma"]]), "lam,mask", "H")
    assert "‡" in console.export_text()


def test_over_supports_of_their_own_nothing_is_marked(small_cache: Path, tmp_path: Path) -> None:
    assert not any("‡" in line or "one support" in line for line in shown(fitted(small_cache, tmp_path, adapter="mma")))
