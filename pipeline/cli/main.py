"""The command line. Every command imports its own work when it runs, so that `mma --help` loads no torch."""

from __future__ import annotations

import inspect
import io
import os
import sqlite3
import sys
import traceback
from importlib.metadata import version as metadata_version
from pathlib import Path
from typing import Annotated, Any

import typer

from mma.pipeline.cli.adapters import adapters_app
from mma.pipeline.cli.cache import cache_app
from mma.pipeline.cli.commands import chosen, extra_options, takes
from mma.pipeline.cli.console import AsJson, stderr, stdout, told
from mma.pipeline.cli.datasets import datasets_app
from mma.pipeline.cli.explaining import explain
from mma.pipeline.cli.groups import Command, CommandGroup
from mma.pipeline.cli.interruption import interruptible
from mma.pipeline.cli.report import report
from mma.pipeline.cli.reproduce import reproduce
from mma.pipeline.cli.using import audit, export, predict, search
from mma.pipeline.console import plain, show_pairs
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.fitting.settings import AUTO, AblateSettings, FitSettings
from mma.pipeline.reports.settings import TableSettings

app = typer.Typer(
    name="mma",
    cls=CommandGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(adapters_app)
app.add_typer(cache_app)
app.add_typer(datasets_app)

DEBUG = "--debug"


AS_JSON = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
FACTORS = inspect.Parameter(
    "factors",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[str] | None, typer.Argument(help="key=a,b,c or key=0:10 or key=0:1:0.1")],
)
GRID = inspect.Parameter(
    "grid",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, typer.Option(help="The factors in a TOML file.", rich_help_panel="Output")],
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"mma {metadata_version('mma')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version, and end.")
    ] = False,
    debug: Annotated[  # taken off the words in main()
        bool, typer.Option(DEBUG, help="Print a traceback where something goes wrong; may stand anywhere.")
    ] = False,
) -> None:
    """Adapt CLIP to a task from cached embeddings: `mma embed` once, then `mma fit` in seconds."""


@app.command(cls=Command)
@takes(EmbedSettings)
def embed(context: typer.Context, **given: Any) -> None:
    """Stage one: run a frozen CLIP over a data set, once. Interrupted, the same command continues."""
    from mma.pipeline.embedding.embed import embed as run

    run(chosen(EmbedSettings, given), stderr())


@app.command(cls=Command, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@takes(FitSettings, extra=[AS_JSON])
def fit(context: typer.Context, json: bool, **given: Any) -> None:
    """Stage two: fit adapters on a cache, in seconds, and print base, new and H (or accuracy).

    Also takes the options of the adapters it fits, such as --lam 0.5: `mma adapters NAME` lists them.
    """
    from mma.pipeline.fitting.fit import fit as run
    from mma.pipeline.fitting.results import setting_folder
    from mma.pipeline.reports.tables import fitted_json, show_fitted
    from mma.pipeline.using.auto import fit_auto

    settings = chosen(FitSettings, given, options=extra_options(context.args, FitSettings))
    fitted = (fit_auto if AUTO in settings.adapter else run)(settings, stderr())
    if json:
        print(fitted_json(fitted, settings.metrics))
    else:
        show_fitted(stdout(), fitted, settings.metrics)
        stderr().print("Weights and predictions of every seed:")
        show_pairs(
            stderr(), [(f"  {row.setting.name}", str(setting_folder(settings.out, row.setting))) for row in fitted]
        )


@app.command(cls=Command)
@takes(AblateSettings, TableSettings, extra=[FACTORS, GRID, AS_JSON])
def ablate(context: typer.Context, json: bool, **given: Any) -> None:
    """A grid over anything fit takes: lam=0,0.1,0.2 mask=cross,pair adapter=mma,clip-adapter seed=0:5"""
    from mma.cache import open_cache
    from mma.pipeline.fitting.ablate import ablate as run
    from mma.pipeline.fitting.factors import read_factors, targets_of
    from mma.pipeline.reports import grid_tables as tables
    from mma.pipeline.reports.live import live_table
    from mma.pipeline.reports.pivot import check_pivot, show_pivot

    shown = chosen(TableSettings, given)
    settings = chosen(AblateSettings, given, factors=read_factors(given["factors"] or [], given["grid"]))
    over = [name.replace("-", "_") for name in shown.over]
    scored = [open_cache(path).header.dataset for path in targets_of(settings.factors)] if shown.metric else []
    check_pivot(shown.pivot, shown.metric, over, settings.factors, scored)
    if shown.export:
        tables.check_export(shown.export)
    ablated = run(settings, stderr(), live_table)
    if json:
        print(tables.ablated_json(ablated, settings.baseline))
    else:
        tables.show_ablated(stdout(), ablated, settings.factors, settings.baseline)
    if shown.export:
        for written in tables.export_grid(shown.export, ablated, settings.baseline):
            stderr().print(f"{written} is written")
    if shown.pivot and not json:
        show_pivot(stdout(), ablated, shown.pivot, shown.metric, over)
    if ablated.failures:
        if DEBUG in sys.argv:
            print(ablated.failures[0].trace, file=sys.stderr)
        raise typer.Exit(1)


app.command(cls=Command, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(export)
app.command(cls=Command)(predict)
app.command(cls=Command)(audit)
app.command(cls=Command)(search)
app.command(cls=Command)(report)
app.command(cls=Command)(explain)
app.command(cls=Command)(reproduce)


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the cache and the runs.")] = Path("mma-demo"),
) -> None:
    """The whole job on what the package carries: drawn images, a tiny CLIP, three adapters. No download."""
    from mma.pipeline.cli.demo import demo as run

    run(out, stdout(), stderr())


def main() -> None:
    """Run the command line: one line for an error, 2 for wrong use, 1 for failed work; a traceback under --debug."""
    debug = DEBUG in sys.argv
    arguments = [word for word in sys.argv[1:] if word != DEBUG]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name from a disk may be no UTF-8
    try:
        with interruptible():
            code = app(arguments, prog_name="mma", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Print an error in one line, and return the exit code."""
    if hasattr(error, "format_message"):  # a word the command line does not know
        if message := error.format_message():  # none where the help has been printed
            print(plain(f"mma: {message}"), file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):  # an error of this package
        print(plain(f"mma: {told(str(error))}"), file=sys.stderr)
        return code
    if isinstance(error, OSError) and error.strerror:
        what = error.filename or ("the output" if _is_of_output(error) else "a file")
        if not isinstance(error, BrokenPipeError):  # whoever reads the output has seen enough
            print(plain(f"mma: {what}: {error.strerror}"), file=sys.stderr)
        return 1
    if isinstance(error, sqlite3.DatabaseError):
        print(plain(f"mma: the results file of --out cannot be used ({error}): choose another --out"), file=sys.stderr)
        return 1
    why = f"{type(error).__name__}: {error} (a defect: run again with {DEBUG} and report it)"
    print(plain(f"mma: {why}"), file=sys.stderr)
    return 1


def _is_of_output(error: OSError) -> bool:
    """Whether an error was raised where words are printed. What is left of them then goes nowhere, so that Python can
    end.
    """
    at = error.__traceback__
    while at and at.tb_next:
        at = at.tb_next
    if at is None or not at.tb_frame.f_globals["__name__"].startswith(("rich.", "mma.pipeline.cli")):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
