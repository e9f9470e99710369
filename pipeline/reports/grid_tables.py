"""What a grid found: one row for every setting, with its difference to a baseline; the same as JSON and as a file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mma.cache.durable import write_whole
from mma.pipeline.console import Cell, Column, show_table
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import NO_SELECTION
from mma.pipeline.fitting.factors import as_typed, described, matches
from mma.pipeline.fitting.results import Grid, Row
from mma.pipeline.json_text import to_json
from mma.pipeline.options import written
from mma.pipeline.reports.aggregates import worst_tenth
from mma.pipeline.reports.averages import MISSING, averages
from mma.pipeline.reports.averages import columns as averaged
from mma.pipeline.reports.differences import difference_text, differences, key_of, records_of
from mma.pipeline.reports.statistics import mean_interval
from mma.pipeline.reports.tables import (
    TIME,
    average_records,
    columns_of,
    data_name,
    label,
    marked,
    metric_text,
    notes,
    protocol_text,
    star,
)

SEEDS = Column("seeds", right=True, spare=True)
ALWAYS_TOLD = ("shots", "recipe", "select")  # in the title of a grid, or in a column of their own
AVERAGE = "average"  # in the column of the data
EXPORTS = (".csv", ".jsonl", ".parquet")


def show_ablated(console: Console, ablated: Grid, factors: Collection[str], baseline: str) -> None:
    """One row a setting: the factors that vary, means with 95 % t-intervals over seeds, the difference to the baseline
    paired over seeds, the mean time of a cell. The best mean of a column, among rows of one cache, is bold. Of several
    data sets, averages are the last rows.
    """
    changes = differences(ablated.rows, baseline)
    wanted = described(baseline, [row.setting.adapter for row in ablated.rows])
    unpaired = False
    for protocol in dict.fromkeys(row.setting.protocol.name for row in ablated.rows):
        rows = [row for row in ablated.rows if row.setting.protocol.name == protocol]
        columns, metrics, main = _varying(rows, factors), rows[0].metrics, rows[0].setting.protocol.main
        held = _held(rows, factors, columns)
        best = _best(rows, metrics)
        title = f"{', '.join(held)}; best in bold; difference in {main} to {baseline}"
        together = averages(rows)
        shown = averaged(metrics) if together else metrics
        table: list[list[Cell]] = []
        for row in rows:
            values = {**columns_of(row), "adapter": marked(row.setting)}
            values |= {"select": ""} if values["select"] == NO_SELECTION else {}
            texts: list[Cell] = []
            for metric in metrics:
                text = metric_text(row, metric)
                texts.append(Text(text, style="bold") if _mean(row, metric) == best[row.cache, metric] else text)
            texts += [""] * (len(shown) - len(metrics))
            own = "" if matches(row.setting, wanted) else MISSING
            difference = difference_text(row, *changes[key_of(row)]) if key_of(row) in changes else own
            unpaired |= difference == MISSING
            varying = [as_typed(values[c]) if c in values else "" for c in columns]
            table.append([*varying, *texts, difference, str(len(row.results)), f"{row.seconds:.2f} s"])
        for average in together:
            first = average.rows[0]
            values = {**columns_of(first), "adapter": marked(first.setting), "dataset": AVERAGE, "cache": AVERAGE}
            varying = [as_typed(values[c]) if c in values else "" for c in columns]
            table.append([*varying, *(average.text(m) + star(first, m) for m in shown), "", "", ""])
        measured = [Column(metric, right=True) for metric in (*shown, "difference")]
        show_table(console, [*map(Column, columns), *measured, SEEDS, TIME], table, title)
    for note in notes(ablated):
        console.print(note)
    if unpaired:
        console.print(f"{MISSING} no difference: {baseline} has no result on the same data under the same conditions")
    for failure in ablated.failures:
        what = f"{label(failure.cell.setting)}, {protocol_text([failure.cell.setting])}, seed {failure.cell.seed}"
        console.print(Text.assemble(("failed", "red"), f": {what}: {failure.reason}"))


def check_export(path: Path) -> None:
    """Refuse an export that cannot be written, before the work."""
    if path.suffix not in EXPORTS:
        raise UsageError(f"{written('export', path)}: the name must end in {', '.join(EXPORTS)}")
    at = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not at.is_dir():
        raise UsageError(
            f"{written('export', path)}: {path if path.is_dir() else at} is a {'folder' if path.is_dir() else 'file'}"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"--export {path} is not a regular file: choose another place")
    if not os.access(path if path.exists() else at, os.W_OK):
        raise UsageError(f"{written('export', path)} is not yours to write: choose another place")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError("`export=FILE.parquet` needs pyarrow: pip install 'mma[parquet]'") from error


def export_grid(path: Path, grid: Grid, baseline: str) -> list[Path]:
    """Every cell at `path`, with its difference to the baseline; of several data sets also their averages, beside it as
    NAME-average. What was written.
    """
    export_records(path, records_of(grid, baseline))
    together = average_records(grid)
    if not together:
        return [path]
    beside = path.with_stem(f"{path.stem}-{AVERAGE}")
    export_records(beside, together)
    return [path, beside]


def export_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One record for every cell; CSV, JSON lines or Parquet by the name's suffix."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if path.suffix == ".jsonl":
        write_whole(path, "".join(to_json(record) + "\n" for record in records).encode())
    elif path.suffix == ".csv":
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(records)
        write_whole(path, stream.getvalue().encode())
    else:
        import pyarrow
        import pyarrow.parquet

        columns = {name: _column([record.get(name) for record in records]) for name in names}
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), sink)
        write_whole(path, sink.getvalue())


def ablated_json(ablated: Grid, baseline: str) -> str:
    """The grid as JSON: every setting with its seeds, means, half-widths and its difference to the baseline in the main
    metric (null where none pairs), and the failures.
    """
    changes = differences(ablated.rows, baseline)

    def row_data(row: Row) -> dict[str, Any]:
        data: dict[str, Any] = {**columns_of(row), "seeds": [r.cell.seed for r in row.results]}
        data["one_support"] = row.one_support
        for metric in row.metrics:
            values = row.values(metric)
            mean, half = mean_interval(values)
            data[metric] = {"mean": mean, "half_width": half, "worst_tenth": worst_tenth(values), "values": values}
        data["difference"] = None
        if key_of(row) in changes:
            _, change = changes[key_of(row)]
            mean, half = mean_interval(list(change.values()))
            seeds = [seed for seed in change if seed is not None]
            data["difference"] = {"metric": row.setting.protocol.main, "mean": mean, "half_width": half, "seeds": seeds}
        return data

    failures = [
        {"cell": f.cell.id, "seed": f.cell.seed, "reason": f.reason, **f.cell.setting.flat()} for f in ablated.failures
    ]
    whole = {"rows": [row_data(row) for row in ablated.rows], "failures": failures, "baseline": baseline}
    return to_json({**whole, "averages": average_records(ablated), "notes": notes(ablated)}, indent=2)


def _mean(row: Row, metric: str) -> float:
    return mean_interval(row.values(metric))[0]


def _best(rows: Sequence[Row], metrics: Sequence[str]) -> dict[tuple[str, str], float]:
    """The best mean of each cache and metric."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        for metric in metrics:
            at = (row.cache, metric)
            found[at] = max(found.get(at, -1.0), _mean(row, metric))
    return found


