"""Results as a person reads them (a table on stdout) and as a machine does (JSON)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from mma.adapters import adapter_class, options_of
from mma.pipeline.fitting.cells import Setting
from mma.pipeline.fitting.episodes import Protocol
from mma.pipeline.fitting.fit import FitSettings, Fitted, Row, setting_folder
from mma.pipeline.fitting.run import METRICS
from mma.pipeline.reports.statistics import mean_interval, mean_text

FALLBACK = "*"
TEST_TIME = "†"


def show_fitted(console: Console, fitted: Fitted, settings: FitSettings) -> None:
    """One row an adapter, zero-shot first; means over seeds with their 95 % Student-t half-widths, in percent."""
    last = fitted.rows[-1].setting
    metrics = METRICS[settings.protocol.name]
    protocol = protocol_text([row.setting for row in fitted.rows])
    title = f"{last.dataset}, {protocol}, seeds {settings.seeds}, {selection_text(settings.select)}"
    table = Table(title=title, title_justify="left", min_width=min(len(title), console.width))
    table.add_column("adapter", no_wrap=True)
    for metric in (*metrics, "time"):
        table.add_column(metric, justify="right", no_wrap=True)
    for row in fitted.rows:
        table.add_row(label(row.setting), *(metric_text(row, metric) for metric in metrics), f"{row.seconds:.2f} s")
    console.print(table, soft_wrap=False)
    for note in notes(fitted.rows, fitted.failed_images):
        console.print(note)


def metric_text(row: Row, metric: str) -> str:
    """Mean and half-width, starred where new classes are scored zero-shot for want of weights."""
    text = mean_text([result.metrics[metric] for result in row.results])
    return text + FALLBACK if metric != "base" and falls_back(row) else text


def falls_back(row: Row) -> bool:
    """Whether the row's adapter has no weights for new classes."""
    return any(result.details["new_is_zero_shot"] for result in row.results)


def notes(rows: Sequence[Row], failed_images: int) -> list[str]:
    """What a reader of the table must know."""
    found = []
    if any(falls_back(row) for row in rows):
        found.append(f"{FALLBACK} has no weights for classes without shots: new classes are scored zero-shot")
    if any(_sees_test_rows(row.setting.adapter) for row in rows):
        found.append(f"{TEST_TIME} learns from unlabelled test rows: one by one, as a stream, or all at once")
    if any(row.setting.select == "oracle" for row in rows):
        found.append("ORACLE: epochs were selected on the test rows; these numbers are upper bounds, not results")
    if failed_images:
        found.append(f"{failed_images} images of the cache have no embedding and are left out")
    return found


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
    return " ".join([marked(setting.adapter), *changed])


def marked(adapter: str) -> str:
    """The adapter's name, with a dagger if it looks at unlabelled test rows."""
    return adapter + TEST_TIME if _sees_test_rows(adapter) else adapter


def _sees_test_rows(adapter: str) -> bool:
    kind = adapter_class(adapter)
    return kind.transductive != "no" or kind.uses_views == "test"


def protocol_text(settings: Sequence[Setting]) -> str:
    """`base-to-new, 16 shots`, with whatever else is not the default."""
    protocol = settings[-1].protocol
    shots = max(setting.protocol.shots for setting in settings)
    words = [protocol.name] + ([f"{shots} shot{'s' * (shots > 1)}"] if shots else [])
    for field in fields(Protocol):
        value = getattr(protocol, field.name)
        if field.name not in ("name", "shots") and value != field.default:
            words.append(f"{field.name} {value}")
    setting = settings[-1]
    words += [
        f"{name} {value}"
        for name, value in (("prompts", setting.prompts), ("reduce", setting.reduce))
        if value not in ("default", "unit")
    ]
    return ", ".join(words)


def selection_text(select: str) -> str:
    """How the epoch was chosen, in words."""
    return {"val": "selected on validation", "last": "last epoch", "oracle": "selected on TEST (oracle)"}[select]


def fitted_json(fitted: Fitted, settings: FitSettings) -> str:
    """The table as JSON: means, half-widths (null for one seed), every seed, and where the files lie."""

    def row_data(row: Row) -> dict[str, Any]:
        data: dict[str, Any] = row.setting.config()
        for metric in METRICS[settings.protocol.name]:
            values = [result.metrics[metric] for result in row.results]
            mean, half = mean_interval(values)
            data[metric] = {"mean": mean, "half_width": half, "seeds": values}
        data["new_is_zero_shot"] = falls_back(row)
        data["seconds"] = row.seconds
        return {**data, "folder": str(setting_folder(settings.out, row.setting))}

    whole = {"rows": [row_data(row) for row in fitted.rows], "notes": notes(fitted.rows, fitted.failed_images)}
    return json.dumps(whole, indent=2)
