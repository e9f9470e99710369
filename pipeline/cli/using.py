"""`mma export` and `mma predict`: a fitted model put to use; `mma audit`: what is wrong with the data."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from mma.pipeline.cli.commands import chosen, extra_options, takes
from mma.pipeline.cli.console import stderr, stdout
from mma.pipeline.using.settings import AuditSettings, ExportSettings, PredictSettings


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
    """What a model says of images: classes with probabilities, and sets that hold the right class so often."""
    from mma.pipeline.using.predict import predict as run

    settings = chosen(PredictSettings, given, model=given["model"], what=tuple(given["what"]))
    run(settings, stderr())


CACHE = _argument("cache", str, "A finished cache.")


@takes(AuditSettings, extra=[CACHE])
def audit(context: typer.Context, **given: Any) -> None:
    """What is probably wrong with the data of a cache: labels, twins, images far from all, texts that confuse."""
    from mma.pipeline.using.audit import audit as run
    from mma.pipeline.using.audit import write_csv
    from mma.pipeline.using.audit_sheet import images_root, write_sheet
    from mma.pipeline.using.audit_table import show_audit

    settings = chosen(AuditSettings, given, cache=given["cache"])
    root = images_root(settings) if settings.sheet else None
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
            write_sheet(suspects, root, settings.sheet)
        stderr().print(f"{settings.sheet} is written" if suspects else "no label looks wrong: there is no sheet")
