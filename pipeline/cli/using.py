"""`mma export` and `mma predict`: a fitted model put to use; `mma audit`: what is wrong with the data; `mma search`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from mma.pipeline.cli.commands import chosen, extra_options, takes
from mma.pipeline.cli.console import stderr, stdout
from mma.pipeline.using.settings import AuditSettings, ExportSettings, PredictSettings, SearchSettings


def _argument(name: str, kind: Any, help_text: str) -> inspect.Parameter:
    info = typer.Argument(help=help_text, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])


MODEL = _argument("model", Path, "A model folder that `mma export` wrote.")
WHAT = _argument(
    "what", list[str], "Images, folders, manifests, .tar shards, caches, URLs; - for paths on standard input."
)


@takes(ExportSettings)
def export(context: typer.Context, **given: Any) -> None:
    """A model that stands alone, to a folder: from a cache and an adapter, or from a run and a seed.

    Also takes the adapter's options, such as --lam 0.5, and those of its recipe, such as --lr 0.001.
    """
    from mma.pipeline.using.export import export as run

    run(chosen(ExportSettings, given, options=extra_options(context.args, ExportSettings)), stderr())


@takes(PredictSettings, extra=[MODEL, WHAT])
def predict(context: typer.Context, **given: Any) -> None:
    """What a model says of images: classes with probabilities, and sets of classes that hold the right one."""
    from mma.pipeline.using.predict import predict as run

    settings = chosen(PredictSettings, given, model=given["model"], what=tuple(given["what"]))
    run(settings, stderr())


CACHE = _argument("cache", str, "A finished cache.")
QUERY = _argument("query", str, "Words, or the path of an image.")


@takes(AuditSettings, extra=[CACHE])
def audit(context: typer.Context, **given: Any) -> None:
    """What is probably wrong with the data of a cache: labels, twins, images far from all, texts that confuse.

    With --next, which of its images to label next: those that a model is unsure of, and that differ from one another.
    """
    settings = chosen(AuditSettings, given, cache=given["cache"])
    (_audit if settings.next is None else _next)(settings)


def _audit(settings: AuditSettings) -> None:
    from mma.pipeline.using.audit import audit as run
    from mma.pipeline.using.audit import shown, write_csv
    from mma.pipeline.using.audit_table import show_audit
    from mma.pipeline.using.sheet import images_root, write_sheet

    root = images_root(settings.cache, settings.root, settings.sheet) if settings.sheet else None
    found = run(settings)
    show_audit(stdout(), found, settings.first)
    for note in found.notes:
        stderr().print(note)
    if settings.out:
        write_csv(found, settings.out)
        stderr().print(f"{settings.out} is written: {len(found.findings)} findings")
    if settings.sheet and root:
        suspects = found.of("label")[: settings.first]
        if suspects:
            write_sheet(shown(suspects), root, settings.sheet)
        stderr().print(f"{settings.sheet} is written" if suspects else "no label looks wrong: there is no sheet")


def _next(settings: AuditSettings) -> None:
    from mma.pipeline.using.next_labels import next_labels, show_next, shown, write_next
    from mma.pipeline.using.sheet import images_root, write_sheet

    root = images_root(settings.cache, settings.root, settings.sheet) if settings.sheet else None
    found = next_labels(settings)
    show_next(stdout(), found, settings.first)
    if settings.next and len(found) < settings.next:
        stderr().print(f"{len(found)} of {settings.next}: of all others the model is sure, or they are as one of these")
    if settings.out:
        write_next(found, settings.out)
        stderr().print(f"{settings.out} is written: {len(found)} images")
    if settings.sheet and root:
        write_sheet(shown(found[: settings.first]), root, settings.sheet)
        stderr().print(f"{settings.sheet} is written")


@takes(SearchSettings, extra=[CACHE, QUERY])
def search(context: typer.Context, **given: Any) -> None:
    """The images of a cache that are nearest to a text, or to an image: by cosine, exact."""
    from mma.pipeline.using import search as of
    from mma.pipeline.using.sheet import images_root, write_sheet

    settings = chosen(SearchSettings, given, cache=given["cache"], query=given["query"])
    root = images_root(settings.cache, settings.root, settings.sheet) if settings.sheet else None
    hits = of.search(settings)
    if settings.out:
        of.write_hits(hits, settings.written_as, settings.out)
        stderr().print(f"{settings.out} is written: {len(hits)} images")
    elif settings.written_as == "table":
        of.show_hits(stdout(), hits, f"{settings.cache}: nearest to {settings.query}")
    else:
        print((of.hits_csv if settings.written_as == "csv" else of.hits_jsonl)(hits), end="")
    if settings.sheet and root:
        write_sheet(of.shown(hits), root, settings.sheet)
        stderr().print(f"{settings.sheet} is written")
