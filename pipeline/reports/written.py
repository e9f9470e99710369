"""A report as text: on a terminal, in Markdown, LaTeX and CSV. The numbers are those of its sheets, to two decimals."""

from __future__ import annotations

import csv
import io
import math

from rich.console import Console
from rich.text import Text

from mma.pipeline.console import Cell, Column, show_table
from mma.pipeline.fitting.factors import as_typed
from mma.pipeline.reports.findings import BEST, TIED, Report
from mma.pipeline.reports.pairing import CONDITIONS
from mma.pipeline.reports.sheets import Entry, Layout, marked_name

NOTHING = "-"
VERDICT = 60  # letters of a verdict in a line of a terminal's table
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "†": r"\dag{}",
    "[": "{[}",  # after a line's end it would be an option
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{letter: f"\\{letter}" for letter in "\\`*_{}[]|#~"}}


def show_report(console: Console, layout: Layout) -> None:
    """The headline, the wide tables, then every setting with its verdict; notes last."""
    console.print(plain(layout.report.headline))
    for sheet in layout.sheets:
        remarks = any(line.remark for line in sheet.lines)
        columns = [Column(plain(head)) for head in sheet.heads]
        columns += [Column(plain(column), right=True) for column in sheet.columns]
        columns += [Column("verdict", widest=VERDICT)] * remarks
        rows: list[list[Cell]] = []
        for line in sheet.lines:
            remark: list[Cell] = [plain(line.remark)] if remarks else []
            rows.append([*map(plain, line.words), *map(_cell_of, line.entries), *remark])
        show_table(console, columns, rows, plain(sheet.title))
    for note in layout.report.notes:
        console.print(plain(note))


def markdown(layout: Layout) -> str:
    """The report as Markdown: the best bold, what is not distinguishable from it underlined."""
    parts = [_md(layout.report.headline)]
    for sheet in layout.sheets:
        remarks = any(line.remark for line in sheet.lines)
        heads = [*sheet.heads, *sheet.columns, *(["verdict"] if remarks else [])]
        rule = ["---"] * len(sheet.heads) + ["---:"] * len(sheet.columns) + ["---"] * remarks
        rows = [[_md(head) for head in heads], rule]
        for line in sheet.lines:
            remark = [_md(line.remark)] if remarks else []
            rows.append([*map(_md, line.words), *map(_md_entry, line.entries), *remark])
        parts += [f"**{_md(sheet.title)}**", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    parts.append("\n".join(f"- {_md(note)}" for note in layout.report.notes))
    return "\n\n".join(parts) + "\n"


def latex(layout: Layout) -> str:
    r"""The tables for a paper (\usepackage{booktabs}): the wide ones, or every setting where there is none.

    The best is bold; what the test does not tell from it is underlined. Intervals are small, after the number.
    """
    sheets = layout.wide or layout.long
    parts = [r"% needs \usepackage{booktabs}"]
    for sheet in sheets:
        heads = " & ".join(_tex(head) for head in (*sheet.heads, *sheet.columns))
        lines = [" & ".join([*map(_tex, line.words), *map(_tex_entry, line.entries)]) + r" \\" for line in sheet.lines]
        body = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(sheet.title)}. Best in bold; underlined: not distinguishable from it.}}",
            rf"\begin{{tabular}}{{{'l' * len(sheet.heads)}{'r' * len(sheet.columns)}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(body))
    parts += [f"% {plain(note)}" for note in layout.report.notes]
    return "\n\n".join(parts) + "\n"


def long_table(report: Report) -> list[dict[str, object]]:
    """One line per setting and metric, with full precision; the difference stands with the main metric."""
    found: list[dict[str, object]] = []
    for group in report.groups:
        for row in group.rows:
            for metric, estimate in row.measures.items():
                change = row.change if metric == group.main else None
                found.append(
                    {
                        "protocol": group.protocol,
                        "dataset": group.dataset,
                        "cache": group.cache,
                        "method": marked_name(row),
                        **{name: as_typed(row.setting.factors.get(name, "")) for name in CONDITIONS},
                        "select": row.setting.select,
                        "metric": metric,
                        "mean": estimate.mean,
                        "low": estimate.low,
                        "high": estimate.high,
                        "mark": row.marks.get(metric, ""),
                        "seeds": estimate.seeds,
                        "images": estimate.images,
                        "baseline": report.baseline,
                        "difference": change.mean if change else None,
                        "difference_low": change.low if change else None,
                        "difference_high": change.high if change else None,
                        "p_holm": row.p if change else None,
                        "family": group.family if change else None,
                        "verdict": row.verdict if metric == group.main else "",
                        "notes": "; ".join(row.notes),
                        "setting": row.setting.id,
                        "command": row.command,
                    }
                )
    return found


def as_csv(report: Report) -> str:
    """The long table as CSV. A text that a spreadsheet would take for a formula gets an apostrophe."""
    rows = long_table(report)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def plain(text: str) -> str:
    """Text on one line, in which what cannot be seen (control and bidirectional characters) is written out."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def number(entry: Entry) -> str:
    """The number of an entry: two decimals, with its sign where it is a difference."""
    return f"{entry.mean:+.2f}" if entry.signed else f"{entry.mean:.2f}"


def interval(entry: Entry) -> str:
    """`[61.03, 65.21]`; empty where nothing is known of it."""
    return "" if math.isnan(entry.low) else f"[{entry.low:.2f}, {entry.high:.2f}]"


def _cell_of(entry: Entry | None) -> Cell:
    """A cell of a terminal's table: the best bold, what is not distinguishable from it underlined."""
    if entry is None:
        return NOTHING
    style = {BEST: "bold", TIED: "underline"}.get(entry.mark, "")
    return Text.assemble((number(entry), style), f" {interval(entry)}" if interval(entry) else "")


def _md_entry(entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    before, after = {BEST: ("**", "**"), TIED: ("<ins>", "</ins>")}.get(entry.mark, ("", ""))
    return f"{before}{number(entry)}{after} {interval(entry)}".rstrip()


def _tex_entry(entry: Entry | None) -> str:
    if entry is None:
        return "--"
    command = {BEST: r"\textbf", TIED: r"\underline"}.get(entry.mark)
    shown = f"{command}{{{number(entry)}}}" if command else number(entry)
    small = interval(entry)
    return rf"{shown} {{\scriptsize {small}}}" if small else shown


def _md(text: str) -> str:
    return "".join(MARKDOWN.get(letter, letter) for letter in plain(text))


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in plain(text))


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "@") else value
