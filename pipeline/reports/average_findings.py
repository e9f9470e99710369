"""What do the findings of several data sets say together?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mma.pipeline.reports.aggregates import average_of_datasets, h_of_means
from mma.pipeline.reports.comparisons import across_datasets
from mma.pipeline.reports.findings import (
    AverageFinding,
    Finding,
    Group,
)
from mma.pipeline.reports.pairing import (
    Conditions,
    values_of,
)
from mma.pipeline.reports.statistics import Estimate, harmonic_values, mean_estimate


def averages_of(groups: Sequence[Group]) -> list[AverageFinding]:
    """Every method under every set of conditions, over the data sets of its protocol, where there are two or more."""
    found = []
    for protocol in dict.fromkeys(group.protocol for group in groups):
        tables = {group.dataset: group for group in groups if group.protocol == protocol}
        if len(tables) < 2 or len(tables) < sum(group.protocol == protocol for group in groups):
            continue  # one data set; or several caches of one, which are no data sets to average over
        rows: dict[tuple[str, Conditions], dict[str, Finding]] = defaultdict(dict)
        for dataset, group in tables.items():
            for row in group.rows:
                rows[row.method, row.conditions][dataset] = row
        found += [_average(protocol, method, at, of, tables) for (method, at), of in rows.items()]
    return found


def _average(
    protocol: str, method: str, conditions: Conditions, of: Mapping[str, Finding], tables: Mapping[str, Group]
) -> AverageFinding:
    missing = tuple(dataset for dataset in tables if dataset not in of)
    main, rows = next(iter(tables.values())).main, list(of.values())
    whole = AverageFinding(protocol, method, conditions, of, missing, {}, None, None, None, 0, 0)
    if missing:
        return whole
    measures: dict[str, tuple[float, float, float]] = {}
    for metric in rows[0].measures:
        known = [row.measures[metric] for row in rows if metric in row.measures]
        if len(known) < len(rows):
            continue
        if metric == "H" and (parts := _h_parts(rows)):
            known = parts
        interval = average_of_datasets(known)
        value = float(interval.value)
        if metric == "H":
            base, new = (np.array([row.measures[name].mean for row in rows]) for name in ("base", "new"))
            value = h_of_means(base, new)
        measures[metric] = (value, float(interval.low), float(interval.high))
    changes = [row.change.mean for row in rows if row.change is not None]
    if len(changes) < len(rows):
        return replace(whole, measures=measures)
    ours = np.array([row.measures[main].mean for row in rows])
    over = across_datasets(ours, ours - np.array(changes))
    return replace(
        whole,
        measures=measures,
        change=over.mean,
        p_t=over.p_t,
        p_wilcoxon=over.p_wilcoxon,
        won=over.won,
        lost=over.lost,
    )


def _h_parts(rows: Sequence[Finding]) -> list[Estimate]:
    """One estimate per data set whose average is H of the mean base and the mean new, with its interval; empty without
    predictions.
    """
    base, new = (float(np.mean([row.measures[name].mean for row in rows])) / 100 for name in ("base", "new"))
    parts = []
    for row in rows:
        sides = [values_of(row.setting, name, row.setting.seeds) for name in ("base", "new")]
        if sides[0] is None or sides[1] is None:
            return []
        parts.append(mean_estimate(harmonic_values(sides[0], sides[1], at=(base, new))).scaled(100))
    return parts
