"""Results as a person reads them (a table on stdout) and as a machine does (JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console

from mma.adapters import adapter_class, options_of
from mma.pipeline.console import Column, show_table
from mma.pipeline.fitting.cells import NO_SELECTION, Setting
from mma.pipeline.fitting.results import Grid, Row, setting_folder
from mma.pipeline.json_text import to_json
from mma.pipeline.reports.aggregates import worst_tenth
from mma.pipeline.reports.averages import MISSING, Average, averages, records
from mma.pipeline.reports.averages import columns as averaged
from mma.pipeline.reports.statistics import mean_interval, mean_text

FALLBACK = "*"
TEST_TIME = "†"
TIME = Column("time", right=True, spare=True)
ONE_SUPPORT = "‡"


def show_fitted(console: Console, fitted: Grid) -> None:
    """One table for each cache and protocol, one row per adapter, zero-shot first; means over seeds with their 95 %
    Student-t half-widths, in percent.
    """
    for at in dict.fromkeys((row.cache, row.setting.protocol.name) for row in fitted.rows):
        _show_cache(console, [row for row in fitted.rows if (row.cache, row.setting.protocol.name) == at])
    for protocol in dict.fromkeys(row.setting.protocol.name for row in fitted.rows):
        _show_averages(console, [row for row in fitted.rows if row.setting.protocol.name == protocol])
    for note in notes(fitted):
        console.print(note)


def _show_averages(console: Console, rows: Sequence[Row]) -> None:
    """One row per setting: its averages over data sets, where there are several."""
    found = averages(rows)
    if not found:
        return
    title = f"average of {len({row.cache for row in rows})} data sets, {protocol_text([row.setting for row in rows])}"
    metrics = averaged(rows[0].metrics)
    lines = [
        [label(average.rows[0].setting), *(average.text(metric) + star(average.rows[0], metric) for metric in metrics)]
        for average in found
    ]
    show_table(console, [Column("adapter"), *(Column(metric, right=True) for metric in metrics)], lines, title)


def _show_cache(console: Console, rows: Sequence[Row]) -> None:
    settings = [row.setting for row in rows]
    recipes = list(dict.fromkeys(s.recipe_name for s in settings if s.recipe_name))
    selections = list(dict.fromkeys(s.select for s in settings if s.select != NO_SELECTION))
    words = [settings[0].data.dataset, protocol_text(settings), seeds_text(rows)]
    words += [f"recipe {recipes[0]}"] if len(recipes) == 1 else []
    words += [selection_text(selections[0])] if len(selections) == 1 else []
    differing = [name for name, found in (("recipe", recipes), ("select", selections)) if len(found) > 1]
    measured = [Column(metric, right=True) for metric in rows[0].metrics]
    columns = [Column("adapter"), *measured, TIME, *map(Column, differing)]
    lines = []
    for row in rows:
        told = {"recipe": row.setting.recipe_name or "", "select": row.setting.select}
        name = " ".join([marked(row.setting), *changes(row.setting)])
        values = [*(metric_text(row, metric) for metric in row.metrics), f"{row.seconds:.2f} s"]
        lines.append([name, *values, *(told[name] if told[name] != NO_SELECTION else "" for name in differing)])
    show_table(console, columns, lines, ", ".join(word for word in words if word))


def seeds_text(rows: Sequence[Row]) -> str:
    """`seeds 0, 1, 2`, or `seeds 0 to 9`; nothing where no row has seeds, as zero-shot has none."""
    of_rows = (
        [result.cell.seed for result in row.results] for row in rows if adapter_class(row.setting.adapter).seeded
    )
    seeds = max(of_rows, key=len, default=[])
    if not seeds:
        return ""
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def metric_text(row: Row, metric: str) -> str:
    """Mean and half-width, marked where that is over one support; starred where new classes are scored zero-shot for
    want of weights.
    """
    return interval_text(row.values(metric), [row]) + star(row, metric)


def star(row: Row, metric: str) -> str:
    """A star where a metric is of new classes that are scored zero-shot for want of weights."""
    return FALLBACK if metric not in ("base", "source") and falls_back(row) else ""


def interval_text(values: Sequence[float], rows: Sequence[Row]) -> str:
    """Mean and half-width of values that come from some rows, marked where the seeds of one drew no support each."""
    text = mean_text(values)
    return text + ONE_SUPPORT if "±" in text and any(row.one_support for row in rows) else text


def falls_back(row: Row) -> bool:
    """Whether the row's adapter has no weights for new classes."""
    return any(result.details["new_is_zero_shot"] for result in row.results)


