"""How are findings laid out as tables? Once, for every form that they are written in: the numbers are the same in all.

The long form has one row per setting, with the difference to the baseline. The wide form has one row per method and a
column per value of a factor: data sets (their average last), shots, or any other that is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.factors import as_typed
from mma.pipeline.reports.findings import AverageFinding, Finding, Group, Report
from mma.pipeline.reports.marks import marks_of, marks_of_averages
from mma.pipeline.reports.naming import method_names
from mma.pipeline.reports.pairing import Conditions
from mma.pipeline.reports.tables import FALLBACK, TEST_TIME

AVERAGE = "average"
DATASET = "dataset"


@dataclass(frozen=True)
class Entry:
    """A number in percent, or a difference in points, with its 95 % interval; `mark` is "best", "tied" or ""."""

    mean: float
    low: float
    high: float
    mark: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Line:
    """One row: words that name it, its numbers (None where there is none), and what there is to say."""

    words: tuple[str, ...]
    entries: tuple[Entry | None, ...]
    remark: str = ""


@dataclass(frozen=True)
class Sheet:
    """One table."""

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: Sequence[Line]
    metric: str


@dataclass(frozen=True)
class Layout:
    """A report and its tables: what every form is written from."""

    report: Report
    wide: Sequence[Sheet]
    long: Sequence[Sheet]  # one for each group, in their order

    @property
    def sheets(self) -> list[Sheet]:
        """All of them, the wide ones first."""
        return [*self.wide, *self.long]


def lay_out(report: Report, by: Sequence[str] = ()) -> Layout:
    """The tables of a report, with a wide one for each factor of `by`. Raises UsageError."""
    return Layout(report, wide_sheets(report, by), [long_sheet(group, report.baseline) for group in report.groups])


def long_sheet(group: Group, baseline: str) -> Sheet:
    """One row per setting: its metrics, and the difference to the baseline in words."""
    lines = []
    for row in group.rows:
        entries: list[Entry | None] = [
            Entry(found.mean, found.low, found.high, row.marks.get(metric, ""))
            if (found := row.measures.get(metric))
            else None
            for metric in group.metrics
        ]
        change = row.change
        entries.append(Entry(change.mean, change.low, change.high, signed=True) if change else None)
        words = (marked_name(row), *(condition_word(row, name) for name in group.varying))
        lines.append(Line(words, tuple(entries), "; ".join([row.verdict, *row.notes])))
    difference = f"{group.main} minus {baseline}"
    return Sheet(group.title, ("method", *group.varying), (*group.metrics, difference), lines, group.main)


def wide_sheets(report: Report, by: Sequence[str] = ()) -> list[Sheet]:
    """One table for each factor of `by` and each protocol; without any, data sets and shots where there are several.

    Raises UsageError for a factor that no setting has.
    """
    known = {name for group in report.groups for row in group.rows for name in row.setting.factors}
    for name in by:
        if name not in known:
            raise UsageError(f"`by={name}` is no factor of these results: {nearest(name, sorted(known))}")
    sheets = []
    for protocol in dict.fromkeys(group.protocol for group in report.groups):
        groups = [group for group in report.groups if group.protocol == protocol]
        averages = [average for average in report.averages if average.protocol == protocol]
        chosen = list(by) or [DATASET, "shots"]
        if DATASET in chosen and len(groups) > 1:
            sheets.append(_by_dataset(groups, averages))
        for name in chosen:
            if name == DATASET:
                continue
            for group in groups:
                if len(_values(name, group)) > 1:
                    sheets.append(_by_factor(name, group))
            if any(average.measures for average in averages) and len(_values(name, groups[0])) > 1:
                sheets.append(_averages_by_factor(name, groups, averages))
    return sheets


def marked_name(row: Finding) -> str:
    """A method's name, with the marks that the notes explain."""
    marks = FALLBACK * row.setting.falls_back + TEST_TIME * ("learns from unlabelled test rows" in row.notes)
    return row.method + marks + " (ORACLE)" * row.is_oracle


def condition_word(row: Finding, name: str) -> str:
    """A condition of a row as a word; empty where it looks at none."""
    return as_typed(row.setting.factors[name]) if name in row.setting.factors else ""


def _by_dataset(groups: Sequence[Group], averages: Sequence[AverageFinding]) -> Sheet:
    """Methods as rows, data sets as columns, the average last."""
    varying = tuple(dict.fromkeys(name for group in groups for name in group.varying))
    main = groups[0].main
    keys = list(dict.fromkeys((row.method, row.conditions) for group in groups for row in group.rows))
    rows = [{(row.method, row.conditions): row for row in group.rows} for group in groups]
    of = {(average.method, average.conditions): average for average in averages}
    marks: dict[tuple[str, Conditions], str] = {}
    for block in _blocks(list(of.values())):
        marks |= marks_of_averages(block, main)
    lines = []
    for key in keys:
        there = [found.get(key) for found in rows]
        entries = [_entry(row, main) for row in there]
        average = of.get(key)
        entries.append(Entry(*average.measures[main], marks.get(key, "")) if average and average.measures else None)
        first = next(row for row in there if row)
        lines.append(Line((marked_name(first), *(condition_word(first, name) for name in varying)), tuple(entries)))
    datasets = [
        group.dataset if [g.dataset for g in groups].count(group.dataset) == 1 else f"{group.dataset} ({group.cache})"
        for group in groups
    ]
    title = f"{main}, {groups[0].protocol}, by data set; {_average_text(groups)}"
    return Sheet(title, ("method", *varying), (*datasets, AVERAGE), lines, main)


