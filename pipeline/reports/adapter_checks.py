"""`mma adapters check`: the promises of an adapter, and which of them it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from mma.adapters import adapter_class, short_name
from mma.adapters.checks import Check, checks
from mma.pipeline.console import Cell, Column, show_table
from mma.pipeline.json_text import to_json


def adapter_checks(name: str) -> list[Check]:
    """Every promise that concerns an adapter, checked. Raises AdapterError where there is no such adapter."""
    return list(checks(adapter_class(name)))


def show_checks(console: Console, name: str, found: Sequence[Check]) -> None:
    """One row per promise, and how many are kept."""
    columns = [Column("promise"), Column("state"), Column("what broke")]
    rows: list[list[Cell]] = [
        [check.name, "kept" if check.ok else Text("broken", style="red"), check.message] for check in found
    ]
    show_table(console, columns, rows, f"Checks of {short_name(name)}")
    console.print(f"{sum(check.ok for check in found)} of {len(found)} promises are kept")


def checks_json(name: str, found: Sequence[Check]) -> str:
    """The same as JSON."""
    return to_json(
        {
            "adapter": short_name(name),
            "ok": all(check.ok for check in found),
            "checks": [check._asdict() for check in found],
        },
        indent=2,
    )
