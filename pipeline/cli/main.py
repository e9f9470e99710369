"""The command line. Every command imports its own work when it runs, so that `mma --help` loads no torch."""

from __future__ import annotations

import inspect
import sqlite3
import sys
import traceback
from importlib.metadata import version as metadata_version
from pathlib import Path
from typing import Annotated, Any

import typer

from mma.pipeline.cli.adapters import adapters_app
from mma.pipeline.cli.cache import cache_app
from mma.pipeline.cli.commands import as_factors, as_flags, chosen, extra_options, takes
from mma.pipeline.cli.console import AsJson, stderr, stdout
from mma.pipeline.cli.datasets import datasets_app
from mma.pipeline.cli.interruption import interruptible
from mma.pipeline.fitting.settings import AblateSettings, FitSettings

app = typer.Typer(
    name="mma",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(adapters_app)
app.add_typer(cache_app)
app.add_typer(datasets_app)

DEBUG = "--debug"

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def _option(name: str, kind: Any, help_text: str, **more: Any) -> inspect.Parameter:
    """An option of the command line alone: what is shown, and where."""
    info = typer.Option(help=help_text, rich_help_panel="Output", **more)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info])


AS_JSON = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
FACTORS = inspect.Parameter(
    "factors",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[str] | None, typer.Argument(help="key=a,b,c or key=0:10 or key=0:1:0.1")],
)
GRID = _option("grid", Path | None, "The same in a TOML file.")
PIVOT = _option("pivot", str | None, "Two factors for a two-way table: mask,lam.")
METRIC = _option("metric", str | None, "Of the pivot.", show_default="H or accuracy")
EXPORT = _option("export", Path | None, "Also write .csv, .jsonl or .parquet.")


def _say_version(asked: bool) -> None:
    if asked:
        print(f"mma {metadata_version('mma')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Adapt CLIP to a task from cached embeddings: `mma embed` once, then `mma fit` in seconds."""


@app.command()
def embed(
    dataset: Annotated[
        str | None,
        typer.Option(help="A name that `mma datasets` lists; or a folder, a manifest, .tar shards, hf:NAME."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where to write.", show_default="cache/<name>.zarr")] = None,
    model: Annotated[
        str | None, typer.Option(help="An open_clip model, local-dir:FOLDER, or tiny.", show_default="ViT-B-16")
    ] = None,
    pretrained: Annotated[str, typer.Option(help="An open_clip tag, or a checkpoint file.")] = "openai",
    quick_gelu: Annotated[
        bool | None, typer.Option(help="Activation of a checkpoint file.", show_default="the model's, or the tag's")
    ] = None,
    templates: Annotated[
        list[str] | None, typer.Option(help="'a photo of a {}.', or a file with one a line; may be repeated.")
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(help="Prompt sets: default, photo, simple, ensemble, typo10, NAME=FILE; several with commas."),
    ] = "default",
    root: Annotated[
        Path | None,
        typer.Option(help="The folder below which data sets, or a manifest's paths, lie.", show_default="data"),
    ] = None,
    download: Annotated[bool, typer.Option(help="Fetch a published data set that is not there.")] = True,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="Add prompt sets to a cache that is there; images are not needed.")
    ] = False,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="Of the towers: fp32, fp16 or bf16.")] = "fp32",
    dtype: Annotated[str, typer.Option(help="Of stored image embeddings: float16 or float32.")] = "float16",
    views: Annotated[int, typer.Option(help="Of an image: the model's own, and random crops and flips.")] = 1,
    view_splits: Annotated[str, typer.Option(help="Which splits have several views.")] = "train",
    view_seed: Annotated[int, typer.Option(help="Draws the crops, flips and grain.")] = 0,
    image_noise: Annotated[
        str, typer.Option(help="More views, with noise: gaussian0.1,blur2,jpeg10.", show_default="none")
    ] = "",
    noise_splits: Annotated[str, typer.Option(help="Which splits have noisy views.")] = "test",
    batch_size: Annotated[
        int | None, typer.Option(help="Images the model sees at once.", show_default="64, 256 on CUDA")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that decode.", show_default="one a core")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many images a split, to try it out.")] = None,
    split_seed: Annotated[int, typer.Option(help="Draws the splits of a folder that has none.")] = 0,
    max_pixels: Annotated[int, typer.Option(help="Larger images are refused before decoding.")] = 89_478_485,
    max_failures: Annotated[str, typer.Option(help="End when more images fail: a count, or a percentage.")] = "50%",
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Read images that are links out of the data set's folder.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Embed anew the images that have changed.")] = False,
) -> None:
    """Stage one: run a frozen CLIP over a data set, once. Interrupted, the same command continues."""
    from mma.pipeline.embedding.embed import EmbedSettings
    from mma.pipeline.embedding.embed import embed as run

    settings = EmbedSettings(
        dataset=dataset,
        cache=cache,
        root=root,
        download=download,
        model=model,
        pretrained=pretrained,
        quick_gelu=quick_gelu,
        prompts=prompts,
        templates=templates or (),
        text_only=text_only,
        device=device,
        precision=precision,
        dtype=dtype,
        views=views,
        view_splits=view_splits,
        view_seed=view_seed,
        image_noise=image_noise,
        noise_splits=noise_splits,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        split_seed=split_seed,
        max_pixels=max_pixels,
        max_failures=max_failures,
        follow_links=follow_links,
        update=update,
    )
    run(settings, stderr())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@takes(FitSettings, extra=[AS_JSON])
