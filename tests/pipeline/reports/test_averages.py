"""Averages over data sets are what pandas makes of the exported cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
from rich.console import Console

from mma.cache import import_npz
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.ablate import ablate
from mma.pipeline.fitting.factors import read_factors
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Grid
from mma.pipeline.fitting.settings import AblateSettings, FitSettings
from mma.pipeline.reports.aggregates import worst_tenth
from mma.pipeline.reports.averages import averages
from mma.pipeline.reports.grid_tables import ablated_json, export_grid, show_ablated
from mma.pipeline.reports.tables import fitted_json, notes, show_fitted

from ...conftest import small_features

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def other_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    np.savez(folder / "shapes-other.npz", **small_features(classes=9, rows=6, seed=4))
    return import_npz(folder / "shapes-other.npz", folder / "other.zarr", logit_scale=20.0)


@pytest.fixture(scope="module")
def both(small_cache: Path, other_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Two protocols on two data sets, three seeds."""
    words = ["adapter=gda,linear-probe", "protocol=base-to-new,few-shot", "seed=0:3", "epochs=3", "shots=2"]
    asked = AblateSettings(
        cache=(str(small_cache), str(other_cache)),
        factors=read_factors(words, None),
        device="cpu",
        out=tmp_path_factory.mktemp("runs"),
    )
    return ablate(asked, QUIET)


def by_pandas(cells: pandas.DataFrame) -> pandas.DataFrame:
    """Mean over seeds, then over data sets; H of the means, and the mean of H."""
    of_data = cells.groupby(["protocol", "adapter", "dataset"])[["base", "new", "H", "accuracy"]].mean()
    mean = of_data.groupby(["protocol", "adapter"]).mean()
    mean["mean of H"] = mean["H"]
    mean["H"] = 2 * mean["base"] * mean["new"] / (mean["base"] + mean["new"])
    return mean


def test_averages_in_json_and_in_the_export_are_what_pandas_computes_from_the_cells(both: Grid, tmp_path: Path) -> None:
    cells, average = export_grid(tmp_path / "cells.csv", both, "zero-shot")
    wanted = by_pandas(pandas.read_csv(cells))
    exported = pandas.read_csv(average).set_index(["protocol", "adapter"])
    told = pandas.DataFrame(json.loads(ablated_json(both, "zero-shot"))["averages"]).set_index(["protocol", "adapter"])
    assert len(wanted) == len(exported) == len(told) == 6
    for found in (exported, told):
        for metric in ("base", "new", "H", "mean of H", "accuracy"):
            pandas.testing.assert_series_equal(
                found[metric].astype(float).sort_index(), wanted[metric].sort_index(), check_names=False
            )
    assert (exported["H"] - exported["mean of H"]).abs().max() > 1e-3  # the two are not one


def test_tables_end_with_the_averages(both: Grid) -> None:
    console = Console(record=True, width=300, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    show_ablated(console, both, ["adapter", "protocol"], "zero-shot")
    lines = console.export_text(clear=True).splitlines()
    rows = [line for line in lines if line.startswith("│")]
    of_base_to_new = rows[: len(rows) // 2]
    assert [line.split("│")[1].strip() for line in of_base_to_new[-3:]] == ["average"] * 3
    base, new = (
        np.mean([row.values(name)[0] for row in both.rows[0 :: len(both.rows) // 2]]) for name in ("base", "new")
    )
    assert f"{2 * base * new / (base + new):.2f}" in of_base_to_new[-3]  # zero-shot's
    show_fitted(console, both)
    assert "average of 2 data sets, base-to-new" in console.export_text()


def test_an_adapter_that_lacks_a_data_set_has_a_dash(both: Grid) -> None:
    lacking = Grid(
        [row for row in both.rows if (row.setting.data.dataset, row.setting.adapter) != ("shapes-other", "gda")]
    )
    base = [row for row in lacking.rows if row.setting.protocol.name == "base-to-new"]
    texts = {average.rows[0].setting.adapter: average.text("H") for average in averages(base)}
    assert texts["gda"] == "—"
    assert "—" not in (texts["zero-shot"], texts["linear-probe"])
    assert any("not there on every data set" in note for note in notes(lacking))


def test_one_data_set_has_no_average(both: Grid) -> None:
    assert averages([row for row in both.rows if row.setting.data.dataset == "shapes-small"]) == []


def test_where_no_shots_are_given_all_data_sets_have_as_many(
    small_cache: Path, other_cache: Path, tmp_path: Path
) -> None:
    caches = (str(small_cache), str(other_cache))
    grid = fit(FitSettings(cache=caches, adapter=("gda",), seeds=1, device="cpu", out=tmp_path), QUIET)
    assert {row.setting.protocol.shots for row in grid.rows if row.setting.adapter == "gda"} == {6}
    told = json.loads(fitted_json(grid))
    assert [row["adapter"] for row in told["averages"]] == ["zero-shot", "gda"]


def test_a_data_set_that_cannot_be_drawn_stops_no_other_and_is_named(
    small_cache: Path, other_cache: Path, tmp_path: Path
) -> None:
    caches = (str(small_cache), str(other_cache))  # ten and six rows in a class
    asked = FitSettings(cache=caches, adapter=("gda",), shots=8, seeds=1, device="cpu", out=tmp_path / "runs")
    grid = fit(asked, QUIET)
    assert [row.setting.data.dataset for row in grid.rows if row.setting.adapter == "gda"] == ["shapes-small"]
    assert any(note.startswith("left out: gda; shapes-other: class") for note in grid.notes)
    too_many = FitSettings(cache=caches, adapter=("gda",), shots=20, seeds=1, device="cpu", out=tmp_path / "none")
    with pytest.raises(UsageError, match="fewer than 20 shots"):
        fit(too_many, QUIET)
    assert not (tmp_path / "none").exists()


def test_the_worst_tenth_of_seeds_stands_beside_mean_and_interval(both: Grid) -> None:
    told = json.loads(ablated_json(both, "zero-shot"))["rows"]
    for row, data in zip(both.rows, told, strict=True):
        for metric in row.metrics:
            assert data[metric]["worst_tenth"] == worst_tenth(row.values(metric)) == min(row.values(metric))
