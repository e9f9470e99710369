"""A two-way table averages over what was named, in words, and over nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Choice, Data, resolve
from mma.pipeline.fitting.protocols import BaseToNew, FewShot
from mma.pipeline.fitting.results import Grid, Result, Row
from mma.pipeline.reports.pivot import check_pivot, show_pivot
from mma.pipeline.reports.statistics import mean_text

DETAILS = {"new_is_zero_shot": False, "chosen": {}}


def row(dataset: str, adapter: str, accuracies: Mapping[int, float], shots: int = 2, **options: object) -> Row:
    """A row with the accuracy of each seed."""
    setting = resolve(Choice(adapter, FewShot(shots=shots), options), Data(dataset, "default", "unit", dataset))
    results = [
        Result(Cell(setting, seed), {"accuracy": accuracy}, DETAILS, 1.0, []) for seed, accuracy in accuracies.items()
    ]
    return Row(setting, results, f"{dataset}.zarr")


def table_of(rows: Sequence[Row], pivot: str, over: Sequence[str] = ()) -> tuple[str, dict[str, list[str]]]:
    """The title of the one table, and its cells by what stands left; the heads stand under the pivot's names."""
    console = Console(record=True, width=200)
    show_pivot(console, Grid(rows), pivot, None, over)
    title, *lines = console.export_text().splitlines()
    split = [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in lines]
    return title.strip(), {cells[0]: cells[1:] for cells in split if cells}


GRID = [
    row("a", "zero-shot", {0: 50.0}),
    row("a", "gda", {0: 60.0, 1: 62.0}, shots=2),
    row("a", "gda", {0: 70.0, 1: 74.0}, shots=4),
    row("b", "zero-shot", {0: 40.0}),
    row("b", "gda", {0: 45.0, 1: 46.0}, shots=2),
    row("b", "gda", {0: 55.0, 1: 58.0}, shots=4),
]


def test_all_adapters_and_data_sets_stand_in_one_table() -> None:
    title, cells = table_of([r for r in GRID if r.setting.protocol.shots != 4], "adapter,dataset")
    assert title == "few-shot: accuracy"
    assert cells == {
        "adapter \\ dataset": ["a", "b", "average"],
        "zero-shot": ["50.00", "40.00", "45.00"],
        "gda": [mean_text([60, 62]), mean_text([45, 46]), "53.25 ± 7.10"],  # hypot(12.71, 6.35) / 2
    }


def test_data_sets_that_stand_one_below_the_other_end_with_their_average() -> None:
    _, cells = table_of([r for r in GRID if r.setting.protocol.shots != 4], "dataset,adapter")
    assert cells["average"] == ["45.00", "53.25 ± 7.10"]


def test_the_average_of_H_is_that_of_the_mean_base_and_the_mean_new() -> None:
    rows = []
    for dataset, base, new in (("a", 80.0, 40.0), ("b", 60.0, 60.0)):
        setting = resolve(Choice("gda", BaseToNew(shots=2), {}), Data(dataset, "default", "unit", dataset))
        metrics = {"base": base, "new": new, "H": 2 * base * new / (base + new)}
        rows.append(Row(setting, [Result(Cell(setting, 0), metrics, DETAILS, 1.0, [])], f"{dataset}.zarr"))
    _, cells = table_of(rows, "adapter,dataset")
    assert cells["gda"] == ["53.33", "60.00", "58.33"]  # 2 * 70 * 50 / 120


def test_what_is_named_is_averaged_within_a_seed_and_the_title_says_so() -> None:
    title, cells = table_of(GRID, "adapter,dataset", ["shots"])
    assert title == "few-shot: accuracy, mean over shots 2, 4"
    assert cells["gda"][:2] == [mean_text([65, 68]), mean_text([50, 52])]
    assert cells["zero-shot"] == ["50.00", "40.00", "45.00"]


def test_what_was_not_named_is_never_averaged() -> None:
    with pytest.raises(UsageError, match=r"would average over shots \(2, 4\): give one value, or say so with `over="):
        table_of(GRID, "adapter,dataset")
    noisy = [row("a", "gda", {0: 1.0}), row("a", "gda", {0: 2.0}, alpha=3.0)]
    with pytest.raises(UsageError, match="would average over alpha"):
        table_of([*GRID, *noisy[1:]], "adapter,dataset", ["shots"])


def test_a_method_without_a_factor_stands_at_each_of_its_values() -> None:
    _, cells = table_of(GRID[:3], "adapter,shots")
    assert cells["zero-shot"] == ["50.00", "50.00"]
    assert cells["gda"] == [mean_text([60, 62]), mean_text([70, 74])]


def test_a_place_that_lacks_some_of_what_is_averaged_elsewhere_is_a_dash() -> None:
    _, cells = table_of(GRID[:-1], "adapter,dataset", ["shots"])
    assert cells["gda"] == [mean_text([65, 68]), "—", "—"]


def test_only_seeds_that_all_averaged_rows_have_are_averaged() -> None:
    fewer = replace(GRID[2], results=GRID[2].results[:1])
    _, cells = table_of([GRID[1], fewer], "adapter,dataset", ["shots"])
    assert cells["gda"] == [mean_text([65])]


def test_a_grid_that_would_be_averaged_is_refused_before_the_work() -> None:
    grid = {"adapter": ["gda"], "shots": ["2", "4"], "alpha": ["1", "2"]}
    with pytest.raises(UsageError, match="would average over shots"):
        check_pivot("adapter,alpha", None, [], grid)
    check_pivot("adapter,alpha", None, ["shots"], grid)
    check_pivot("alpha,shots", None, [], grid)
    for over in (["shotz"], ["alpha"]):
        with pytest.raises(UsageError, match="`over="):
            check_pivot("alpha,shots", None, over, grid)


def test_a_factor_of_adapters_that_are_in_no_table_is_not_averaged() -> None:
    check_pivot("lam,mask", None, [], {"adapter": ["mma", "gda"], "lam": ["0", "1"], "alpha": ["1", "2"]})
    with pytest.raises(UsageError, match="would average over alpha"):
        check_pivot("adapter,lam", None, [], {"adapter": ["mma", "gda"], "lam": ["0", "1"], "alpha": ["1", "2"]})


def test_the_metric_of_a_pivot_may_be_a_target_and_nothing_that_no_table_has() -> None:
    grid = {"adapter": ["gda"], "target": ["cars.zarr"], "shots": ["2", "4"], "alpha": ["1", "2"]}
    check_pivot("alpha,shots", "cars", [], grid, ["cars"])
    with pytest.raises(UsageError, match=r"`metric=dtd` is of a pivot, and is one of .*, cars"):
        check_pivot("alpha,shots", "dtd", [], grid, ["cars"])
