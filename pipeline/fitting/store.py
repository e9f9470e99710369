"""The results of a folder: one SQLite file, `results.sqlite`, that any SQLite tool can read.

    cells        one row per cell that is done or failed: its config, metrics, details, seconds, status, reason
    predictions  per cell and test: the predicted class of each row, little-endian int32; and what is kept of the
                 probabilities, four numbers of two bytes for each row (row_scores.py); null before version 3
    tests        the rows and labels that predictions are about, shared by all cells that have them
    claims       which process runs which cell; see claims.py

A cell is recorded in one transaction, so a kill loses the cells in flight and no other, and several processes may
record at once.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.fitting.cells import Cell, Setting
from mma.pipeline.fitting.claims import TABLE as CLAIMS
from mma.pipeline.fitting.estimate import Kind
from mma.pipeline.fitting.results import Failure, Predictions, Result
from mma.pipeline.fitting.row_scores import RowScores
from mma.pipeline.json_text import to_json
from mma.pipeline.regular_files import parse_json

FILE = "results.sqlite"
VERSION = 3
BUSY_SECONDS = 60.0  # how long to wait for another process that is recording

FROM_1 = """
drop index if exists cells_by_name;
alter table cells rename column name to question;
alter table cells rename column cache to data;
"""
FROM_2 = "alter table predictions add column scores blob;"
TABLES = """
create table if not exists cells (
    id text primary key, setting text not null, question text not null, seed integer not null, data text not null,
    dataset text not null, adapter text not null, config text not null, status text not null, reason text,
    metrics text, details text, seconds real
);
create index if not exists cells_by_question on cells (question, seed);
create table if not exists tests (id text primary key, name text not null, rows blob not null, label blob not null);
create table if not exists predictions (
    cell text not null, test text not null, predicted blob not null, scores blob, primary key (cell, test)
);
"""


class Store:
    """The results of one folder. Use from one thread; close it when done."""

    def __init__(self, folder: Path) -> None:
        at = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
        if not at.is_dir():
            raise UsageError(f"results folder {folder}: {at} is a file; choose another with `out=FOLDER`")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"results folder {folder} cannot be made ({error.strerror}): choose another with `out=FOLDER`"
            ) from error
        self.path = folder / FILE
        try:
            self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            self._db.text_factory = lambda text: text.decode(
                errors="replace"
            )  # what it says is checked where it is read
            version = self._db.execute("pragma user_version").fetchone()[0]
            if version > VERSION:
                raise UsageError(
                    f"{self.path} was written by a newer mma (version {version}; this one knows {VERSION}): "
                    "update mma, or choose another with `out=FOLDER`"
                )
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            with self._transaction():
                version = self._db.execute("pragma user_version").fetchone()[0]  # another process may have raised it
                older = (FROM_1 if version == 1 else "") + (FROM_2 if version in (1, 2) else "")
                for statement in (older + TABLES + CLAIMS).split(";"):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version = {VERSION}")
        except sqlite3.OperationalError as error:
            raise UsageError(f"{self.path} cannot be opened ({error}): is it in use, or not yours to write?") from error
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{self.path} is not a results file of mma ({error})") from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the file whole, and without side files where no one else has it open."""
        self._db.close()

    def record(self, result: Result | Failure, config: Mapping[str, Any], *, predictions: bool = True) -> None:
        """Record a cell in place of any earlier record of it. On return it is on the disk."""
        cell = result.cell
        row = {
            "id": cell.id,
            "setting": cell.setting.id,
            "question": cell.setting.question,
            "seed": cell.seed,
            "data": cell.setting.data.digest,
            "dataset": cell.setting.data.dataset,
            "adapter": cell.setting.name,
            "config": to_json({**config, "seed": cell.seed}, sort_keys=True),
        }
        if isinstance(result, Failure):
            row |= {"status": "failed", "reason": result.reason}
        else:
            metrics, details = to_json(result.metrics), to_json(result.details)
            row |= {"status": "done", "metrics": metrics, "details": details, "seconds": result.seconds}
        try:
            with self._transaction():
                self._db.execute("delete from claims where cell = ?", (cell.id,))
                self._db.execute("delete from predictions where cell = ?", (cell.id,))
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                self._db.execute(f"insert or replace into cells ({names}) values ({marks})", tuple(row.values()))
                if predictions and isinstance(result, Result):
                    for each in result.predictions:
                        self._insert_predictions(cell.id, each)
        except sqlite3.DatabaseError as error:
            raise WorkError(f"{self.path} cannot be written ({error}); what is recorded is kept") from error

    def recorded(self, cells: Iterable[Cell]) -> set[str]:
        """Those of some cells that have a record, by id."""
        ids = [cell.id for cell in cells]
        return {each for each in ids if self._db.execute("select 1 from cells where id = ?", (each,)).fetchone()}

    def results(self, cells: Iterable[Cell]) -> dict[str, Result]:
        """The finished ones among some cells, by id; without predictions, see `predictions`.

        Raises WorkError for a record that is damaged.
        """
        found = {}
        for cell in cells:
            row = self._db.execute(
                "select metrics, details, seconds from cells where id = ? and status = 'done'", (cell.id,)
            ).fetchone()
            if row:
                metrics, details, seconds = self._measured(cell.id, *row)
                if not metrics.keys() >= {*cell.setting.metrics}:
                    raise self._damaged(cell.id, "metrics")
                found[cell.id] = Result(cell, metrics, details, seconds, [])
        return found

    def seeds(self, setting: Setting) -> dict[int, dict[str, Any]]:
        """By seed, what is known of a setting: metrics, seconds and details. Raises WorkError as `results`."""
        rows = self._db.execute(
            "select seed, id, metrics, details, seconds from cells where setting = ? and status = 'done' order by seed",
            (setting.id,),
        ).fetchall()
        measured = {seed: self._measured(cell, *values) for seed, cell, *values in rows}
        return {
            seed: {**metrics, "seconds": round(seconds, 3), **details}
            for seed, (metrics, details, seconds) in measured.items()
        }

    def failures(self, cells: Iterable[Cell]) -> dict[str, Failure]:
        """The failed ones among some cells, by id."""
        found = {}
        for cell in cells:
            row = self._db.execute("select reason from cells where id = ? and status = 'failed'", (cell.id,)).fetchone()
            if row:
                found[cell.id] = Failure(cell, str(row[0]))
        return found

    def stale(self, cells: Iterable[Cell]) -> int:
        """How many of some cells have an answer to the same question that is of other data, code or numerics."""
        return sum(self._has_stale(cell) for cell in cells)

    def _has_stale(self, cell: Cell) -> bool:
        asked = "select 1 from cells where question = ? and seed = ? and id != ? limit 1"
        if self._db.execute(asked, (cell.setting.question, cell.seed, cell.id)).fetchone():
            return True
        older = (  # a question of older numerics may have been put in other words
            "select 1 from cells where dataset = ? and adapter = ? and seed = ?"
            " and case when json_valid(config) then json_extract(config, '$.numerics') < ?"
            " and json_extract(config, '$.options') = json(?) end limit 1"
        )
        setting = cell.setting
        options = to_json(dict(setting.options), sort_keys=True)
        return bool(
            self._db.execute(
                older, (setting.data.dataset, setting.name, cell.seed, setting.numerics, options)
            ).fetchone()
        )

    def predictions(self, cell: str) -> list[Predictions]:
        """What was predicted in a cell, test by test; empty where predictions were left out."""
        rows = self._db.execute(
            "select t.name, t.rows, t.label, p.predicted, p.scores from predictions p join tests t on t.id = p.test"
            " where p.cell = ? order by p.rowid",
            (cell,),
        )
        try:
            return [_unpack(*row) for row in rows]
        except (TypeError, ValueError):
            raise self._damaged(cell, "predictions") from None

    def answers(self) -> Iterator[tuple[str, str, NDArray[np.int32]]]:
        """What was predicted in every cell and test, by their ids, in one pass. Raises WorkError as `results`."""
        for cell, test, predicted in self._db.execute("select cell, test, predicted from predictions order by rowid"):
            try:
                yield cell, test, np.frombuffer(predicted, "<i4")
            except (TypeError, ValueError):
                raise self._damaged(cell, "predictions") from None

    def tests(self) -> dict[str, tuple[str, NDArray[np.int32], NDArray[np.int32]]]:
        """By id: what a test is called, its rows and their labels. Raises WorkError for one that is damaged."""
        found = {}
        for test, name, *blobs in self._db.execute("select id, name, rows, label from tests"):
            try:
                rows, label = (np.frombuffer(blob, "<i4") for blob in blobs)
            except (TypeError, ValueError):
                raise WorkError(f"{self.path}: test {test} is damaged: `force=True` runs its cells again") from None
            found[test] = name, rows, label
        return found

    def times(self) -> Iterator[tuple[Kind, float]]:
        """What every finished cell took, in seconds."""
        rows = self._db.execute(
            "select adapter, case when json_valid(config) then json_extract(config, '$.protocol.shots') end,"
            " data, setting, seconds from cells where status = 'done'"
        )
        for adapter, shots, data, setting, seconds in rows:
            if _is_number(seconds):
                yield Kind(adapter, shots, data, setting), float(seconds)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every record, with its JSON read. Raises WorkError as `results`."""
        cursor = self._db.execute("select * from cells order by dataset, adapter, setting, seed")
        names = [column[0] for column in cursor.description]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            for name in ("config", "metrics", "details"):
                row[name] = self._object(row["id"], name, row[name]) if row[name] is not None else {}
            yield row

    def _measured(
        self, cell: str, metrics: Any, details: Any, seconds: Any
    ) -> tuple[dict[str, float], dict[str, Any], float]:
        """The columns of a finished cell, checked."""
        numbers, about = self._object(cell, "metrics", metrics), self._object(cell, "details", details)
        if not all(_is_number(value) for value in numbers.values()):
            raise self._damaged(cell, "metrics")
        if not isinstance(about.get("chosen"), dict) or not isinstance(about.get("new_is_zero_shot"), bool):
            raise self._damaged(cell, "details")
        if not _is_number(seconds):
            raise self._damaged(cell, "seconds")
        return numbers, about, float(seconds)

    def _object(self, cell: str, column: str, text: Any) -> dict[str, Any]:
        try:
            value = parse_json(text)
        except (TypeError, ValueError):
            value = None
        if not isinstance(value, dict):
            raise self._damaged(cell, column)
        return value

    def _damaged(self, cell: str, column: str) -> WorkError:
        return WorkError(f"{self.path}: {column} of cell {cell} are damaged: `force=True` runs it again")

    def _insert_predictions(self, cell: str, predictions: Predictions) -> None:
        rows, label = _pack(predictions.rows), _pack(predictions.label)
        test = hashlib.sha256(predictions.test.encode() + rows + label).hexdigest()[:16]
        self._db.execute("insert or ignore into tests values (?, ?, ?, ?)", (test, predictions.test, rows, label))
        scores = predictions.scores.to_bytes() if predictions.scores else None
        self._db.execute(
            "insert into predictions values (?, ?, ?, ?)", (cell, test, _pack(predictions.predicted), scores)
        )

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """All or nothing, taking the write lock at once."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("rollback" if kind else "commit")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pack(values: NDArray[np.int32]) -> bytes:
    return values.astype("<i4").tobytes()


def _unpack(name: str, rows: bytes, label: bytes, predicted: bytes, scores: bytes | None) -> Predictions:
    """Predictions of the columns. Raises TypeError or ValueError for what cannot be."""
    of_rows, of_label, called = (np.frombuffer(blob, "<i4") for blob in (rows, label, predicted))
    kept = None if scores is None else RowScores.from_bytes(scores, len(of_rows))
    return Predictions(name, of_rows, of_label, called, kept)
