"""The tables of a suite as a person reads them, in Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mma.pipeline.console import Column, show_table
from mma.pipeline.json_text import to_json
from mma.pipeline.suites.compare import PaperLine
from mma.pipeline.suites.reproduce import Made, Reproduced

DASH = "—"
COLUMNS = (
    Column("data set", once=True),
    Column("method", once=True),
    Column("metric"),
    Column("here", right=True),
    Column("published", right=True),
    Column("difference", right=True),
)


def show_reproduced(console: Console, reproduced: Reproduced) -> None:
    """One table for each of the suite's; below it, why something is missing, and where the numbers are from."""
    for made in reproduced.tables:
        show_table(console, COLUMNS, _cells(made.lines), made.table.title)
        for note in notes(made):
            console.print(note)


def markdown(reproduced: Reproduced) -> str:
    """The same, as a page."""
    suite = reproduced.suite
    parts = [f"# {_md(suite.title)}", "", _md(suite.source), ""]
    for made in reproduced.tables:
        parts += [f"## {_md(made.table.title)}", ""]
        parts += [_md_row([column.name for column in COLUMNS])]
        parts += ["|" + "|".join("--:" if column.right else "---" for column in COLUMNS) + "|"]
        parts += [_md_row(row) for row in _cells(made.lines)]
        parts += ["", *(f"- {_md(note)}" for note in notes(made)), ""]
    return "\n".join(parts)


def as_json(reproduced: Reproduced) -> str:
    """The same for machines: one record for every number, null where there is none."""
    suite = reproduced.suite
    tables = [
        {
            "title": made.table.title,
            "sources": {method.name: method.source for method in made.table.methods},
            "lines": [_record(line) for line in made.lines],
            "notes": notes(made),
        }
        for made in reproduced.tables
    ]
    return to_json({"suite": suite.name, "title": suite.title, "source": suite.source, "tables": tables}, indent=2)


def notes(made: Made) -> list[str]:
    """What a reader of a table must know."""
    found = [f"[{number}] {why}" for why, number in _footnotes(made.lines).items()]
    if any(line.published is None for line in made.lines):
        found.append(f"{DASH} published: not known")
    if any(line.difference is not None for line in made.lines):
        found.append("±: 95 % over our seeds; of the published numbers no interval is known")
    methods = [method for method in made.table.methods if method.source]
    return [*found, *made.notes, *(f"published, {method.name}: {method.source}" for method in methods)]


def _footnotes(lines: Sequence[PaperLine]) -> dict[str, int]:
    return {why: i for i, why in enumerate(dict.fromkeys(line.refused for line in lines if line.refused), 1)}


def _cells(lines: Sequence[PaperLine]) -> list[list[str]]:
    number = _footnotes(lines)
    rows = []
    for line in lines:
        half = f" ± {line.half_width:.2f}" if line.half_width else ""
        ours = f"{DASH} [{number[line.refused]}]" if line.ours is None else f"{line.ours:.2f}{half}{line.mark}"
        published = DASH if line.published is None else f"{line.published:.2f}"
        difference = DASH if line.difference is None else f"{line.difference:+.2f}{half}"
        rows.append([line.dataset, line.method, line.metric, ours, published, difference])
    return rows


def _record(line: PaperLine) -> dict[str, Any]:
    return {
        "dataset": line.dataset,
        "method": line.method,
        "metric": line.metric,
        "here": line.ours,
        "half_width": line.half_width,
        "seeds": line.seeds,
        "published": line.published,
        "difference": line.difference,
        "why_not": line.refused or None,
    }


def _md(text: str) -> str:
    """Text from outside, which is no markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|" else letter for letter in text).replace("\n", " ")


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_md, cells))} |"
