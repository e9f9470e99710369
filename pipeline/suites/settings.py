"""What `mma reproduce` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mma.pipeline.fitting.settings import DEVICES, MOST_WORKERS, PROCESSES
from mma.pipeline.options import Option, checked

DATA, OUTPUT = "Data", "Output"


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Options of `mma reproduce`. Raises UsageError for a value that cannot be."""

    suite: str  # a shipped suite's name, or a file
    dry_run: Annotated[bool, Option("Say what is there and what is to be done, and end.", OUTPUT)] = False
    root: Annotated[Path, Option("The folder below which data sets lie.", DATA)] = Path("data")
    download: Annotated[bool, Option("Fetch published data sets that are not there.", DATA)] = True
    caches: Annotated[Path, Option("The folder of caches: one for each data set, by its name.", DATA)] = Path("cache")
    device: Annotated[str, Option("auto, cpu, cuda or mps.", OUTPUT, choices=DEVICES)] = "auto"
    workers: Annotated[int, Option(PROCESSES, OUTPUT, least=1, most=MOST_WORKERS)] = 1
    out: Annotated[Path, Option("Results folder.", OUTPUT)] = Path("runs")
    markdown: Annotated[Path | None, Option("Also write the tables in Markdown.", OUTPUT)] = None

    def __post_init__(self) -> None:
        checked(self)
