"""Results as a person reads them (a table on stdout) and as a machine does (JSON)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console

from mma.adapters import adapter_class, options_of
from mma.pipeline.console import Column, show_table
from mma.pipeline.fitting.cells import Setting
from mma.pipeline.fitting.results import Grid, Row, setting_folder
from mma.pipeline.reports.statistics import mean_interval, mean_text

FALLBACK = "*"
TEST_TIME = "†"
TIME = Column("time", right=True, spare=True)


def show_fitted(console: Console, fitted: Grid) -> None:
    """One table for each cache, one row per adapter, zero-shot first; means over seeds with their 95 % Student-t
    half-widths, in percent.
    """
    for cache in dict.fromkeys(row.cache for row in fitted.rows):
        _show_cache(console, [row for row in fitted.rows if row.cache == cache])
    for note in notes(fitted):
        console.print(note)


def _show_cache(console: Console, rows: Sequence[Row]) -> None:
    last = rows[-1]  # zero-shot, the first, has neither seeds nor selection
    title = f"{last.setting.data.dataset}, {protocol_text([row.setting for row in rows])}, {seeds_text(last)}, " + (
        selection_text(last.setting.select)
    )
    columns = [Column("adapter"), *(Column(metric, right=True) for metric in last.metrics), TIME]
    lines = [
        [label(row.setting), *(metric_text(row, metric) for metric in row.metrics), f"{row.seconds:.2f} s"]
        for row in rows
    ]
    show_table(console, columns, lines, title)


def seeds_text(row: Row) -> str:
    """`seeds 0, 1, 2`, or `seeds 0 to 9`."""
    seeds = [result.cell.seed for result in row.results]
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def metric_text(row: Row, metric: str) -> str:
    """Mean and half-width, starred where new classes are scored zero-shot for want of weights."""
    text = mean_text(row.values(metric))
    return text + FALLBACK if metric != "base" and falls_back(row) else text


def falls_back(row: Row) -> bool:
    """Whether the row's adapter has no weights for new classes."""
    return any(result.details["new_is_zero_shot"] for result in row.results)


def notes(grid: Grid) -> list[str]:
    """What a reader of the table must know."""
    rows, found = grid.rows, []
    if any(falls_back(row) for row in rows):
        found.append(f"{FALLBACK} has no weights for classes without shots: new classes are scored zero-shot")
    if any(sees_test_rows(row.setting.adapter) for row in rows):
        found.append(f"{TEST_TIME} learns from unlabelled test rows: one by one, as a stream, or all at once")
    if any(row.setting.select == "oracle" for row in rows):
        found.append("ORACLE: epochs were selected on the test rows; these numbers are upper bounds, not results")
    return [*found, *grid.notes]


def label(setting: Setting) -> str:
    """The adapter, and those of its options that are not the default: `mma lam=0.5`; marked if it sees test rows."""
    defaults = {option.name: option.default for option in options_of(adapter_class(setting.adapter))}
    changed = [f"{name}={value}" for name, value in setting.options if value != defaults[name]]
    if setting.recipe:
        own = adapter_class(setting.adapter).recipe
        changed += [
            f"{f.name}={value}"
            for f in fields(own)
            if (value := getattr(setting.recipe, f.name)) != getattr(own, f.name)
        ]
    return " ".join([marked(setting), *changed])


def marked(setting: Setting) -> str:
    """What the adapter is called, with a dagger if it looks at unlabelled test rows."""
    return setting.name + TEST_TIME if sees_test_rows(setting.adapter) else setting.name


def sees_test_rows(adapter: str) -> bool:
    """Whether an adapter looks at unlabelled test rows beyond the one it scores. Raises AdapterError."""
    kind = adapter_class(adapter)
    return kind.transductive != "no" or kind.uses_views == "test"


def protocol_text(settings: Sequence[Setting]) -> str:
    """`base-to-new, 16 shots`, with whatever else is not the default."""
    setting = settings[-1]
    protocol, data = setting.protocol, setting.data
    shots = max(setting.protocol.shots for setting in settings)
    words = [protocol.name] + ([f"{shots} shot{'s' * (shots > 1)}"] if shots else [])
    for field in fields(protocol):
        value = getattr(protocol, field.name)
        if field.name != "shots" and value != field.default:
            words.append(f"{field.name} {value}")
    words += [
        f"{name} {value}"
        for name, value in (("prompts", data.prompts), ("reduce", data.reduce))
        if value not in ("default", "unit")
    ]
    return ", ".join(words)


def selection_text(select: str) -> str:
    """How the epoch was chosen, in words."""
    return {
        "val": "selected on validation",
        "last": "last epoch",
        "oracle": "selected on TEST (oracle)",
        "none": "nothing to select",
    }[select]


def fitted_json(fitted: Grid) -> str:
    """The table as JSON: means, half-widths (null for one seed), every seed, and where the files lie."""

    def row_data(row: Row) -> dict[str, Any]:
        data: dict[str, Any] = {**row.setting.config(), "cache": row.cache}
        for metric in row.metrics:
            mean, half = mean_interval(row.values(metric))
            data[metric] = {"mean": mean, "half_width": half, "seeds": row.values(metric)}
        data["new_is_zero_shot"] = falls_back(row)
        data["seconds"] = row.seconds
        return {**data, "folder": str(setting_folder(row.out, row.setting)) if row.out else None}

    return json.dumps({"rows": [row_data(row) for row in fitted.rows], "notes": notes(fitted)}, indent=2)
