"""`mma report`: read a results folder, and write what it says in the forms that are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from mma.cache.durable import write_whole
from mma.pipeline.errors import UsageError
from mma.pipeline.reports.figures import write_figures
from mma.pipeline.reports.make_report import make_report
from mma.pipeline.reports.page import Beyond, page
from mma.pipeline.reports.settings import ReportSettings
from mma.pipeline.reports.sheets import Layout, lay_out
from mma.pipeline.reports.written import as_csv, latex, markdown


def report(settings: ReportSettings, console: Console, beyond: Beyond | None = None) -> Layout:
    """Make the report, and write the files; `beyond`: what the page shows besides.

    Raises UsageError before any work where a file cannot be written.
    """
    forms: dict[str, Callable[[Layout], str]] = {
        "markdown": markdown,
        "latex": latex,
        "csv": lambda made: as_csv(made.report),
        "html": lambda made: page(made, beyond or Beyond()),
    }
    for name in (*forms, "figures"):
        path = getattr(settings, name)
        if path is not None:
            check_place(name, path)
    by = [name.replace("-", "_") for name in settings.by]
    made = lay_out(make_report(settings.runs, settings.baseline), by)
    for name, form in forms.items():
        path = getattr(settings, name)
        if path is not None:
            write_text(path, form(made), console)
    if settings.figures:
        files = write_figures(made, settings.figures)
        console.print(f"{len(files)} files are written to {settings.figures}", markup=False)
    return made


def write_text(path: Path, text: str, console: Console) -> None:
    """Write a file whole, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.resolve(), text.encode())
    console.print(f"{path} is written", markup=False)


def check_place(name: str, path: Path) -> None:
    """Refuse a place where the file (or, of figures, folder) of an option cannot be. Raises UsageError."""
    at = next(parent for parent in path.absolute().parents if parent.exists())
    folder = name == "figures"
    if path.is_dir() and not folder:
        raise UsageError(f"`{name}={path}` is a folder: give a file")
    if not at.is_dir() or (folder and path.is_file()):
        raise UsageError(f"`{name}={path}`: {path if path.is_file() else at} is a file: choose another place")
    if (path.exists() or path.is_symlink()) and not path.is_file() and not folder:
        raise UsageError(f"`{name}={path}` is not a regular file: choose another place")
    if not os.access(path if path.exists() else at, os.W_OK):
        raise UsageError(f"`{name}={path}` is not yours to write: choose another place")
