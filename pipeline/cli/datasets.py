"""`mma datasets ...`: which data sets are known, and whether one is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mma.pipeline.cli.console import AsJson, stdout
from mma.pipeline.cli.groups import Command, CommandGroup
from mma.pipeline.console import Column, show_table
from mma.pipeline.json_text import to_json

SHORT = 20  # letters; longer ways to get a data set are told by `check`

datasets_app = typer.Typer(
    name="datasets",
    cls=CommandGroup,
    help="Which data sets are known, and whether one is complete.",
    invoke_without_command=True,
)


@datasets_app.callback()
def datasets(context: typer.Context, json: AsJson = False) -> None:
    """Which data sets are known: classes, images, licence, and how to get them."""
    if context.invoked_subcommand is not None:
        return
    rows = _rows()
    if json:
        print(to_json(rows, indent=2))
        return
    columns = [
        Column("data set"),
        Column("classes", right=True),
        Column("train / val / test"),
        Column("CoOp's split", spare=True),
        Column("licence", spare=True),
        Column("how to get it"),
    ]
    table = []
    for row in rows:
        counts = (_counts(row["counts"]), _counts(row["coop_counts"]))
        get = row["get"] if len(row["get"]) < SHORT else "by hand"
        table.append([row["name"], str(row["classes"]), *counts, row["licence"], get])
    show_table(stdout(), columns, table)
    stdout().print("By hand: `mma datasets check NAME` says where from, and where to put it.")
    stdout().print("One's own: a folder of images, a .csv/.jsonl/.parquet manifest, .tar shards, hf:NAME.")


@datasets_app.command(cls=Command, name="check")
def check(
    name: Annotated[str, typer.Argument(help="A known data set, or one's own: a folder, a manifest, shards.")],
    root: Annotated[Path | None, typer.Option(help="The folder below which data sets lie. Default: data.")] = None,
    content: Annotated[bool, typer.Option("--content", help="One's own: look for files of the same bytes.")] = False,
    json: AsJson = False,
) -> None:
    """Whether a data set is complete; if not, what is missing, and where to get it. Exit code 1 where it is not."""
    from mma.pipeline.datasets import DATA, Lookup, entries, find_dataset
    from mma.pipeline.datasets.check import check_own, check_published

    if name in entries():
        report = check_published(entries()[name], root or DATA)
    else:
        report = check_own(name, find_dataset(name, Lookup(root)), content)
    if json:
        fields = {"name": report.name, "where": report.where, "found": report.found, "missing": report.missing}
        print(to_json({**fields, "complete": report.complete, "get": report.get}, indent=2))
    else:
        state = "complete" if report.complete else "not complete"
        stdout().print(Text(report.name, style="bold"), f"in {report.where}: {state}")
        lines = [f"  found    {line}" for line in report.found] + [f"  missing  {line}" for line in report.missing]
        lines += [f"  get it   {report.get}"] if report.missing and report.get else []
        for line in lines:
            stdout().print(line)
    if not report.complete:
        raise typer.Exit(1)


def _rows() -> list[dict[str, Any]]:
    from mma.pipeline.datasets import entries

    rows = [
        {
            "name": name,
            "title": entry.title,
            "paper": entry.paper,
            "names_from": entry.names_from,
            "classes": len(entry.classes),
            "counts": dict(entry.counts),
            "coop_counts": dict(entry.coop.counts) if entry.coop else {},
            "templates": list(entry.templates),
            "licence": entry.licence,
            "source": entry.source,
            "get": "downloaded" if entry.archives else entry.get,
        }
        for name, entry in entries().items()
    ]
    drawn = {"name": "shapes", "title": "coloured forms drawn on demand", "classes": 48, "licence": "Apache-2.0"}
    counts = {"train": 1536, "val": 384, "test": 1200}
    rest = {
        "coop_counts": {},
        "templates": ["a photo of a {}."],
        "source": "",
        "paper": "",
        "names_from": "mma",
        "get": "carried by mma",
    }
    return [*rows, {**drawn, "counts": counts, **rest}]


def _counts(counts: dict[str, int]) -> str:
    return (
        " / ".join(f"{counts[split]:,}" if split in counts else "-" for split in ("train", "val", "test"))
        if counts
        else "-"
    )
