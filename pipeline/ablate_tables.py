"""What a grid found: one row a setting, differences to a baseline paired over seeds, two-way tables, exports."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mma.cache.durable import write_whole
from mma.pipeline.ablate import Ablated
from mma.pipeline.errors import UsageError
from mma.pipeline.factors import as_typed, described, fits, flat
from mma.pipeline.fit import Row
from mma.pipeline.run import METRICS
from mma.pipeline.statistics import mean_interval, mean_text
from mma.pipeline.tables import marked, metric_text, notes

MAIN = {"base-to-new": "H", "few-shot": "accuracy"}
EXPORTS = (".csv", ".jsonl", ".parquet")


def show_ablated(console: Console, ablated: Ablated, factors: Collection[str], baseline: str) -> None:
    """One row a setting: the factors that vary, means with 95 % t-intervals over seeds, the difference to the baseline
    paired over seeds, the mean time of a cell. The best mean of a column, among rows of one data set and protocol, is
    bold.
    """
    for protocol in dict.fromkeys(row.setting.protocol.name for row in ablated.rows):
        rows = [row for row in ablated.rows if row.setting.protocol.name == protocol]
        columns, metrics, main = _varying(rows, factors), METRICS[protocol], MAIN[protocol]
        candidates = [row for row in rows if fits(row.setting, described(baseline))]
        best = _best(rows, metrics)
        table = Table(title=f"{protocol}; best in bold; difference in {main} to {baseline}", title_justify="left")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for metric in (*metrics, "difference", "seeds", "time"):
            table.add_column(metric, justify="right", no_wrap=True)
        for row in rows:
            values = {**flat(row.setting), "adapter": marked(row.setting.adapter)}
            texts = []
            for metric in metrics:
                text = metric_text(row, metric)
                texts.append(
                    f"[bold]{text}[/bold]" if _mean(row, metric) == best[row.setting.dataset, metric] else text
                )
            difference = _difference(row, find_baseline(row, candidates), main)
            table.add_row(
                *(as_typed(values[c]) if c in values else "" for c in columns),
                *texts,
                difference,
                str(len(row.results)),
                f"{row.seconds:.2f} s",
            )
        console.print(table, soft_wrap=False)
    for note in notes(ablated.rows, ablated.failed_images):
        console.print(note)
    for failure in ablated.failures:
        setting = failure.cell.setting
        reason = escape(failure.reason)
        console.print(f"[red]failed[/red]: {setting.adapter} {setting.id}, seed {failure.cell.seed}: {reason}")


def show_pivot(console: Console, ablated: Ablated, pivot: str, metric: str | None) -> None:
    """A two-way table of one metric for every data set and adapter that has both factors.

    All else is averaged within a seed; the interval is over seeds.
    """
    names = _pair(pivot)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in ablated.rows:
        if all(name in flat(row.setting) for name in names) and row.setting.adapter != "zero-shot":
            key = (row.setting.dataset, row.setting.adapter, row.setting.protocol.name)
            groups.setdefault(key, []).append(row)
    if not groups:
        raise UsageError(f"--pivot {pivot!r}: no adapter of the grid has both factors")
    for (dataset, adapter, protocol), rows in groups.items():
        shown = metric or MAIN[protocol]
        if shown not in METRICS[protocol]:
            raise UsageError(f"--metric {shown!r} is none of {', '.join(METRICS[protocol])}")
        seeds: dict[tuple[Any, Any], dict[int, list[float]]] = {}
        for row in rows:
            values = flat(row.setting)
            at = seeds.setdefault((values[names[0]], values[names[1]]), {})
            for result in row.results:
                at.setdefault(result.cell.seed, []).append(result.metrics[shown])
        cells = {at: [float(np.mean(values)) for values in of.values()] for at, of in seeds.items()}  # a value a seed
        across = list(dict.fromkeys(at[1] for at in cells))
        table = Table(title=f"{dataset}, {adapter}, {protocol}: {shown}", title_justify="left")
        table.add_column(f"{names[0]} \\ {names[1]}", no_wrap=True)
        for value in across:
            table.add_column(as_typed(value), justify="right", no_wrap=True)
        for down in dict.fromkeys(at[0] for at in cells):
            table.add_row(as_typed(down), *(mean_text(cells[down, c]) if (down, c) in cells else "" for c in across))
        console.print(table, soft_wrap=False)


def find_baseline(row: Row, candidates: Sequence[Row]) -> Row | None:
    """The baseline of a row: of the rows that fit its description, on the same data, the one most like the row."""
    own = flat(row.setting)

    def likeness(other: Row) -> int:
        return sum(own.get(name) == value for name, value in flat(other.setting).items())

    return max((r for r in candidates if r.setting.dataset == row.setting.dataset), key=likeness, default=None)


def check_pivot(pivot: str | None, metric: str | None) -> None:
    """Refuse a pivot that is not two factors, and a metric that no table has, before the work."""
    if pivot is not None and len(_pair(pivot)) != 2:
        raise UsageError(f"--pivot {pivot!r} needs two factors, such as mask,lam")
    known = [name for names in METRICS.values() for name in names]
    if metric is not None and (pivot is None or metric not in known):
        raise UsageError(f"--metric {metric!r} is for --pivot, and is one of {', '.join(known)}")


def check_export(path: Path) -> None:
    """Refuse an export that cannot be written, before the work."""
    if path.suffix not in EXPORTS:
        raise UsageError(f"--export {path}: the name must end in {', '.join(EXPORTS)}")
    at = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not at.is_dir():
        raise UsageError(
            f"--export {path}: {path if path.is_dir() else at} is a {'folder' if path.is_dir() else 'file'}"
        )
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError("--export to Parquet needs pyarrow: pip install 'mma[parquet]'") from error


def export_rows(path: Path, rows: Sequence[Row]) -> None:
    """One record a cell: its factors, metrics and seconds; CSV, JSON lines or Parquet by the name's suffix."""
    records = [
        {**flat(row.setting), "seed": r.cell.seed, **r.metrics, "seconds": r.seconds, "cell": r.cell.id}
        for row in rows
        for r in row.results
    ]
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


