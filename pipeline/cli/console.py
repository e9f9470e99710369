"""Where words go: tables and JSON to stdout, progress and notes to stderr. Long lines are not cut."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

UNBOUNDED = 400  # columns

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def stdout() -> Console:
    """For results: as wide as the terminal, or as the widest table where it is not one."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console


def stderr() -> Console:
    """For plans, progress and notes."""
    return Console(stderr=True, soft_wrap=True, highlight=False)
