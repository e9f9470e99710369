"""Which of some findings is the best, and which cannot be told from it?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mma.pipeline.reports.aggregates import average_of_datasets
from mma.pipeline.reports.comparisons import LEVEL, holm
from mma.pipeline.reports.findings import (
    BEST,
    TIED,
    AverageFinding,
    Finding,
    block_of,
    goes_with,
)
from mma.pipeline.reports.pairing import (
    Conditions,
    compare,
)
from mma.pipeline.reports.statistics import CONFIDENCE


def marked(rows: Sequence[Finding], metrics: Sequence[str]) -> list[Finding]:
    """Rows with the best of each metric, and those not distinguishable from it, among rows under the same conditions.

    One family of comparisons (Holm) is one metric under one set of conditions. A row that goes with several sets, such
    as zero-shot with any number of shots, is marked where it is so in all of them.
    """
    blocks = list(dict.fromkeys(block_of(row) for row in rows if row.setting.seeded)) or [block_of(rows[0])]
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for block in blocks:
        within = [row for row in rows if goes_with(row, block) and not row.is_oracle]
        marks = {metric: marks_of(within, metric) for metric in metrics}
        for row in within:
            found[row.setting.id].append({metric: marks[metric].get(row.setting.id, "") for metric in metrics})
    return [
        replace(
            row,
            marks={
                metric: common[0] if len(common := list({each[metric] for each in found[row.setting.id]})) == 1 else ""
                for metric in metrics
                if found[row.setting.id]
            },
        )
        for row in rows
    ]


def marks_of(rows: Sequence[Finding], metric: str) -> dict[str, str]:
    """By setting: "best" for the highest mean, "tied" for what is not distinguishable from it after Holm's correction.

    Nothing is marked where there is nothing to choose between.
    """
    known = [row for row in rows if metric in row.measures]
    if len(known) < 2:
        return {}
    best = max(known, key=lambda row: row.measures[metric].mean)
    others = {row.setting.id: compare(best.setting, row.setting, metric) for row in known if row is not best}
    told = {at: change for at, change in others.items() if change is not None and not np.isnan(change.p)}
    adjusted = holm(np.array([change.p for change in told.values()]))
    tied = {at: TIED for at, p in zip(told, adjusted, strict=True) if p >= LEVEL}
    return {best.setting.id: BEST, **tied}


def marks_of_averages(averages: Sequence[AverageFinding], metric: str) -> dict[tuple[str, Conditions], str]:
    """As `marks_of`, for averages over data sets.

    A difference is the mean of the paired differences on each, its p-value a normal one: data sets are independent, and
    their half-widths, taken as normal ones, err on the safe side.
    """
    from scipy.special import ndtr, ndtri

    known = [average for average in averages if metric in average.measures]
    if len(known) < 2:
        return {}
    best = max(known, key=lambda average: average.measures[metric][0])
    told = {}
    for other in known:
        pairs = [compare(row.setting, other.rows[at].setting, metric) for at, row in best.rows.items()]
        changes = [pair for pair in pairs if pair is not None and not np.isnan(pair.p)]
        if other is not best and len(changes) == len(pairs):
            interval = average_of_datasets(changes)
            error = float(interval.high - interval.low) / 2 / float(ndtri(0.5 + CONFIDENCE / 2))
            p = 2 * float(ndtr(-abs(float(interval.value)) / error)) if error else float(interval.value == 0)
            told[other.method, other.conditions] = p
    adjusted = holm(np.array(list(told.values())))
    tied = {at: TIED for at, p in zip(told, adjusted, strict=True) if p >= LEVEL}
    return {(best.method, best.conditions): BEST, **tied}
