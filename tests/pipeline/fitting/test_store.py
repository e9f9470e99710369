from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.fitting.cells import NUMERICS, Cell, Data, Setting
from mma.pipeline.fitting.protocols import BaseToNew
from mma.pipeline.fitting.results import Failure, Predictions, Result
from mma.pipeline.fitting.row_scores import RowScores, score_rows
from mma.pipeline.fitting.store import Store

SETTING = Setting(Data("data", "default", "unit", "cache"), "mma", (("lam", 0.2),), BaseToNew(), "val", None)


def result(cell: Cell, h: float = 50.0) -> Result:
    predictions = [
        Predictions("base", *(np.arange(4, dtype=np.int32) + shift for shift in (0, 1, cell.seed))),
        Predictions("new", *(np.arange(3, dtype=np.int32) for _ in range(3))),
    ]
    return Result(
        cell,
        {"base": 1.5, "new": 2.5, "H": h},
        {"epochs": 3, "new_is_zero_shot": False, "chosen": {}},
        0.25,
        predictions,
    )


def test_what_is_recorded_is_read_back_by_another_connection(tmp_path: Path) -> None:
    cell = Cell(SETTING, 1)
    store, other = Store(tmp_path), Store(tmp_path)
    store.record(result(cell), {"lam": 0.2})
    found = other.results([cell, Cell(SETTING, 2)])
    assert found.keys() == {cell.id}
    assert found[cell.id].metrics == {"base": 1.5, "new": 2.5, "H": 50.0}
    for stored, made in zip(other.predictions(cell.id), result(cell).predictions, strict=True):
        assert stored.test == made.test
        for name in ("rows", "label", "predicted"):
            assert np.array_equal(getattr(stored, name), getattr(made, name))


def test_results_of_before_scores_were_kept_are_read_without_them(tmp_path: Path) -> None:
    cell = Cell(SETTING, 1)
    with Store(tmp_path) as store:
        store.record(result(cell), {})
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute("alter table predictions drop column scores")
        db.execute("pragma user_version = 2")
    with Store(tmp_path) as store:
        assert [each.scores for each in store.predictions(cell.id)] == [None, None]
        scored = replace(result(cell), predictions=[replace(p, scores=scores(p)) for p in result(cell).predictions])
        store.record(scored, {})
        for stored, made in zip(store.predictions(cell.id), scored.predictions, strict=True):
            assert stored.scores is not None
            assert made.scores is not None
            assert stored.scores.to_bytes() == made.scores.to_bytes()


def scores(of: Predictions) -> RowScores:
    rng = np.random.default_rng(0)
    return score_rows(torch.from_numpy(rng.standard_normal((len(of.rows), 9))), torch.from_numpy(of.label).long())


def test_recording_again_replaces(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), Cell(SETTING, 0)
    store.record(result(cell, 1.0), {})
    store.record(result(cell, 2.0), {})
    assert [row["metrics"]["H"] for row in store.rows()] == [2.0]
    assert len(store.predictions(cell.id)) == 2


def test_rows_and_labels_are_stored_once_for_all_cells_that_share_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(5):
        store.record(result(Cell(SETTING, seed)), {})
    store.close()
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        assert db.execute("select count(*) from tests").fetchone() == (2,)
        assert db.execute("select count(*) from predictions").fetchone() == (10,)


def test_predictions_can_be_left_out(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), Cell(SETTING, 0)
    store.record(result(cell), {}, predictions=False)
    assert store.predictions(cell.id) == []
    assert cell.id in store.results([cell])


def test_a_failure_is_kept_with_its_reason_and_is_no_result(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), Cell(SETTING, 0)
    store.record(Failure(cell, "ValueError: no"), {})
    assert store.failures([cell])[cell.id].reason == "ValueError: no"
    assert not store.results([cell])
    store.record(result(cell), {})
    assert not store.failures([cell])


@pytest.mark.parametrize("change", [{"data": Data("data", "default", "unit", "another")}, {"numerics": NUMERICS + 1}])
def test_a_result_of_another_cache_or_numerics_is_stale_and_never_a_result(
    change: dict[str, object], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.record(result(Cell(SETTING, 0)), {})
    changed = Cell(replace(SETTING, **change), 0)  # type: ignore[arg-type]
    assert store.stale([changed]) == 1
    assert store.results([changed]) == {}
    assert store.stale([Cell(SETTING, 0)]) == 0
    assert store.stale([Cell(replace(SETTING, adapter="gda"), 0)]) == 0


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(UsageError, match="newer mma"):
        Store(tmp_path)


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"something else entirely, long enough to be read as a header " * 4)
    with pytest.raises(UsageError, match="not a results file"):
        Store(tmp_path)
    assert (tmp_path / "results.sqlite").read_bytes().startswith(b"something else")


def test_a_results_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        Store(tmp_path / "file" / "runs")


def test_closing_leaves_one_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.record(result(Cell(SETTING, 0)), {})
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["results.sqlite"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("metrics", '{"base": 1'),
        ("metrics", "[]"),
        ("metrics", '{"base": 1, "new": 2, "H": Infinity}'),
        ("metrics", '{"base": 1, "new": 2, "H": "50"}'),
        ("metrics", '{"base": 1}'),
        ("metrics", "[" * 100_000),
        ("metrics", b"\xff\xfe"),
        ("metrics", None),
        ("details", "{}"),
        ("details", '{"chosen": 3, "new_is_zero_shot": false}'),
        ("seconds", "soon"),
    ],
)
def test_a_damaged_record_is_one_line_that_names_the_file_and_stops_no_other_question(
    column: str, value: object, tmp_path: Path
) -> None:
    store, cell = Store(tmp_path), Cell(SETTING, 0)
    store.record(result(cell), {})
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute(f"update cells set {column} = ?", (value,))
    with pytest.raises(WorkError, match=f"results.sqlite: {column} of cell {cell.id} are damaged"):
        store.results([cell])
    assert store.stale([Cell(replace(SETTING, numerics=NUMERICS + 1), 0)]) == 1


def test_a_damaged_config_stops_no_question_about_other_cells(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.record(result(Cell(SETTING, 0)), {})
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute("update cells set config = '{', question = 'another'")
    assert store.stale([Cell(SETTING, 0)]) == 0
    assert store.stale([Cell(SETTING, 1)]) == 0


def test_only_finite_numbers_are_stored(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), Cell(SETTING, 0)
    odd = replace(result(cell), details={"loss": [1.0, math.inf], "new_is_zero_shot": False, "chosen": {"a": math.nan}})
    store.record(odd, {"lr": math.inf})
    (row,) = store.rows()
    assert row["details"] == {"loss": [1.0, None], "new_is_zero_shot": False, "chosen": {"a": None}}
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        assert db.execute("select json_extract(config, '$.lr'), json_valid(details) from cells").fetchall() == [
            (None, 1)
        ]
        assert "Infinity" not in json.dumps(db.execute("select * from cells").fetchall())
