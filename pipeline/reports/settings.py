"""What `mma report` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mma.pipeline.options import Option, checked

COMPARE, WRITE, OUTPUT = "Compare", "Write", "Output"


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How `mma ablate` shows a grid. Raises UsageError for a value that cannot be."""

    pivot: Annotated[str | None, Option("Two factors for a two-way table: mask,lam or adapter,dataset.", OUTPUT)] = None
    over: Annotated[
        tuple[str, ...], Option("A factor that the pivot averages over. May be repeated.", OUTPUT, split=True)
    ] = ()
    metric: Annotated[str | None, Option("Which metric the pivot shows.", OUTPUT, shown="H or accuracy")] = None
    export: Annotated[Path | None, Option("Also write .csv, .jsonl or .parquet.", OUTPUT)] = None

    def __post_init__(self) -> None:
        checked(self)


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Options of `mma report`. Raises UsageError for a value that cannot be."""

    runs: Path = Path("runs")
    baseline: Annotated[str, Option("Compare with this: an adapter, with key=value.", COMPARE)] = "zero-shot"
    by: Annotated[
        tuple[str, ...],
        Option(
            "A factor whose values become columns, and the x of a figure. May be repeated.",
            COMPARE,
            shown="dataset, shots",
            split=True,
        ),
    ] = ()
    html: Annotated[Path | None, Option("One self-contained page.", WRITE)] = None
    markdown: Annotated[Path | None, Option("The tables in Markdown.", WRITE)] = None
    latex: Annotated[Path | None, Option("The tables for a paper, with booktabs.", WRITE)] = None
    csv: Annotated[Path | None, Option("One record for every setting and metric.", WRITE)] = None
    figures: Annotated[Path | None, Option("A folder of figures, as PDF, SVG and PNG.", WRITE)] = None

    def __post_init__(self) -> None:
        checked(self)
