from __future__ import annotations

import csv
import json
import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from mma.cache import import_npz
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.ablate import ablate
from mma.pipeline.fitting.cells import Cell, Choice, Data, resolve
from mma.pipeline.fitting.factors import described, matches, read_factors
from mma.pipeline.fitting.features import Address, Loader
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.grid import Work, run_works
from mma.pipeline.fitting.protocols import BaseToNew
from mma.pipeline.fitting.results import Failure, Grid
from mma.pipeline.fitting.settings import AblateSettings, FitSettings
from mma.pipeline.reports.differences import find_baseline
from mma.pipeline.reports.grid_tables import ablated_json, show_ablated
from mma.pipeline.reports.pivot import show_pivot
from mma.pipeline.reports.statistics import mean_text

from ...conftest import Run, small_features
from ...forked import start

QUIET = Console(quiet=True)
DEADLY = """
import os
from mma.adapters import Adapter

class Deadly(Adapter):
    def start(self, support):
        os.kill(os.getpid(), 9)
"""
GRID = ["adapter=mma,clip-adapter,linear-probe", "lam=0,0.5", "shots=2,4", "seed=0:3", "epochs=6"]


def settings(cache: Path, out: Path, words: list[str] = GRID, **changes: object) -> AblateSettings:
    asked = AblateSettings(cache=(str(cache),), factors=read_factors(words, None), device="cpu", out=out)
    return replace(asked, **changes)  # type: ignore[arg-type]


def numbers(ablated: Grid) -> dict[str, dict[str, float]]:
    return {result.cell.id: result.metrics for row in ablated.rows for result in row.results}


