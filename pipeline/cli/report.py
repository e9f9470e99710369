"""`mma report`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from mma.pipeline.cli.commands import chosen, takes
from mma.pipeline.cli.console import stderr, stdout
from mma.pipeline.reports.settings import ReportSettings

RUNS = inspect.Parameter(
    "runs",
    inspect.Parameter.KEYWORD_ONLY,
    default=Path("runs"),
    annotation=Annotated[Path, typer.Argument(help="The results folder of mma fit or mma ablate.")],
)


@takes(ReportSettings, extra=[RUNS])
def report(context: typer.Context, runs: Path, **given: Any) -> None:
    """What runs say: every difference with its interval and verdict; tables for a paper, figures, one page."""
    from mma.pipeline.explaining.of_report import ImageFinder, pictures_of_fits
    from mma.pipeline.reports.page import Beyond
    from mma.pipeline.reports.report import report as run
    from mma.pipeline.reports.written import show_report

    settings = chosen(ReportSettings, given, runs=runs)
    show_report(stdout(), run(settings, stderr(), Beyond(ImageFinder(), pictures_of_fits)))
