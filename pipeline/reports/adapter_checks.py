"""`mma adapters check`: the promises of an adapter, and which of them it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mma.adapters import adapter_class, short_name
from mma.adapters.checks import Check, checks


def adapter_checks(name: str) -> list[Check]:
    """Every promise that concerns an adapter, checked. Raises AdapterError where there is no such adapter."""
    return list(checks(adapter_class(name)))


def show_checks(console: Console, name: str, found: Sequence[Check]) -> None:
    """One row per promise, and how many are kept."""
    table = Table("promise", "", "what broke", title=escape(f"Checks of {short_name(name)}"), title_justify="left")
    for check in found:
        table.add_row(check.name, "kept" if check.ok else "[red]broken[/red]", escape(check.message))
    console.print(table, soft_wrap=False)
    console.print(f"{sum(check.ok for check in found)} of {len(found)} promises are kept", highlight=False)


def checks_json(name: str, found: Sequence[Check]) -> str:
    """The same as JSON."""
    return json.dumps(
        {
            "adapter": short_name(name),
            "ok": all(check.ok for check in found),
            "checks": [check._asdict() for check in found],
        },
        indent=2,
    )
