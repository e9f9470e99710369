"""`mma explain`."""

from __future__ import annotations

from typing import Any

import typer

from mma.pipeline.cli.commands import chosen, takes
from mma.pipeline.cli.console import stderr, stdout
from mma.pipeline.explaining.settings import ExplainSettings


@takes(ExplainSettings)
def explain(context: typer.Context, **given: Any) -> None:
    """What an adapter did, image by image: attention and movement, masks, shots, the classes that trade images."""
    from mma.pipeline.explaining.explain import explain as run
    from mma.pipeline.explaining.explain import write_arrays
    from mma.pipeline.explaining.pictures import pictures_of
    from mma.pipeline.explaining.words import show_explanation
    from mma.pipeline.reports.drawing import write_pictures

    settings = chosen(ExplainSettings, given)
    found = run(settings)
    show_explanation(stdout(), found)
    if settings.arrays:
        write_arrays(found, settings.arrays, stderr())
    if settings.figures:
        files = write_pictures(pictures_of(found, settings.root), settings.figures)
        stderr().print(f"{len(files)} files are written to {settings.figures}")