def fit(context: typer.Context, json: bool, **given: Any) -> None:
    """Stage two: fit adapters on a cache, in seconds, and print base, new and H (or accuracy).

    Also takes the options of the adapters it fits, such as --lam 0.5: `mma adapters NAME` lists them.
    """
    from mma.pipeline.fitting.fit import fit as run
    from mma.pipeline.reports.tables import fitted_json, show_fitted

    settings = chosen(FitSettings, given, options=extra_options(context.args, FitSettings))
    fitted = run(settings, stderr())
    if json:
        print(fitted_json(fitted))
    else:
        show_fitted(stdout(), fitted)
        stderr().print(f"Weights and predictions of every seed: {settings.out}/<adapter>-<id>/", markup=False)


@app.command()
@takes(AblateSettings, extra=[FACTORS, GRID, PIVOT, METRIC, EXPORT, AS_JSON])
def ablate(context: typer.Context, json: bool, **given: Any) -> None:
    """A grid over anything fit takes: lam=0,0.1,0.2 mask=cross,pair adapter=mma,clip-adapter seed=0:5"""
    from mma.pipeline.fitting.ablate import ablate as run
    from mma.pipeline.fitting.factors import read_factors
    from mma.pipeline.reports import grid_tables as tables
    from mma.pipeline.reports.live import live_table

    pivot, metric, export = given["pivot"], given["metric"], given["export"]
    tables.check_pivot(pivot, metric)
    if export:
        tables.check_export(export)
    settings = chosen(AblateSettings, given, factors=read_factors(given["factors"] or [], given["grid"]))
    ablated = run(settings, stderr(), live_table)
    if json:
        print(tables.ablated_json(ablated, settings.baseline))
    else:
        tables.show_ablated(stdout(), ablated, settings.factors, settings.baseline)
    if export:
        tables.export_records(export, ablated.records())
        stderr().print(f"{export} is written", markup=False)
    if pivot and not json:
        tables.show_pivot(stdout(), ablated, pivot, metric)
    if ablated.failures:
        if DEBUG in sys.argv:
            print(ablated.failures[0].trace, file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the cache and the runs.")] = Path("mma-demo"),
) -> None:
    """The whole job on what the package carries: rendered images, a tiny CLIP, four adapters. No download."""
    from mma.pipeline.cli.demo import demo as run

    run(out, stdout(), stderr())


def main() -> None:
    """Run the command line: one line for an error, 2 for wrong use, 1 for failed work; a traceback under --debug."""
    debug = DEBUG in sys.argv
    arguments = [word for word in sys.argv[1:] if word != DEBUG]
    try:
        with interruptible():
            code = app(arguments, standalone_mode=False)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Print an error in one line, and return the exit code."""
    if hasattr(error, "format_message"):  # a word the command line does not know
        print(f"mma: {error.format_message()}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):  # an error of this package
        written = as_factors if "ablate" in sys.argv[1:2] else as_flags
        print(f"mma: {written(str(error))}", file=sys.stderr)
        return code
    if isinstance(error, OSError) and error.strerror:
        print(f"mma: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 1
    if isinstance(error, sqlite3.DatabaseError):
        print(f"mma: the results file of --out cannot be used ({error}): choose another --out", file=sys.stderr)
        return 1
    print(f"mma: {type(error).__name__}: {error} (a defect: run again with {DEBUG} and report it)", file=sys.stderr)
    return 1