def notes(grid: Grid) -> list[str]:
    """What a reader of the table must know."""
    rows, found = grid.rows, []
    if any(falls_back(row) for row in rows):
        found.append(f"{FALLBACK} has no weights for classes without shots: new classes are scored zero-shot")
    if any(not average.values for average in _every_average(rows)):
        found.append(f"{MISSING} no average: it is not there on every data set")
    if any(sees_test_rows(row.setting.adapter) for row in rows):
        found.append(f"{TEST_TIME} learns from unlabelled test rows: one by one, as a stream, or all at once")
    if any(row.one_support for row in rows):
        found.append(
            f"one support: all seeds draw the same shots; ±{ONE_SUPPORT} is over training seeds alone (weights, "
            "batches, validation rows), not over draws of shots"
        )
    if any(row.setting.select == "oracle" for row in rows):
        found.append("ORACLE: epochs were selected on the test rows; these numbers are upper bounds, not results")
    return [*found, *grid.notes]


def _every_average(rows: Sequence[Row]) -> list[Average]:
    protocols = dict.fromkeys(row.setting.protocol.name for row in rows)
    return [each for name in protocols for each in averages([r for r in rows if r.setting.protocol.name == name])]


def average_records(grid: Grid) -> list[dict[str, Any]]:
    """One flat record for every average over data sets, of every protocol; none where there is one data set."""
    return records(_every_average(grid.rows))


def label(setting: Setting) -> str:
    """The adapter, its recipe and those of its options that are not the default: `mma lam=0.5`; marked if it sees test
    rows.
    """
    name, first = setting.recipe_name, next(iter(adapter_class(setting.adapter).recipes))
    recipe = [f"recipe={name}"] if name and name != first else []
    return " ".join([marked(setting), *recipe, *changes(setting)])


def changes(setting: Setting) -> list[str]:
    """Options that are not the default, and values that are not those of the named recipe: `lam=0.5`, `lr=0.01`."""
    defaults = {option.name: option.default for option in options_of(adapter_class(setting.adapter))}
    changed = [f"{name}={value}" for name, value in setting.options if value != defaults[name]]
    if setting.recipe and setting.recipe_name:
        own = adapter_class(setting.adapter).recipes[setting.recipe_name].recipe
        changed += [
            f"{f.name}={value}"
            for f in fields(own)
            if (value := getattr(setting.recipe, f.name)) != getattr(own, f.name)
        ]
    return changed


def columns_of(row: Row) -> dict[str, Any]:
    """A row's factors by name, and the cache."""
    return {**row.setting.flat(), "cache": row.cache}


def data_name(row: Row, rows: Sequence[Row]) -> str:
    """What to call a row's data among some rows: the data set, or the cache where several are of one data set."""
    alike = {other.cache for other in rows if other.setting.data.dataset == row.setting.data.dataset}
    return row.cache if len(alike) > 1 else row.setting.data.dataset


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
        "classes": "selected on held-out classes",
        "last": "last epoch",
        "oracle": "selected on TEST (oracle)",
    }[select]


def fitted_json(fitted: Grid) -> str:
    """The table as JSON: means, half-widths (null for one seed), the worst tenth of seeds, every seed, where the files
    lie, and averages over data sets.
    """

    def row_data(row: Row) -> dict[str, Any]:
        data: dict[str, Any] = {**row.setting.config(), "cache": row.cache}
        for metric in row.metrics:
            mean, half = mean_interval(row.values(metric))
            worst = worst_tenth(row.values(metric))
            data[metric] = {"mean": mean, "half_width": half, "worst_tenth": worst, "seeds": row.values(metric)}
        data["new_is_zero_shot"] = falls_back(row)
        data["one_support"] = row.one_support
        data["seconds"] = row.seconds
        return {**data, "folder": str(setting_folder(row.out, row.setting)) if row.out else None}

    whole = {"rows": [row_data(row) for row in fitted.rows], "averages": average_records(fitted)}
    return to_json({**whole, "notes": notes(fitted)}, indent=2)