def ablated_json(ablated: Ablated, baseline: str) -> str:
    """The grid as JSON: every setting with its seeds, means and half-widths, and the failures."""

    def row_data(row: Row) -> dict[str, Any]:
        data: dict[str, Any] = {**flat(row.setting), "seeds": [r.cell.seed for r in row.results]}
        for metric in METRICS[row.setting.protocol.name]:
            values = [r.metrics[metric] for r in row.results]
            mean, half = mean_interval(values)
            data[metric] = {"mean": mean, "half_width": half, "values": values}
        return data

    failures = [
        {"cell": f.cell.id, "seed": f.cell.seed, "reason": f.reason, **flat(f.cell.setting)} for f in ablated.failures
    ]
    whole = {"rows": [row_data(row) for row in ablated.rows], "failures": failures, "baseline": baseline}
    return json.dumps({**whole, "notes": notes(ablated.rows, ablated.failed_images)}, indent=2)


def _difference(row: Row, base: Row | None, metric: str) -> str:
    """Mean over the seeds that both have of row minus baseline; a baseline without seeds stands for every seed."""
    if base is None or base is row:
        return ""
    of_base = {r.cell.seed: r.metrics[metric] for r in base.results}
    constant = base.results[0].metrics[metric] if base.setting.protocol.shots == 0 else None
    pairs = [
        r.metrics[metric] - (of_base[r.cell.seed] if constant is None else constant)
        for r in row.results
        if constant is not None or r.cell.seed in of_base
    ]
    if not pairs:
        return ""
    text = mean_text(pairs)
    return text if text.startswith("-") else f"+{text}"


def _mean(row: Row, metric: str) -> float:
    return mean_interval([r.metrics[metric] for r in row.results])[0]


def _best(rows: Sequence[Row], metrics: Sequence[str]) -> dict[tuple[str, str], float]:
    """The best mean of each data set and metric."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        for metric in metrics:
            at = (row.setting.dataset, metric)
            found[at] = max(found.get(at, -1.0), _mean(row, metric))
    return found


def _pair(pivot: str) -> list[str]:
    return [name.strip().replace("-", "_") for name in pivot.split(",") if name.strip()]


def _varying(rows: Sequence[Row], factors: Collection[str]) -> list[str]:
    """The columns that tell rows apart: the adapter, and those of the data set and the factors that differ."""
    flats = [flat(row.setting) for row in rows]
    chosen = [values for values in flats if values["adapter"] != "zero-shot"] or flats

    def differs(name: str) -> bool:
        return len({as_typed(values[name]) for values in chosen if name in values}) > 1

    names = ["dataset", "adapter", *(name for name in factors if name not in ("adapter", "seed", "protocol"))]
    names += ["shots"] if "shots" not in names else []
    return [name for name in names if name == "adapter" or differs(name)]


def _column(values: list[Any]) -> list[Any]:
    """Values of one type, for Parquet: mixed columns become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return values
    return [None if value is None else as_typed(value) for value in values]
