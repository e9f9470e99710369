"""What do several data sets say together?

One average for every setting, as the field computes it: the mean over data sets of each one's mean over seeds; of
base-to-new, H of the mean base and the mean new (CoCoOp, 2022, Table 1), and beside it the mean of the data sets' H.
A setting that lacks a data set has no average: one over fewer would not compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mma.pipeline.fitting.results import Row
from mma.pipeline.reports.aggregates import h_of_means
from mma.pipeline.reports.statistics import mean_interval

MEAN_OF_H = "mean of H"
MISSING = "—"


@dataclass(frozen=True)
class Average:
    """One setting over data sets. `values` are metric -> mean and half-width, in percent; empty where a data set lacks
    it. H has no half-width: it is no mean.
    """

    rows: Sequence[Row]  # one for each data set that has it
    values: Mapping[str, tuple[float, float | None]]

    def text(self, metric: str) -> str:
        """`66.81 ± 1.30`, as in a row; a dash where there is none."""
        if metric not in self.values:
            return MISSING
        mean, half = self.values[metric]
        return f"{mean:.2f} ± {half:.2f}" if half else f"{mean:.2f}"


def averages(rows: Sequence[Row]) -> list[Average]:
    """The averages of rows of one protocol, in the order of the rows; none where they are of one data set."""
    caches = {row.cache for row in rows}
    if len(caches) < 2:
        return []
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        alike = tuple((name, str(value)) for name, value in row.setting.flat().items() if name != "dataset")
        groups.setdefault((row.metrics, alike), []).append(row)
    return [Average(group, over_datasets(group) if len(group) == len(caches) else {}) for group in groups.values()]


def columns(metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics of an average, from those of its rows."""
    return (*metrics, MEAN_OF_H) if "H" in metrics else tuple(metrics)


def flat_averages(found: Sequence[Average]) -> list[dict[str, Any]]:
    """One flat record for every average: its setting, its data sets, means and half-widths in percent."""
    return [
        {
            **{name: value for name, value in average.rows[0].setting.flat().items() if name != "dataset"},
            "datasets": ", ".join(row.setting.data.dataset for row in average.rows),
            "complete": bool(average.values),
            **{name: average.values.get(name, (None, None))[0] for name in columns(average.rows[0].metrics)},
            **{f"{name} half_width": average.values.get(name, (None, None))[1] for name in average.rows[0].metrics},
        }
        for average in found
    ]


def over_datasets(rows: Sequence[Row]) -> dict[str, tuple[float, float | None]]:
    """The averages of one row per data set: metric -> mean and half-width, in percent."""
    values: dict[str, tuple[float, float | None]] = {}
    for metric in rows[0].metrics:
        values[metric] = mean_of_datasets([row.values(metric) for row in rows])
    if "H" in values:
        values[MEAN_OF_H] = values["H"]
        values["H"] = (h_of_means(np.array(values["base"][0]), np.array(values["new"][0])), None)
    return values


def mean_of_datasets(values: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Mean and half-width of the data sets' means, from the values of the seeds of each."""
    of_datasets = [mean_interval(each) for each in values]
    halves = [half for _, half in of_datasets if half is not None]
    # seeds of different data sets are independent: half-widths add as squares; data sets are fixed
    half = math.sqrt(sum(half**2 for half in halves)) / len(values) if len(halves) == len(values) else None
    return float(np.mean([mean for mean, _ in of_datasets])), half
