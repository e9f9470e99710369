"""`mma adapters`: which there are, and what one of them can be told."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from mma.adapters import Adapter, adapter_class, options_of, short_name
from mma.adapters import adapters as known
from mma.adapters.published import PUBLISHED
from mma.adapters.rla import ALL_ROWS
from mma.pipeline.console import Column, show_table
from mma.pipeline.json_text import to_json


def show_adapters(console: Console) -> None:
    """One row per adapter: how it learns, and whether it scores classes without shots."""
    columns = [Column("adapter"), Column("kind"), Column("new classes"), Column("options", spare=True)]
    rows = []
    for name, kind in known().items():
        options = ", ".join(option.name for option in options_of(kind))
        rows.append([name, kind_of(kind), "scored" if kind.class_free else "zero-shot", options])
    show_table(console, columns, rows)
    console.print("`mma adapters NAME` shows one: its source, what it does, its options.")


def show_adapter(console: Console, name: str) -> None:
    """One adapter: source, what it does, recipes with theirs, and options with defaults. Raises AdapterError."""
    about = adapter_data(name)
    lines = [about["adapter"], f"  {about['does']}", f"  source     {about['source']}", f"  kind       {about['kind']}"]
    lines.append(f"  new        classes without shots are scored{'' if about['class_free'] else ' zero-shot'}")
    for number, recipe in enumerate(about["recipes"]):
        values = ", ".join(f"{key} {value_text(key, value)}" for key, value in recipe["values"].items())
        default = "" if number else " (the default)"
        lines.append(f"  recipe     {recipe['name']}{default}: {values}, select {recipe['select']}")
        lines.append(f"             source: {recipe['source']}")
    for dataset, options in about["published"].items():
        values = ", ".join(f"{key} {value:g}" for key, value in options.items())
        lines.append(f"  published  on {dataset}: {values}")
    console.print("\n".join(lines))
    columns = [Column("option"), Column("value"), Column("default"), Column("what it is")]
    rows = []
    for option in about["options"]:
        default = value_text(option["name"], option["default"])
        rows.append([f"--{option['name'].replace('_', '-')}", option["value"], default, option["help"]])
    if rows:
        show_table(console, columns, rows)


def adapters_json(name: str | None) -> str:
    """One adapter, or all of them, as JSON. Raises AdapterError."""
    data: Any = adapter_data(name) if name else [adapter_data(each) for each in known()]
    return to_json(data, indent=2)


def adapter_data(name: str) -> Mapping[str, Any]:
    """All that a person may want to know of an adapter, as plain data. Raises AdapterError."""
    kind = adapter_class(name)
    module = inspect.getdoc(sys.modules[kind.__module__]) or ""
    return {
        "adapter": short_name(name),
        "does": _first_sentence(kind.__doc__ or ""),
        "source": kind.source or module.partition("\n")[0],
        "kind": kind_of(kind),
        "class_free": kind.class_free,
        "recipes": [
            {"name": key, "values": asdict(each.recipe), "select": each.select, "source": each.source}
            for key, each in (kind.recipes.items() if kind.trains else ())
        ],
        "published": PUBLISHED.get(name, {}),
        "options": [
            {"name": option.name, "value": option.meaning, "default": option.default, "help": option.help}
            for option in options_of(kind)
        ],
    }


def value_text(name: str, value: Any) -> str:
    """A value as it is typed, and a batch that no support fills as what it means."""
    if name == "batch" and value == ALL_ROWS:
        return "all rows"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _first_sentence(text: str) -> str:
    words = " ".join(text.split())
    return words.partition(". ")[0].removesuffix(".") + "." if words else ""


def kind_of(kind: type[Adapter]) -> str:
    """How an adapter learns, in a word or two."""
    how = "trained" if kind.trains else "at test time" if kind.uses_views == "test" else "closed form"
    return {"no": how, "stream": "on the test stream", "batch": "on all test rows"}[kind.transductive]
