"""`mma reproduce`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from mma.pipeline.cli.commands import chosen, takes
from mma.pipeline.cli.console import AsJson, stderr, stdout
from mma.pipeline.suites.settings import ReproduceSettings

SUITE = inspect.Parameter(
    "suite",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Argument(help="A shipped suite, or a .toml file of one's own. Without one: a list of those shipped."),
    ],
)
AS_JSON = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)


@takes(ReproduceSettings, extra=[SUITE, AS_JSON])
def reproduce(context: typer.Context, suite: str | None, json: bool, **given: Any) -> None:
    """A paper's tables, made again: fetch, embed, fit what is not done, and show ours beside the published numbers."""
    from mma.pipeline.console import show_pairs
    from mma.pipeline.reports.report import check_place, write_text
    from mma.pipeline.suites.reproduce import reproduce as run
    from mma.pipeline.suites.suite import shipped
    from mma.pipeline.suites.written import as_json, markdown, show_reproduced

    if suite is None:
        show_pairs(stdout(), list(shipped().items()))
        return
    settings = chosen(ReproduceSettings, given, suite=suite)
    if settings.markdown:
        check_place("markdown", settings.markdown)
    made = run(settings, stderr())
    if made is None:
        return
    if settings.markdown:
        write_text(settings.markdown, markdown(made), stderr())
    if json:
        print(as_json(made))
    else:
        show_reproduced(stdout(), made)
    if not any(table.rows for table in made.tables):
        raise typer.Exit(1)
