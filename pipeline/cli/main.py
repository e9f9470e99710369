"""The command line. Every command imports its own work when it runs, so that `mma --help` loads no torch."""

from __future__ import annotations

import sqlite3
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version as metadata_version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mma.pipeline.cli.cache import cache_app
from mma.pipeline.cli.console import AsJson, stderr, stdout
from mma.pipeline.cli.datasets import datasets_app

app = typer.Typer(
    name="mma",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(cache_app)
app.add_typer(datasets_app)

DEBUG = "--debug"
INTERRUPTED = 130

Shots = Annotated[int | None, typer.Option(help="Support images a class.", show_default="16, or what classes allow")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Cache = Annotated[str, typer.Option("--cache", help="A finished cache: a path, or any fsspec URL.")]


class AdapterCommand(TyperCommand):
    """A command that also takes the options of adapters, generated from their signatures."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's own help, then the adapters with their options."""
        super().format_help(ctx, formatter)
        _show_adapters()


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


@app.command(cls=AdapterCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def fit(
    context: typer.Context,
    cache: Cache,
    adapter: Annotated[list[str] | None, typer.Option(help="May be repeated, or a,b,c.", show_default="mma")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="base-to-new or few-shot.", show_default="base-to-new, from four classes on")
    ] = None,
    shots: Shots = None,
    seeds: Annotated[int, typer.Option(help="Fits with seeds 0, 1, ...")] = 3,
    select: Annotated[
        str, typer.Option(help="Choose the epoch on val, or last (no choice), or oracle (test).")
    ] = "val",
    prompts: Annotated[str, typer.Option(help="The prompt set of the cache to use.")] = "default",
    reduce: Annotated[str, typer.Option(help="Templates to a vector: mean of unit or raw, or a number.")] = "unit",
    splits: Annotated[str, typer.Option(help="Draws: nested, or coop for the published sampler's.")] = "nested",
    base_rule: Annotated[str, typer.Option(help="Base classes of an odd number: ceil or floor of half.")] = "ceil",
    base_ratio: Annotated[float, typer.Option(help="Base classes to new classes.")] = 1.0,
    label_noise: Annotated[float, typer.Option(help="Share of wrong labels in the support.")] = 0.0,
    imbalance: Annotated[float, typer.Option(help="Shots of the largest class to those of the smallest.")] = 1.0,
    train_noise: Annotated[str, typer.Option(help="Train on this noisy view of the cache.")] = "none",
    test_noise: Annotated[str, typer.Option(help="Score this noisy view of the cache.")] = "none",
    lr: Annotated[float | None, typer.Option(help="Learning rate.", show_default="the adapter's")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.", show_default="the adapter's")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", show_default="the adapter's")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most.", show_default="the adapter's")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs to wait.", show_default="the adapter's")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd.", show_default="the adapter's")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant or cosine.", show_default="the adapter's")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("runs"),
    workers: Annotated[int, typer.Option(help="Processes; 1 uses the threads of this one.")] = 1,
    partial: Annotated[bool, typer.Option("--partial", help="Take the finished rows of an unfinished cache.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Fit again what is there already.")] = False,
    json: AsJson = False,
) -> None:
    """Stage two: fit adapters on a cache, in seconds, and print base, new and H (or accuracy)."""
    from mma.cache import open_cache
    from mma.pipeline.fitting.episodes import Protocol, usual_protocol
    from mma.pipeline.fitting.fit import FitSettings, fit_cache
    from mma.pipeline.reports.tables import fitted_json, show_fitted

    recipe = {
        "lr": lr,
        "weight_decay": weight_decay,
        "batch": batch,
        "epochs": epochs,
        "patience": patience,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    settings = FitSettings(
        cache=cache,
        adapters=[name.strip() for value in adapter or ["mma"] for name in value.split(",") if name.strip()],
        options=extra_options(context.args),
        protocol=Protocol(
            name=protocol or usual_protocol(open_cache(cache, partial=True).header.classnames),
            base_rule=base_rule,
            base_ratio=base_ratio,
            label_noise=label_noise,
            imbalance=imbalance,
            splits=splits,
            train_noise=train_noise,
            test_noise=test_noise,
        ),
        shots=shots,
        seeds=seeds,
        select=select,
        recipe={name: value for name, value in recipe.items() if value is not None},
        prompts=prompts,
        reduce=reduce,
        device=device,
        out=out,
        workers=workers,
        partial=partial,
        force=force,
    )
    fitted = fit_cache(settings, stderr())
    if json:
        print(fitted_json(fitted, settings))
    else:
        show_fitted(stdout(), fitted, settings)
        stderr().print(f"Weights and predictions of every seed: {out}/<adapter>-<id>/")


@app.command()
def ablate(
    cache: Annotated[list[str], typer.Option("--cache", help="A finished cache; may be repeated.")],
    factors: Annotated[list[str] | None, typer.Argument(help="key=a,b,c or key=0:10 or key=0:1:0.1")] = None,
    grid: Annotated[Path | None, typer.Option(help="The same in a TOML file.")] = None,
    baseline: Annotated[str, typer.Option(help="Compare with this: an adapter, with key=value.")] = "zero-shot",
    pivot: Annotated[str | None, typer.Option(help="Two factors for a two-way table: mask,lam.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of the pivot.", show_default="H or accuracy")] = None,
    export: Annotated[Path | None, typer.Option(help="Also write .csv, .jsonl or .parquet.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 1 uses the threads of this one.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="A dask scheduler's address, or local.")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("runs"),
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    predictions: Annotated[bool, typer.Option(help="Keep what was predicted of every image.")] = True,
    json: AsJson = False,
) -> None:
    """A grid over anything fit takes: lam=0,0.1,0.2 mask=cross,pair adapter=mma,clip-adapter seed=0:5"""
    from mma.pipeline.fitting.ablate import AblateSettings
    from mma.pipeline.fitting.ablate import ablate as run
    from mma.pipeline.fitting.factors import read_factors
    from mma.pipeline.reports import grid_tables as tables

    tables.check_pivot(pivot, metric)
    if export:
        tables.check_export(export)
    settings = AblateSettings(
        caches=cache,
        factors=read_factors(factors or [], grid),
        device=device,
        out=out,
        workers=workers,
        scheduler=scheduler,
        retry_failed=retry_failed,
        force=force,
        keep_predictions=predictions,
        baseline=baseline,
    )
    ablated = run(settings, stderr())
    if json:
        print(tables.ablated_json(ablated, baseline))
    else:
        tables.show_ablated(stdout(), ablated, settings.factors, baseline)
    if export:
        tables.export_rows(export, ablated.rows)
        stderr().print(f"{export} is written")
    if pivot and not json:
        tables.show_pivot(stdout(), ablated, pivot, metric)
    if ablated.failures:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the cache and the runs.")] = Path("mma-demo"),
) -> None:
    """The whole job on what the package carries: rendered images, a tiny CLIP, four adapters. No download."""
    from mma.pipeline.cli.demo import demo as run

    run(out, stdout(), stderr())


@app.command()
def adapters() -> None:
    """List the adapters and their options."""
    _show_adapters()


def extra_options(arguments: Sequence[str]) -> dict[str, str]:
    """`--lam 0.5 --mask=pair` as {"lam": "0.5", "mask": "pair"}. Raises UsageError."""
    from mma.pipeline.errors import UsageError

    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise UsageError(f"option --{name} needs a value")
            value = rest.pop(0)
        if name.replace("-", "_") in found:
            raise UsageError(f"option --{name} is given twice (mma ablate takes several values)")
        found[name.replace("-", "_")] = value
    return found


def main() -> None:
    """Run the command line: one line for an error, 2 for wrong use, 1 for failed work; a traceback under --debug."""
    debug = DEBUG in sys.argv
    arguments = [word for word in sys.argv[1:] if word != DEBUG]
    try:
        code = app(arguments, standalone_mode=False)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _explain(error)
    if code == INTERRUPTED:
        print("interrupted: what is done is kept, and the same command continues", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Print an error in one line, and return the exit code."""
    if hasattr(error, "format_message"):  # a word the command line does not know
        print(f"mma: {error.format_message()}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    from mma.pipeline.errors import UsageError, WorkError

    usage: list[type[Exception]] = [UsageError]
    for module, name in (("mma.cache", "CacheError"), ("mma.adapters", "AdapterError")):
        if module in sys.modules:
            usage.append(getattr(sys.modules[module], name))
    if isinstance(error, (*usage, WorkError)):
        print(f"mma: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkError) else 2
    if isinstance(error, OSError) and error.strerror:
        print(f"mma: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 1
    if isinstance(error, sqlite3.DatabaseError):
        print(f"mma: the results file of --out cannot be used ({error}): choose another --out", file=sys.stderr)
        return 1
    print(f"mma: {type(error).__name__}: {error} (a defect: run again with {DEBUG} and report it)", file=sys.stderr)
    return 1


def _show_adapters() -> None:
    from rich.table import Table

    from mma.adapters import adapters, options_of

    table = Table(
        "adapter", "kind", "new classes", "options, with their defaults", title="Adapters", title_justify="left"
    )
    for name, kind in adapters().items():
        options = [
            f"--{o.name.replace('_', '-')} {o.meaning} [dim]({'none' if o.default is None else o.default})[/dim]"
            for o in options_of(kind)
        ]
        how = "trained" if kind.trains else "at test time" if kind.uses_views == "test" else "closed form"
        how = {"no": how, "stream": "on the test stream", "batch": "on all test rows"}[kind.transductive]
        table.add_row(name, how, "scored" if kind.class_free else "zero-shot", "\n".join(options))
    stdout().print(table)
