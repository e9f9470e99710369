"""What a grid found: one row a setting, differences to a baseline paired over seeds, two-way tables, exports."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from mma.adapters import adapter_class, options_of
from mma.cache.durable import write_whole
from mma.pipeline.console import Cell, Column, show_table
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import NO_SELECTION
from mma.pipeline.fitting.factors import Factors, adapters_of, as_typed, described, matches
from mma.pipeline.fitting.protocols import METRICS
from mma.pipeline.fitting.results import Grid, Row
from mma.pipeline.fitting.settings import FACTORS
from mma.pipeline.options import short
from mma.pipeline.reports.aggregates import worst_tenth
from mma.pipeline.reports.averages import averages
from mma.pipeline.reports.averages import columns as averaged
from mma.pipeline.reports.statistics import mean_interval
from mma.pipeline.reports.tables import (
    TIME,
    average_records,
    interval_text,
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
    for protocol in dict.fromkeys(row.setting.protocol.name for row in ablated.rows):
        rows = [row for row in ablated.rows if row.setting.protocol.name == protocol]
        columns, metrics, main = _varying(rows, factors), rows[0].metrics, rows[0].setting.protocol.main
        held = _held(rows, factors, columns)
        wanted = described(baseline, [row.setting.adapter for row in rows])
        candidates = [row for row in rows if matches(row.setting, wanted)]
        best = _best(rows, metrics)
        title = f"{', '.join(held)}; best in bold; difference in {main} to {baseline}"
        together = averages(rows)
        shown = averaged(metrics) if together else metrics
        table: list[list[Cell]] = []
        for row in rows:
            values = {**_columns(row), "adapter": marked(row.setting)}
            values |= {"select": ""} if values["select"] == NO_SELECTION else {}
            texts: list[Cell] = []
            for metric in metrics:
                text = metric_text(row, metric)
                texts.append(Text(text, style="bold") if _mean(row, metric) == best[row.cache, metric] else text)
            texts += [""] * (len(shown) - len(metrics))
            difference = _difference(row, find_baseline(row, candidates), main)
            varying = [as_typed(values[c]) if c in values else "" for c in columns]
            table.append([*varying, *texts, difference, str(len(row.results)), f"{row.seconds:.2f} s"])
        for average in together:
            first = average.rows[0]
            values = {**_columns(first), "adapter": marked(first.setting), "dataset": AVERAGE, "cache": AVERAGE}
            varying = [as_typed(values[c]) if c in values else "" for c in columns]
            table.append([*varying, *(average.text(m) + star(first, m) for m in shown), "", "", ""])
        measured = [Column(metric, right=True) for metric in (*shown, "difference")]
        show_table(console, [*map(Column, columns), *measured, SEEDS, TIME], table, title)
    for note in notes(ablated):
        console.print(note)
    for failure in ablated.failures:
        what = f"{label(failure.cell.setting)}, {protocol_text([failure.cell.setting])}, seed {failure.cell.seed}"
        console.print(Text.assemble(("failed", "red"), f": {what}: {failure.reason}"))


def show_pivot(console: Console, ablated: Grid, pivot: str, metric: str | None) -> None:
    """A two-way table of one metric for every data set and adapter that has both factors.

    All else is averaged within a seed; the interval is over seeds.
    """
    names = _pair(pivot)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in ablated.rows:
        if all(name in row.setting.flat() for name in names) and row.setting.name != "zero-shot":
            key = (row.cache, row.setting.name, row.setting.protocol.name)
            groups.setdefault(key, []).append(row)
    if not groups:
        raise UsageError(f"--pivot {pivot!r}: no adapter of the grid has both factors")
    for (_, adapter, protocol), rows in groups.items():
        shown = metric if metric in rows[0].metrics else rows[0].setting.protocol.main
        seeds: dict[tuple[Any, Any], dict[int, list[float]]] = {}
        at_place: dict[tuple[Any, Any], list[Row]] = {}
        for row in rows:
            values = row.setting.flat()
            place = values[names[0]], values[names[1]]
            at_place.setdefault(place, []).append(row)
            at = seeds.setdefault(place, {})
            for result in row.results:
                at.setdefault(result.cell.seed, []).append(result.metrics[shown])
        cells = {at: [float(np.mean(values)) for values in of.values()] for at, of in seeds.items()}  # a value a seed
        across = list(dict.fromkeys(at[1] for at in cells))
        title = f"{_data(rows[0], ablated.rows)}, {adapter}, {protocol}: {shown}"
        columns = [Column(f"{names[0]} \\ {names[1]}"), *(Column(as_typed(value), right=True) for value in across)]
        table = []
        for down in dict.fromkeys(at[0] for at in cells):
            line = [(down, value) for value in across]
            texts = (interval_text(cells[each], at_place[each]) if each in cells else "" for each in line)
            table.append([as_typed(down), *texts])
        show_table(console, columns, table, title)


def find_baseline(row: Row, candidates: Sequence[Row]) -> Row | None:
    """The baseline of a row: of the rows that fit its description, on the same cache, the one most like the row."""
    own = row.setting.flat()

    def likeness(other: Row) -> int:
        return sum(own.get(name) == value for name, value in other.setting.flat().items())

    return max((r for r in candidates if r.cache == row.cache), key=likeness, default=None)


def check_pivot(pivot: str | None, metric: str | None, factors: Factors) -> None:
    """Refuse a pivot that is not two factors of the grid, and a metric that no table has, before the work."""
    if pivot is not None:
        names = _pair(pivot)
        if len(names) != 2:
            raise UsageError(f"--pivot {short(pivot)} needs two factors, such as mask,lam")
        has = [_factors_of(adapter) for adapter in adapters_of(factors) if adapter != "zero-shot"] or [_factors_of()]
        for name in names:
            known = set[str]().union(*has)
            if name not in known:
                raise UsageError(f"--pivot {short(pivot)}: unknown factor {name!r}: {nearest(name, sorted(known))}")
        if not any(set(names) <= each for each in has):
            raise UsageError(f"--pivot {pivot}: no adapter of the grid has both factors")
    if metric is not None and (pivot is None or metric not in METRICS):
        raise UsageError(f"--metric {metric!r} is for --pivot, and is one of {', '.join(METRICS)}")


def check_export(path: Path) -> None:
    """Refuse an export that cannot be written, before the work."""
    if path.suffix not in EXPORTS:
        raise UsageError(f"--export {path}: the name must end in {', '.join(EXPORTS)}")
    at = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not at.is_dir():
        raise UsageError(
            f"--export {path}: {path if path.is_dir() else at} is a {'folder' if path.is_dir() else 'file'}"
        )
    if not os.access(path if path.exists() else at, os.W_OK):
        raise UsageError(f"--export {path} is not yours to write: choose another place")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError("--export to Parquet needs pyarrow: pip install 'mma[parquet]'") from error


def export_grid(path: Path, grid: Grid) -> list[Path]:
    """Every cell at `path`; of several data sets also their averages, beside it as NAME-average. What was written."""
    export_records(path, grid.records())
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
        write_whole(path, "".join(json.dumps(record) + "\n" for record in records).encode())
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
    """The grid as JSON: every setting with its seeds, means and half-widths, and the failures."""

    def row_data(row: Row) -> dict[str, Any]:
        data: dict[str, Any] = {**_columns(row), "seeds": [r.cell.seed for r in row.results]}
        data["one_support"] = row.one_support
        for metric in row.metrics:
            values = row.values(metric)
            mean, half = mean_interval(values)
            data[metric] = {"mean": mean, "half_width": half, "worst_tenth": worst_tenth(values), "values": values}
        return data

    failures = [
        {"cell": f.cell.id, "seed": f.cell.seed, "reason": f.reason, **f.cell.setting.flat()} for f in ablated.failures
    ]
    whole = {"rows": [row_data(row) for row in ablated.rows], "failures": failures, "baseline": baseline}
    return json.dumps({**whole, "averages": average_records(ablated), "notes": notes(ablated)}, indent=2)


def _difference(row: Row, base: Row | None, metric: str) -> str:
    """Mean of row minus baseline over the seeds that both have; a result without seeds stands for every seed."""
    if base is None or base is row:
        return ""
    mine, theirs = row.by_seed(metric), base.by_seed(metric)
    pairs = [
        (of_row, of_base)
        for seed in dict.fromkeys([*mine, *theirs])
        if (of_row := mine.get(seed, mine.get(None))) is not None
        and (of_base := theirs.get(seed, theirs.get(None))) is not None
    ]
    if not pairs:
        return ""
    text = interval_text([of_row - of_base for of_row, of_base in pairs], [row, base])
    return text if text.startswith("-") else f"+{text}"


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


def _factors_of(adapter: str = "zero-shot") -> set[str]:
    return {"dataset", *FACTORS, *(option.name for option in options_of(adapter_class(adapter)))}


def _pair(pivot: str) -> list[str]:
    return [name.strip().replace("-", "_") for name in pivot.split(",") if name.strip()]


def _columns(row: Row) -> dict[str, Any]:
    return {**row.setting.flat(), "cache": row.cache}


def _data(row: Row, rows: Sequence[Row]) -> str:
    """What to call a row's data: the data set, or the cache where several are of one data set."""
    alike = {other.cache for other in rows if other.setting.data.dataset == row.setting.data.dataset}
    return row.cache if len(alike) > 1 else row.setting.data.dataset


def _varying(rows: Sequence[Row], factors: Collection[str]) -> list[str]:
    """The columns that tell rows apart: the adapter, and those of the data and the factors that differ."""
    every = [_columns(row) for row in rows]
    chosen = [values for values in every if values["adapter"] != "zero-shot"] or every

    def differs(name: str) -> bool:
        found = {as_typed(values[name]) for values in chosen if name in values}
        return len(found - {NO_SELECTION} if name == "select" else found) > 1

    names = ["adapter", *(name for name in factors if name not in ("adapter", "seed", "protocol"))]
    names += [name for name in ALWAYS_TOLD if name not in names]
    data = "cache" if any(_data(row, rows) == row.cache for row in rows) else "dataset"
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
