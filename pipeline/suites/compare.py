"""How far are our numbers from the published ones?

The interval of a difference is that of our mean over seeds (95 %, Student's t): how sure the published number is, its
paper would have to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mma.pipeline.fitting.results import Row
from mma.pipeline.reports.averages import over_datasets
from mma.pipeline.reports.statistics import mean_interval
from mma.pipeline.reports.tables import ONE_SUPPORT, star
from mma.pipeline.suites.suite import AVERAGE, Table


@dataclass(frozen=True)
class PaperLine:
    """One number of a table, in percent."""

    dataset: str  # or "average"
    method: str
    metric: str
    ours: float | None
    half_width: float | None  # None for one seed, and for H of means, which is no mean
    seeds: int
    published: float | None  # None where it is not known
    refused: str = ""  # why there is none of ours
    mark: str = ""  # of ours: new classes scored zero-shot, an interval over one support; as in other tables

    @property
    def difference(self) -> float | None:
        """Ours minus the published, in points; its half-width is that of ours."""
        return None if self.ours is None or self.published is None else self.ours - self.published


def compare(
    table: Table, rows: Mapping[tuple[str, str], Row], refused: Mapping[tuple[str, str], str]
) -> list[PaperLine]:
    """Every number of a table, by data set and method; then averages, of those methods that every data set has."""
    lines = []
    for dataset in table.embeds:
        for method in table.methods:
            row = rows.get((dataset, method.name))
            published = method.published.get(dataset, {})
            for metric in table.metrics:
                ours, half = mean_interval(row.values(metric)) if row else (None, None)
                seeds = len(row.results) if row else 0
                why = "" if row else refused[dataset, method.name]
                mark = _mark([row], metric, half) if row else ""
                lines.append(
                    PaperLine(dataset, method.name, metric, ours, half, seeds, published.get(metric), why, mark)
                )
    return [*lines, *_averages(table, rows)]


def _averages(table: Table, rows: Mapping[tuple[str, str], Row]) -> list[PaperLine]:
    if len(table.embeds) < 2:
        return []
    lines = []
    for method in table.methods:
        of_method = [rows[dataset, method.name] for dataset in table.embeds if (dataset, method.name) in rows]
        whole = len(of_method) == len(table.embeds)
        values = over_datasets(of_method) if whole else {}
        seeds = min((len(row.results) for row in of_method), default=0) if whole else 0
        why = "" if whole else f"{len(of_method)} of {len(table.embeds)} data sets: no average"
        for metric in table.metrics:
            ours, half = values.get(metric, (None, None))
            published = method.published.get(AVERAGE, {}).get(metric)
            mark = _mark(of_method, metric, half) if whole else ""
            lines.append(PaperLine(AVERAGE, method.name, metric, ours, half, seeds, published, why, mark))
    return lines


def _mark(rows: Sequence[Row], metric: str, half: float | None) -> str:
    """The marks that a number of these rows has in other tables."""
    one_support = ONE_SUPPORT if half and any(row.one_support for row in rows) else ""
    return one_support + star(rows[0], metric)
