"""What does a grid say of two of its factors? A two-way table of one metric, averaged over what was named alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from mma.adapters import adapter_class, options_of
from mma.pipeline.console import Column, show_table
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.factors import Factors, adapters_of, as_typed
from mma.pipeline.fitting.protocols import METRICS
from mma.pipeline.fitting.results import Grid, Row
from mma.pipeline.fitting.settings import FACTORS
from mma.pipeline.options import written
from mma.pipeline.reports.aggregates import h_of_means
from mma.pipeline.reports.averages import MISSING, mean_of_datasets
from mma.pipeline.reports.differences import seed_by_seed
from mma.pipeline.reports.tables import columns_of, data_name, interval_text, star

APART = ("seed", "protocol", "target")  # seeds are in the interval, protocols have a table each, targets are all scored

DATASET, AVERAGE = "dataset", "average"

Place = tuple[Any, Any]  # the values of the two factors


def show_pivot(console: Console, ablated: Grid, pivot: str, metric: str | None, over: Sequence[str] = ()) -> None:
    """A two-way table of one metric for every protocol; for every cache, unless the data set is one of the two factors;
    and for every adapter that has both factors, unless the adapter is one of them.

    Where adapters are compared, a row without the other factor stands at each of its values, as zero-shot does at any
    number of shots. What `over` names is averaged within a seed, and the title says so; a place that lacks some of it
    has a dash. Data sets end with their average. Intervals are over seeds. Raises UsageError where anything else would
    be averaged.
    """
    names = _names(pivot)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in ablated.rows:
        if "adapter" not in names and not (row.setting.name != "zero-shot" and _has(row, names)):
            continue
        cache = "" if "dataset" in names else row.cache
        adapter = "" if "adapter" in names else row.setting.name
        groups.setdefault((cache, adapter, row.setting.protocol.name), []).append(row)
    if not any(_has(row, names) for rows in groups.values() for row in rows):
        raise UsageError(f"{written('pivot', pivot)}: no adapter of the grid has both factors")
    for (cache, adapter, protocol), rows in groups.items():
        shown = metric if metric in rows[0].metrics else rows[0].setting.protocol.main
        places = _places(rows, names)
        averaged = _averaged(places, over, pivot)
        words = [data_name(rows[0], ablated.rows)] * bool(cache) + [adapter] * bool(adapter) + [protocol]
        title = f"{', '.join(words)}: {shown}{', mean over ' * bool(averaged)}{' and '.join(averaged)}"
        downs, across = (list(dict.fromkeys(at[side] for at in places)) for side in (0, 1))
        columns = [Column(f"{names[0]} \\ {names[1]}"), *(Column(as_typed(value), right=True) for value in across)]
        text = {(a, b): _text(places.get((a, b), []), rows, over, shown) for a in downs for b in across}
        table = [[as_typed(down), *(text[down, value] for value in across)] for down in downs]
        if names[1] == DATASET and len(across) > 1:
            columns.append(Column(AVERAGE, right=True))
            for down, line in zip(downs, table, strict=True):
                line.append(_average([places.get((down, value), []) for value in across], line[1:], shown))
        if names[0] == DATASET and len(downs) > 1:
            lines = {value: [places.get((down, value), []) for down in downs] for value in across}
            averages = [_average(lines[value], [text[down, value] for down in downs], shown) for value in across]
            table.append([AVERAGE, *averages])
        show_table(console, columns, table, title)


def check_pivot(
    pivot: str | None, metric: str | None, over: Sequence[str], factors: Factors, targets: Sequence[str] = ()
) -> None:
    """Refuse, before the work, a pivot that is not two factors of the grid, a metric that no table has (`targets` are
    the names of the data sets that are scored beside the fitted one), and a factor with several values that is neither
    in the pivot nor named as one to average over.
    """
    known_metrics = (*METRICS, *targets)
    if metric is not None and (pivot is None or metric not in known_metrics):
        raise UsageError(f"{written('metric', metric)} is of a pivot, and is one of {', '.join(known_metrics)}")
    if pivot is None:
        if over:
            raise UsageError(f"{written('over', over[0])} is of a pivot, and none is given: `pivot=ONE,OTHER`")
        return
    names = _names(pivot)
    if len(names) != 2:
        raise UsageError(f"{written('pivot', pivot)} needs two factors, such as mask,lam")
    has = [_factors_of(adapter) for adapter in adapters_of(factors) if adapter != "zero-shot"] or [_factors_of()]
    known = sorted(set[str]().union(*has))
    for option, of_option in (("pivot", names), ("over", over)):
        for name in of_option:
            if name not in known:
                given = pivot if option == "pivot" else name
                raise UsageError(f"{written(option, given)}: unknown factor {name!r}: {nearest(name, known)}")
    shown = [each for each in has if set(names) <= each]
    if not shown:
        raise UsageError(f"{written('pivot', pivot)}: no adapter of the grid has both factors")
    in_tables = set[str]().union(*(has if "adapter" in names else shown))
    for name in [name for name in over if name in names]:
        raise UsageError(f"{written('over', name)}: it is a factor of {written('pivot', pivot)} already")
    apart = {*names, *over, *APART, "adapter"}  # adapters that are no factor have a table each
    for name, values in factors.items():
        if len(values) > 1 and name in in_tables - apart:
            raise _would_average(pivot, name, values)


def _has(row: Row, names: Sequence[str]) -> bool:
    return all(name in row.setting.flat() for name in names)


def _places(rows: Sequence[Row], names: Sequence[str]) -> dict[Place, list[Row]]:
    """Rows by their values of two factors; a row that lacks a factor stands at each of its values."""
    values = [list(dict.fromkeys(row.setting.flat()[n] for row in rows if n in row.setting.flat())) for n in names]
    places: dict[Place, list[Row]] = {}
    for row in rows:
        own = row.setting.flat()
        down, across = ([own[n]] if n in own else every for n, every in zip(names, values, strict=True))
        for at in itertools.product(down, across):
            places.setdefault(at, []).append(row)
    return places


def _averaged(places: Mapping[Place, Sequence[Row]], over: Sequence[str], pivot: str) -> list[str]:
    """What is averaged in the places of a table, in words. Raises UsageError for a factor that was not named: one that
    differs between rows that have the same values of all that were.
    """
    for rows in places.values():
        alike: dict[tuple[str, ...], Row] = {}
        for row in rows:
            other = alike.setdefault(_at(row, over), row)
            if other is not row:
                ours, theirs = columns_of(row), columns_of(other)
                name = next(name for name in {**ours, **theirs} if ours.get(name, "") != theirs.get(name, ""))
                raise _would_average(pivot, name, [theirs.get(name, ""), ours.get(name, "")])
    words = []
    for name in over:
        found = (columns_of(row)[name] for rows in places.values() for row in rows if name in columns_of(row))
        values = list(dict.fromkeys(map(as_typed, found)))
        words += [f"{name} {', '.join(values)}"] if len(values) > 1 else []
    return words


def _text(there: Sequence[Row], rows: Sequence[Row], over: Sequence[str], metric: str) -> str:
    """The mean over the rows of a place and its seeds; a dash where it lacks something that is averaged elsewhere."""
    adapters = {row.setting.adapter for row in (rows if "adapter" in over else there)}
    wanted = {(row.setting.adapter, _at(row, over)) for row in rows if row.setting.adapter in adapters}
    if not there or {(row.setting.adapter, _at(row, over)) for row in there} != wanted:
        return MISSING
    seeds = seed_by_seed([row.by_seed(metric) for row in there])
    if not seeds:
        return MISSING
    return interval_text([float(np.mean(values)) for values in seeds.values()], there) + star(there[0], metric)


def _average(by_dataset: Sequence[Sequence[Row]], texts: Sequence[str], metric: str) -> str:
    """The mean over data sets of what stands in their places, H that of the mean base and the mean new; a dash where
    one of them has a dash.
    """
    if MISSING in texts:
        return MISSING
    found = {name: _over_datasets(by_dataset, name) for name in (("base", "new") if metric == "H" else (metric,))}
    marks = star(by_dataset[0][0], metric)
    if metric == "H":
        return f"{float(h_of_means(np.array(found['base'][0]), np.array(found['new'][0]))):.2f}{marks}"
    mean, half = found[metric]
    return (f"{mean:.2f} ± {half:.2f}" if half else f"{mean:.2f}") + marks


def _over_datasets(by_dataset: Sequence[Sequence[Row]], metric: str) -> tuple[float, float | None]:
    """Mean and half-width over data sets of one metric; rows of a data set are averaged within a seed."""
    seeds = [seed_by_seed([row.by_seed(metric) for row in rows]).values() for rows in by_dataset]
    return mean_of_datasets([[float(np.mean(values)) for values in each] for each in seeds])


def _at(row: Row, over: Sequence[str]) -> tuple[str, ...]:
    values = columns_of(row)
    return tuple(as_typed(values.get(name, "")) for name in over)


def _would_average(pivot: str, name: str, values: Sequence[Any]) -> UsageError:
    told = ", ".join(map(as_typed, values))
    return UsageError(
        f"{written('pivot', pivot)} would average over {name} ({told}): give one value, or say so with `over={name}`"
    )


def _factors_of(adapter: str = "zero-shot") -> set[str]:
    return {"dataset", *FACTORS, *(option.name for option in options_of(adapter_class(adapter)))}


def _names(pivot: str) -> list[str]:
    return [name.strip().replace("-", "_") for name in pivot.split(",") if name.strip()]
