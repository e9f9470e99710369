"""Where words go: tables and JSON to stdout, progress and notes to stderr."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from mma.pipeline.cli.commands import as_factors, as_flags
from mma.pipeline.console import make_console
from mma.pipeline.fitting.settings import AblateSettings
from mma.pipeline.reports.settings import TableSettings

UNBOUNDED = 10_000  # columns

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def stdout() -> Console:
    """For results: as wide as the terminal, or as the widest table where it is not one."""
    console = make_console(told)
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console


def stderr() -> Console:
    """For plans, progress and notes."""
    return make_console(told, stderr=True)


def told(message: str) -> str:
    """A message with its options as the command that runs takes them."""
    return as_factors(message, AblateSettings, TableSettings) if "ablate" in sys.argv else as_flags(message)