@pytest.fixture(scope="module")
def undisturbed(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The grid's numbers, run in this process without trouble."""
    return numbers(ablate(settings(small_cache, tmp_path_factory.mktemp("undisturbed")), QUIET))


def test_a_grid_has_a_cell_a_setting_and_seed_and_one_for_zero_shot(undisturbed: dict[str, dict[str, float]]) -> None:
    assert len(undisturbed) == 1 + 3 * (2 * 2 + 2 + 2)


def test_a_cell_is_the_same_alone_as_in_a_grid(
    small_cache: Path, undisturbed: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    alone = ablate(settings(small_cache, tmp_path, ["lam=0.5", "shots=4", "seed=2", "epochs=6"]), QUIET)
    assert numbers(alone).items() <= undisturbed.items()


@pytest.mark.slow
def test_a_cell_is_the_same_on_worker_processes(
    small_cache: Path, undisturbed: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    assert numbers(ablate(settings(small_cache, tmp_path, workers=2), QUIET)) == undisturbed


def test_a_fit_is_a_grid_of_its_seeds_and_is_not_done_again(
    small_cache: Path, undisturbed: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    asked = FitSettings(
        cache=(str(small_cache),), adapter="mma", options={"lam": 0.5}, shots=4, epochs=6, device="cpu", out=tmp_path
    )
    fitted = {r.cell.id: r.metrics for row in fit(asked, QUIET).rows for r in row.results}
    assert fitted.items() <= undisturbed.items()
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    ablate(settings(small_cache, tmp_path), console)
    assert f"25 cells, {len(fitted)} done, {25 - len(fitted)} to run" in console.export_text()


def test_nothing_is_run_twice(small_cache: Path, tmp_path: Path) -> None:
    ablate(settings(small_cache, tmp_path), QUIET)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    ablate(settings(small_cache, tmp_path), console)
    assert "25 cells, 25 done, 0 to run" in console.export_text()


@pytest.mark.slow
def test_a_cell_is_the_same_on_a_dask_cluster_whose_worker_is_killed(
    small_cache: Path, undisturbed: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    from distributed import LocalCluster

    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        victim = next(iter(cluster.workers.values())).pid

        def kill_at_the_first_result() -> None:
            while not _recorded(tmp_path / "results.sqlite"):
                time.sleep(0.002)
            os.kill(victim, signal.SIGKILL)
            killed.append(_recorded(tmp_path / "results.sqlite"))

        killer = threading.Thread(target=kill_at_the_first_result, daemon=True)
        killer.start()
        ablated = ablate(settings(small_cache, tmp_path, scheduler=cluster.scheduler_address), QUIET)
        killer.join()
    assert killed[0] < len(undisturbed), "the worker was killed too late to lose anything"
    assert not ablated.failures
    assert numbers(ablated) == undisturbed


@pytest.mark.slow
def test_a_grid_killed_twenty_times_ends_with_the_same_results_and_no_cell_twice(
    small_cache: Path, undisturbed: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    words = ["ablate", "--cache", small_cache, *GRID, "--device", "cpu"]
    store, rng, counts = tmp_path / "runs/results.sqlite", random.Random(0), []
    for _ in range(20):
        before = _recorded(store)
        process = start(words, tmp_path, tmp_path / "out", tmp_path / "err")
        while process.is_alive() and _recorded(store) == before < len(undisturbed):
            time.sleep(0.002)
        time.sleep(0.02 * rng.random())
        process.kill()
        process.join()
        counts.append(_recorded(store))
    assert counts[0] < len(undisturbed), "the first kill came too late to interrupt anything"
    assert counts == sorted(counts), "a kill lost a recorded cell"
    ablated = ablate(settings(small_cache, tmp_path / "runs"), QUIET)
    assert numbers(ablated) == undisturbed
    with sqlite3.connect(store) as db:
        stored = {cell: json.loads(metrics) for cell, metrics in db.execute("select id, metrics from cells")}
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert stored == undisturbed


@pytest.mark.slow
def test_two_processes_on_one_results_folder_both_finish(
    small_cache: Path, undisturbed: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    words = ["ablate", "--cache", small_cache, *GRID, "--device", "cpu"]
    both = [start(words, tmp_path, tmp_path / f"out{n}", tmp_path / f"err{n}") for n in range(2)]
    for number, process in enumerate(both):
        process.join()
        assert process.exitcode == 0, (tmp_path / f"err{number}").read_text()
    with sqlite3.connect(tmp_path / "runs/results.sqlite") as db:
        stored = {cell: json.loads(metrics) for cell, metrics in db.execute("select id, metrics from cells")}
    assert stored == undisturbed


@pytest.mark.slow
def test_an_interrupted_grid_says_so_in_one_line_and_continues(small_cache: Path, tmp_path: Path) -> None:
    words = ["lam=0:1:0.1", "seed=0:40", "epochs=20", "patience=20"]
    process = start(["ablate", "--cache", small_cache, *words], tmp_path, tmp_path / "out", tmp_path / "err")
    while process.is_alive() and _recorded(tmp_path / "runs/results.sqlite") < 5:
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    errors = (tmp_path / "err").read_text()
    assert process.exitcode == 130
    assert "what is done is kept" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert 5 <= _recorded(tmp_path / "runs/results.sqlite") < 400


def test_a_failing_cell_is_recorded_with_its_reason_and_stops_nothing(small_cache: Path, tmp_path: Path) -> None:
    grid = ["adapter=mma", "lr=0.005,1e9", "seed=0:2", "shots=2", "epochs=4"]
    ablated = ablate(settings(small_cache, tmp_path, grid), QUIET)
    assert len(numbers(ablated)) == 3
    assert len(ablated.failures) == 2
    assert all(failure.cell.setting.recipe.lr == 1e9 and failure.reason for failure in ablated.failures)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    ablate(settings(small_cache, tmp_path, grid), console)
    assert "2 failed before (`retry_failed=True` runs them again)" in console.export_text()
    again = ablate(settings(small_cache, tmp_path, grid, retry_failed=True), QUIET)
    assert len(again.failures) == 2


@pytest.mark.slow
def test_a_cell_whose_worker_process_dies_is_a_failure_and_the_others_are_run(
    small_cache: Path, mma_here: Run, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    words = ["adapter=./deadly.py:Deadly,linear-probe", "seed=0", "shots=2", "--json", "--workers", 2]
    done = mma_here("ablate", "--cache", small_cache, *words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    outcome = json.loads(done.stdout)
    assert [failure["adapter"] for failure in outcome["failures"]] == ["deadly"]
    assert "died" in outcome["failures"][0]["reason"]
    assert [row["adapter"] for row in outcome["rows"]] == ["zero-shot", "linear-probe"]


@pytest.mark.slow
def test_the_difference_is_paired_with_the_baseline_most_like_the_row(small_cache: Path, tmp_path: Path) -> None:
    ablated = ablate(settings(small_cache, tmp_path, baseline="mma lam=0.5"), QUIET)
    rows = list(ablated.rows)
    row = next(r for r in rows if r.setting.adapter == "clip-adapter" and r.setting.protocol.shots == 4)
    candidates = [r for r in rows if matches(r.setting, described("mma lam=0.5"))]
    base = find_baseline(row, candidates)
    assert base is not None
    assert (base.setting.adapter, base.setting.protocol.shots) == ("mma", 4)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    show_ablated(console, ablated, ["lam", "shots"], "mma lam=0.5")
    differences = [a.metrics["H"] - b.metrics["H"] for a, b in zip(row.results, base.results, strict=True)]
    assert mean_text(differences).lstrip("+") in console.export_text()


def test_a_result_without_seeds_is_compared_with_every_seed_of_the_baseline(small_cache: Path, tmp_path: Path) -> None:
    ablated = ablate(settings(small_cache, tmp_path, ["seed=0:3", "shots=2", "epochs=3"], baseline="mma"), QUIET)
    zero_shot, mma_row = ablated.rows
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    show_ablated(console, ablated, ["shots"], "mma")
    differences = [zero_shot.results[0].metrics["H"] - r.metrics["H"] for r in mma_row.results]
    assert len(differences) == 3
    assert mean_text(differences).lstrip("+") in console.export_text()


@pytest.mark.slow
def test_two_caches_of_one_data_set_are_told_apart_and_never_compared(tmp_path: Path) -> None:
    paths = []
    for seed in (0, 1):
        np.savez(tmp_path / "shapes-small.npz", **small_features(seed=seed))
        paths.append(str(import_npz(tmp_path / "shapes-small.npz", tmp_path / f"{seed}.zarr")))
    words = ["adapter=gda", "shots=4", "seed=0:2"]
    asked = AblateSettings(cache=tuple(paths), factors=read_factors(words, None), device="cpu", out=tmp_path / "runs")
    both = ablate(asked, QUIET)
    assert [row.cache for row in both.rows] == [paths[0], paths[0], paths[1], paths[1]]
    second = ablate(replace(asked, cache=tuple(paths[1:]), out=tmp_path / "alone"), QUIET)
    console = Console(record=True, width=300, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    show_ablated(console, both, ["shots"], "zero-shot")
    text = console.export_text()
    assert "cache" in text.splitlines()[2]
    difference = mean_text([r.metrics["H"] - second.rows[0].results[0].metrics["H"] for r in second.rows[1].results])
    (line,) = (line for line in text.splitlines() if paths[1] in line and "gda" in line)
    assert difference.lstrip("+") in line
    told = [row["cache"] for row in json.loads(ablated_json(both, "zero-shot"))["rows"]]
    assert told == [row.cache for row in both.rows]


def test_the_title_says_what_is_held_fixed_and_a_failure_which_factors_it_has(
    small_cache: Path, tmp_path: Path
) -> None:
    ablated = ablate(
        settings(small_cache, tmp_path, ["lr=0.01,1e9", "lam=0.5", "shots=2", "epochs=4", "seed=0"]), QUIET
    )
    console = Console(record=True, width=300, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    show_ablated(console, ablated, ["lr", "lam", "shots", "epochs"], "zero-shot")
    title, *_, failure = console.export_text().strip().splitlines()
    assert title.startswith(
        "shapes-small, base-to-new, lr 0.01, lam 0.5, shots 2, epochs 4, recipe validated, select val; "
    )
    assert failure.startswith("failed: mma ")
    assert "lr=1000000000.0" in failure


def test_a_baseline_that_is_not_in_the_grid_is_refused_before_the_work(small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no setting of this grid"):
        ablate(settings(small_cache, tmp_path / "runs", baseline="gda"), QUIET)
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_drawn_on_one_cache_is_left_out_with_its_reason_and_stops_nothing(
    small_cache: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "shapes-few.npz", **small_features(rows=3))
    few = import_npz(tmp_path / "shapes-few.npz", tmp_path / "few.zarr")
    words = ["adapter=gda", "shots=2,8", "seed=0"]
    asked = AblateSettings(
        cache=(str(small_cache), str(few)), factors=read_factors(words, None), device="cpu", out=tmp_path / "runs"
    )
    grid = ablate(asked, QUIET)
    rows = [(row.setting.data.dataset, row.setting.adapter, row.setting.protocol.shots) for row in grid]
    assert rows == [
        ("shapes-small", "zero-shot", 0), ("shapes-small", "gda", 2), ("shapes-small", "gda", 8),
        ("shapes-few", "zero-shot", 0), ("shapes-few", "gda", 2),
    ]  # fmt: skip
    ((setting, reason),) = grid.undrawn.items()
    assert (setting.data.dataset, setting.protocol.shots) == ("shapes-few", 8)
    assert reason.startswith("shapes-few: ")
    assert f"left out: gda; {reason}" in grid.notes
    assert not grid.failures


def test_a_grid_of_which_nothing_can_be_drawn_is_refused(small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"small: .*shots"):
        ablate(settings(small_cache, tmp_path / "runs", ["adapter=gda", "shots=50,60"]), QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_cache_that_changed_since_the_plan_is_never_taken_for_the_planned_one(small_cache: Path) -> None:
    another = Data("small", "default", "unit", "another")
    setting = resolve(Choice("zero-shot", BaseToNew()), another)
    (outcome,) = run_works([Work(Cell(setting, 0), (Address(str(small_cache)),))], Loader())
    assert isinstance(outcome, Failure)
    assert "another one than the grid was planned on" in outcome.reason


def test_tables_show_a_row_a_setting_and_the_pivot_a_cell_a_pair(small_cache: Path, tmp_path: Path) -> None:
    ablated = ablate(settings(small_cache, tmp_path, ["lam=0,0.5", "mask=cross,pair", "shots=2", "epochs=2"]), QUIET)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    show_ablated(console, ablated, ["lam", "mask", "shots", "epochs"], "zero-shot")
    show_pivot(console, ablated, "mask,lam", None)
    text = console.export_text()
    assert text.count("│ mma ") == 4
    assert all(f"{row.seconds:.2f} s" in text for row in ablated.rows)
    assert "mask \\ lam" in text


@pytest.mark.slow
def test_exports_hold_every_cell(small_cache: Path, mma_here: Run, tmp_path: Path) -> None:
    words = ("ablate", "--cache", small_cache, "lam=0,0.5", "seed=0:2", "shots=2", "epochs=2", "--json")
    for name in ("cells.csv", "cells.jsonl", "cells.parquet"):
        assert mma_here(*words, "--export", name, cwd=tmp_path).returncode == 0
    table = pyarrow.parquet.read_table(tmp_path / "cells.parquet").to_pylist()
    with (tmp_path / "cells.csv").open(newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_jsonl = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert len(from_csv) == len(from_jsonl) == 5
    assert [float(row["H"]) for row in from_csv] == [row["H"] for row in from_jsonl] == [row["H"] for row in table]


def _recorded(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path) as db:
            return int(db.execute("select count(*) from cells").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
