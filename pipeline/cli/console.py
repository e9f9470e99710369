"""Where words go: tables and JSON to stdout, progress and notes to stderr."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from mma.pipeline.console import make_console

UNBOUNDED = 10_000  # columns

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def stdout() -> Console:
    """For results: as wide as the terminal, or as the widest table where it is not one."""
    console = make_console()
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console


def stderr() -> Console:
    """For plans, progress and notes."""
    return make_console(stderr=True)
