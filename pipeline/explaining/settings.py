"""What `mma explain` can be told. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mma.pipeline.options import Option, checked

WHAT, OUTPUT = "What", "Output"


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """Options of `mma explain`. Raises UsageError for a value that cannot be."""

    run: Annotated[Path, Option("A setting's folder: runs/<adapter>-<id> of mma fit.", WHAT)]
    seed: Annotated[int, Option("Which seed of the run.", WHAT, least=0)] = 0
    image: Annotated[
        tuple[str, ...],
        Option(
            "A test image: its row, or its path in the cache. May be repeated.",
            WHAT,
            shown="four that changed most",
        ),
    ] = ()
    cache: Annotated[str | None, Option("Where the run's cache lies now.", WHAT, shown="where it was")] = None
    root: Annotated[Path | None, Option("The folder of the images, for thumbnails.", WHAT, shown="where it was")] = None
    figures: Annotated[Path | None, Option("A folder of pictures, as PDF, SVG and PNG.", OUTPUT)] = None
    arrays: Annotated[Path | None, Option("All that is shown, as numbers: a .npz file.", OUTPUT)] = None

    def __post_init__(self) -> None:
        checked(self)