def _varying(rows: Sequence[Row], factors: Collection[str]) -> list[str]:
    """The columns that tell rows apart: the adapter, and those of the data and the factors that differ."""
    every = [columns_of(row) for row in rows]
    data = "cache" if any(data_name(row, rows) == row.cache for row in rows) else "dataset"
    chosen = [values for values in every if values["adapter"] != "zero-shot"] or every

    def differs(name: str) -> bool:
        found = {as_typed(values[name]) for values in (every if name == data else chosen) if name in values}
        return len(found - {NO_SELECTION} if name == "select" else found) > 1

    names = ["adapter", *(name for name in factors if name not in ("adapter", "seed", "protocol"))]
    names += [name for name in ALWAYS_TOLD if name not in names]
    return [name for name in (data, *names) if name == "adapter" or differs(name)]


def _held(rows: Sequence[Row], factors: Collection[str], columns: Collection[str]) -> list[str]:
    """What is the same in all rows of a table, in words: the data, the protocol, and the factors given."""
    words = [] if {"dataset", "cache"} & set(columns) else [rows[0].setting.data.dataset]
    words.append(rows[0].setting.protocol.name)
    for name in dict.fromkeys([*factors, *ALWAYS_TOLD]):
        values = {as_typed(row.setting.flat()[name]) for row in rows if name in row.setting.flat()}
        values -= {NO_SELECTION} if name == "select" else set()
        if name not in ("adapter", "protocol") and name not in columns and len(values) == 1:
            words.append(f"{name} {values.pop()}")
    return words


def _column(values: list[Any]) -> list[Any]:
    """Values of one type, for Parquet: mixed columns become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return values
    return [None if value is None else as_typed(value) for value in values]
