"""A report as one page that needs nothing else: tables to sort and filter, figures, where the numbers come from.

jinja2 escapes whatever it is given; the page's policy lets no script but its own run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from mma.pipeline.fitting.cells import NO_SELECTION
from mma.pipeline.reports.comparisons import LEVEL
from mma.pipeline.reports.drawing import Picture, as_inline_svg
from mma.pipeline.reports.figures import pictures
from mma.pipeline.reports.findings import Group, Report
from mma.pipeline.reports.hardest import Finder, hardest
from mma.pipeline.reports.sheets import Entry, Layout, Line, Sheet
from mma.pipeline.reports.tables import selection_text
from mma.pipeline.reports.written import interval, number, plain

MOST_FIGURES = 40  # on the page: about 20 kB each


def _nothing(*asked: object) -> None:
    return None


@dataclass(frozen=True)
class Beyond:
    """What the page shows that is in no results folder; whoever makes the page knows where to find it."""

    image: Finder = _nothing
    pictures: Callable[[Report], list[Picture]] = lambda report: []


NOTHING_BEYOND = Beyond()


def page(layout: Layout, beyond: Beyond = NOTHING_BEYOND) -> str:
    """The page as HTML."""
    from jinja2 import Environment
    from markupsafe import Markup

    def read(name: str) -> str:
        return files("mma.pipeline.reports").joinpath("page_files", name).read_text(encoding="utf-8")

    environment = Environment(autoescape=True, finalize=_finalize, trim_blocks=True)
    script, report = read("page.js"), layout.report
    drawn = pictures(layout)
    bases: list[str] = []
    return environment.from_string(read("page.html")).render(
        title=f"What {report.folder.name or report.folder} says",
        headline=report.headline,
        style=Markup(read("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        wide=[(sheet, [_row(line) for line in sheet.lines]) for sheet in layout.wide],
        long=[(sheet, _rows(sheet, group, bases)) for sheet, group in zip(layout.long, report.groups, strict=True)],
        figures=[{"caption": p.caption, "svg": Markup(as_inline_svg(p))} for p in drawn[:MOST_FIGURES]],
        left_out=max(len(drawn) - MOST_FIGURES, 0),
        looked_into=[{"caption": p.caption, "svg": Markup(as_inline_svg(p))} for p in beyond.pictures(report)],
        hardest=[(group.title, shown) for group in report.groups if (shown := _hardest(report, group, beyond))],
        notes=report.notes,
        provenance=_provenance(report),
        bases=_json(bases),
    )


def _finalize(value: Any) -> Any:
    """Text as it may stand on the page: what cannot be seen is written out. Markup is the page's own."""
    return plain(value) if type(value) is str else value


def _row(line: Line) -> dict[str, Any]:
    entries = [_entry(entry) if entry else None for entry in line.entries]
    return {"words": line.words, "entries": entries, "verdict": None, "oracle": False}


def _entry(entry: Entry) -> dict[str, str]:
    shown = {"number": number(entry), "interval": interval(entry), "mark": entry.mark}
    return {**shown, "value": f"{entry.mean:.6g}"}


def _rows(sheet: Sheet, group: Group, bases: list[str]) -> list[dict[str, Any]]:
    """Rows with verdicts and commands. A command is what the commands of its adapter share, and what is its own."""
    commands = [shlex.split(row.command) if row.command else None for row in group.rows]
    of_adapter: dict[str, list[list[str]]] = defaultdict(list)
    for row, command in zip(group.rows, commands, strict=True):
        if command:
            of_adapter[row.setting.adapter].append(command)
    shared = {adapter: set.intersection(*map(set, several)) for adapter, several in of_adapter.items()}
    at: dict[str, int] = {}
    rows = []
    for line, row, command in zip(sheet.lines, group.rows, commands, strict=True):
        known = shared.get(row.setting.adapter, set())
        if command and row.setting.adapter not in at:
            at[row.setting.adapter] = len(bases)
            bases.append(shlex.join(word for word in command if word in known))
        found = row.p is not None and row.p < LEVEL and row.change is not None
        kind = ("better" if row.change and row.change.mean > 0 else "worse") if found else ""
        rows.append(
            {
                **_row(line),
                "verdict": line.remark,
                "kind": kind,
                "oracle": row.is_oracle,
                "base": at.get(row.setting.adapter),
                "own": shlex.join(word for word in command if word not in known) if command else None,
            }
        )
    return rows


def _hardest(report: Report, group: Group, beyond: Beyond) -> list[dict[str, Any]]:
    """The images that hardly any fit has right, with their paths and thumbnails where they are at hand."""
    shown = []
    for image in hardest(report.folder, group):
        path, jpeg = beyond.image(image.cache, image.row) or (f"row {image.row} of the test split", None)
        data = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else None
        shown.append({"image": image, "path": path, "data": data})
    return shown


def _provenance(report: Report) -> list[tuple[str, str]]:
    settings = [row.setting for group in report.groups for row in group.rows]
    caches = {
        (f"data of {s.dataset}", f"{s.cache}, prompts {s.factors['prompts']}, digest {s.digest}"): None
        for s in settings
    }
    selections = ", ".join(selection_text(select) for select in sorted({s.select for s in settings} - {NO_SELECTION}))
    return [
        ("results", str(report.folder)),
        ("baseline", report.baseline),
        ("selection", selections or "nothing to select"),
        ("cells", f"{sum(len(s.cells) for s in settings):,} of {len(settings):,} settings"),
        *caches,
        *((f"{name} of the runs", ", ".join(found)) for name, found in report.versions.items()),
        ("this page", f"mma {version('mma')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]


def _json(values: Sequence[str]) -> Any:
    from jinja2.utils import htmlsafe_json_dumps

    return htmlsafe_json_dumps(list(values))