def _blocks(averages: Sequence[AverageFinding]) -> list[list[AverageFinding]]:
    """Averages under the same conditions; a method without support goes with every set of them, and is marked last."""
    seeded = [average for average in averages if any(row.setting.seeded for row in average.rows.values())]
    found = []
    for conditions in dict.fromkeys(average.conditions for average in seeded):
        wanted = dict(conditions)
        found.append([a for a in averages if all(wanted.get(name, value) == value for name, value in a.conditions)])
    return found


def _average_text(groups: Sequence[Group]) -> str:
    text = f"average of {len({group.dataset for group in groups})} data sets"
    return f"{text}: H of the mean base and the mean new" if groups[0].main == "H" else text


def _by_factor(name: str, group: Group) -> Sheet:
    """Methods as rows, values of a factor as columns. What does not have the factor stands in every column."""
    columns = _values(name, group)
    rows = _lined_up(name, [row for row in group.rows if group.main in row.measures])
    others = tuple(other for other in group.varying if other != name)
    marks: list[Mapping[str, str]] = []
    for value in columns:
        within = [found for of in rows.values() if (found := of.get(value) or of.get(None)) and not found.is_oracle]
        alone = len({row.conditions for row in within if row.setting.seeded}) <= 1
        marks.append(
            marks_of(within, group.main) if alone else {r.setting.id: r.marks.get(group.main, "") for r in within}
        )
    lines = []
    for (method, _), of in rows.items():
        there = [of.get(value) or of.get(None) for value in columns]
        entries = [
            _entry(row, group.main, mark.get(row.setting.id, "") if row else "")
            for row, mark in zip(there, marks, strict=True)
        ]
        first = next(iter(of.values()))
        lines.append(Line((method, *(condition_word(first, other) for other in others)), tuple(entries)))
    heads = ("method", *others)
    return Sheet(f"{group.main} by {name}, {group.title}", heads, tuple(map(as_typed, columns)), lines, group.main)


def _averages_by_factor(name: str, groups: Sequence[Group], averages: Sequence[AverageFinding]) -> Sheet:
    """The same for the averages over data sets."""
    main = groups[0].main
    columns = [v for v in _values(name, groups[0]) if all(v in _values(name, group) for group in groups)]
    rows = _lined_up(name, groups[0].rows)
    of = {(average.method, average.conditions): average for average in averages if average.measures}
    marks: list[dict[tuple[str, Conditions], str]] = []
    for value in columns:
        within = [of.get(_key(found)) for each in rows.values() if (found := each.get(value) or each.get(None))]
        marks.append(marks_of_averages([average for average in within if average], main))
    others = tuple(other for other in groups[0].varying if other != name)
    lines = []
    for (method, _), each in rows.items():
        entries: list[Entry | None] = []
        for value, mark in zip(columns, marks, strict=True):
            row = each.get(value) or each.get(None)
            average = of.get(_key(row)) if row else None
            entries.append(Entry(*average.measures[main], mark.get(_key(row), "")) if average and row else None)
        first = next(iter(each.values()))
        lines.append(Line((method, *(condition_word(first, other) for other in others)), tuple(entries)))
    title = f"{main} by {name}, {groups[0].protocol}, {_average_text(groups)}"
    return Sheet(title, ("method", *others), tuple(map(as_typed, columns)), lines, main)


def _lined_up(name: str, rows: Sequence[Finding]) -> dict[tuple[str, Conditions], dict[Any, Finding]]:
    """Rows by what they are but for one factor, then by its value; by None where they do not have it."""
    names = method_names([row.setting for row in rows], without=name)
    found: dict[tuple[str, Conditions], dict[Any, Finding]] = defaultdict(dict)
    for row in rows:
        rest = tuple(pair for pair in row.conditions if pair[0] != name)
        found[marked_name(row).replace(row.method, names[row.setting.id], 1), rest][row.setting.factors.get(name)] = row
    return found


def _key(row: Finding) -> tuple[str, Conditions]:
    return row.method, row.conditions


def _values(name: str, group: Group) -> list[Any]:
    """The values of a factor in a table, in order."""
    values = {row.setting.factors[name] for row in group.rows if name in row.setting.factors}
    return sorted(values, key=lambda value: (not _is_number(value), value if _is_number(value) else as_typed(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _entry(row: Finding | None, metric: str, mark: str | None = None) -> Entry | None:
    if row is None or (found := row.measures.get(metric)) is None:
        return None
    return Entry(found.mean, found.low, found.high, row.marks.get(metric, "") if mark is None else mark)
