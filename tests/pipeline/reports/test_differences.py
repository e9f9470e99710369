"""Rows of a grid are compared like with like, the same everywhere, or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from mma.pipeline.fitting.results import Grid
from mma.pipeline.reports.differences import differences, key_of, seed_by_seed
from mma.pipeline.reports.grid_tables import ablated_json, export_grid, show_ablated

from .test_pivot import row

TWO, FOUR = row("a", "gda", {0: 60.0, 1: 62.0}, shots=2), row("a", "tip-adapter", {0: 70.0, 2: 74.0}, shots=4)
BASE = row("a", "gda", {0: 61.0, 1: 63.5, 2: 66.0}, shots=4)
ZERO = row("a", "zero-shot", {0: 50.0})
GRID = Grid([ZERO, TWO, BASE, FOUR, row("a", "tip-adapter", {0: 9.0}, shots=8), row("b", "zero-shot", {0: 40.0})])


def test_rows_pair_under_the_same_conditions_over_the_seeds_that_both_have() -> None:
    found = differences(GRID.rows, "gda")
    assert found[key_of(FOUR)] == (BASE, {0: 9.0, 2: 8.0})
    assert key_of(GRID.rows[4]) not in found  # no gda of eight shots
    assert key_of(GRID.rows[5]) not in found  # another data set
    assert key_of(BASE) not in found


def test_a_condition_that_the_baseline_names_may_differ() -> None:
    found = differences(GRID.rows, "gda shots=4")
    assert found[key_of(TWO)] == (BASE, {0: -1.0, 1: -1.5})


def test_a_method_without_shots_is_not_compared_with_an_arbitrary_number_of_them() -> None:
    assert key_of(ZERO) not in differences(GRID.rows, "gda")
    one = [row for row in GRID.rows if row is not TWO]
    assert differences(one, "gda")[key_of(ZERO)] == (BASE, {0: -11.0, 1: -13.5, 2: -16.0})


def test_a_result_without_seeds_stands_for_every_seed() -> None:
    assert differences(GRID.rows, "zero-shot")[key_of(TWO)][1] == {0: 10.0, 1: 12.0}
    assert seed_by_seed([{None: 1.0}, {None: 2.0}]) == {None: [1.0, 2.0]}
    assert seed_by_seed([{0: 1.0}, {1: 2.0}]) == {}


def test_table_json_and_export_say_the_same_differences(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    show_ablated(console, GRID, ["adapter", "shots"], "gda")
    lines = [[c.strip() for c in line.split("│")[1:-1]] for line in console.export_text(clear=False).splitlines()]
    shown = {tuple(line[:3]): line[4] for line in lines if len(line) > 4}
    assert shown["a", "tip-adapter", "4"].startswith("+8.50 ±")
    assert shown["a", "tip-adapter", "8"] == shown["b", "zero-shot", ""] == "—"
    assert shown["a", "gda", "4"] == ""
    assert "gda has no result on the same data under the same conditions" in " ".join(console.export_text().split())
    told = {(r["dataset"], r["adapter"], r.get("shots")): r for r in json.loads(ablated_json(GRID, "gda"))["rows"]}
    assert told["a", "tip-adapter", 4]["difference"]["mean"] == pytest.approx(8.5)
    assert told["a", "tip-adapter", 4]["difference"]["seeds"] == [0, 2]
    assert told["a", "tip-adapter", 8]["difference"] is None
    export_grid(tmp_path / "cells.csv", GRID, "gda")
    with (tmp_path / "cells.csv").open(newline="") as file:
        exported = {(r["dataset"], r["adapter"], r["shots"], r["seed"]): r for r in csv.DictReader(file)}
    assert [exported["a", "tip-adapter", "4", seed]["difference"] for seed in "02"] == ["9.0", "8.0"]
    assert exported["a", "tip-adapter", "8", "0"]["difference"] == ""
    assert {record["baseline"] for record in exported.values()} == {"gda"}
