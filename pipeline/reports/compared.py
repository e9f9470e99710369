"""How do the settings of one table differ from the baseline?

A table is one data set under one protocol. In it, two settings are compared only if they read the same bytes, were
drawn under the same conditions (shots, noise and whatever else the protocol has) and were scored on the same test rows,
and only over the seeds that both have. Nothing is averaged over a factor; what is missing is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mma.pipeline.fitting.factors import as_typed, has_values
from mma.pipeline.fitting.protocols import PROTOCOLS
from mma.pipeline.reports.comparisons import LEVEL, holm, verdict
from mma.pipeline.reports.findings import (
    Finding,
    Group,
)
from mma.pipeline.reports.marks import marked
from mma.pipeline.reports.metrics import balanced_is_main
from mma.pipeline.reports.naming import command_of
from mma.pipeline.reports.pairing import (
    BALANCED,
    CONDITIONS,
    Conditions,
    baseline_of,
    compare,
    conditions_of,
    measure,
    swaps_of,
)
from mma.pipeline.reports.records import Recorded
from mma.pipeline.reports.remarks import row_notes
from mma.pipeline.reports.statistics import Estimate


def group_of(settings: Sequence[Recorded], names: Mapping[str, str], wanted: Mapping[str, str], several: bool) -> Group:
    """The table of some settings; `wanted` describes the baseline, `several` is whether other caches are of its data
    set.
    """
    kind = PROTOCOLS[settings[0].protocol]
    metrics = tuple(dict.fromkeys(name for setting in settings for name in setting.metrics))
    if any(balanced_is_main(s.scored["all"].test.label) for s in settings if "all" in s.scored):
        metrics += (BALANCED,)
    main = kind.main if kind.main in metrics else metrics[-1]
    ordered = sorted(settings, key=lambda s: (s.adapter != "zero-shot", _sortable(conditions_of(s)), names[s.id]))
    baselines = [setting for setting in ordered if has_values(setting.factors, wanted)]
    seeds: dict[tuple[str, Conditions], set[int]] = defaultdict(set)
    for setting in ordered:
        seeds[setting.digest, conditions_of(setting)] |= set(setting.seeds) if setting.seeded else set()
    rows = [
        _finding(s, names[s.id], metrics, main, baselines, seeds[s.digest, conditions_of(s)], wanted) for s in ordered
    ]
    rows = _corrected(marked(rows, metrics), wanted)
    varying = tuple(name for name in CONDITIONS if len({s.factors[name] for s in settings if name in s.factors}) > 1)
    first = settings[0]
    where = f" ({first.cache}, data {first.digest})" if several else ""
    held = [f"{name} {as_typed(first_of(name, settings))}" for name in _worth_saying(settings, varying)]
    title = ", ".join([f"{first.dataset}{where}", first.protocol, *held])
    family = sum(row.p is not None for row in rows)
    return Group(first.dataset, first.protocol, first.cache, title, metrics, main, varying, rows, family)


def first_of(name: str, settings: Sequence[Recorded]) -> Any:
    """The value of a factor in the first setting that has it."""
    return next(setting.factors[name] for setting in settings if name in setting.factors)


def _worth_saying(settings: Sequence[Recorded], varying: Sequence[str]) -> list[str]:
    """Conditions that are the same in all rows and not what they always are: in the title of the table."""
    usual = {**{option: value for kind in PROTOCOLS.values() for option, value in kind().config().items()}}
    usual |= {"prompts": "default", "reduce": "unit"}
    there = [name for name in CONDITIONS if any(name in s.factors for s in settings) and name not in varying]
    return [name for name in there if name == "shots" or first_of(name, settings) != usual.get(name)]


def _finding(
    setting: Recorded,
    method: str,
    metrics: Sequence[str],
    main: str,
    baselines: Sequence[Recorded],
    seeds: set[int],
    wanted: Mapping[str, str],
) -> Finding:
    measures = {name: found for name in metrics if (found := measure(setting, name)) is not None}
    base = baseline_of(setting, baselines, wanted)
    change = compare(setting, base, main) if base else None
    swaps = swaps_of(setting, base, main) if base and change else None
    notes = row_notes(setting, seeds)
    return Finding(
        setting, method, conditions_of(setting), measures, {}, change, None, "", swaps, notes, command_of(setting)
    )


def _corrected(rows: Sequence[Finding], wanted: Mapping[str, str]) -> list[Finding]:
    """Rows with their p-values adjusted over the table, and their verdicts."""
    told = [i for i, row in enumerate(rows) if row.change is not None and not np.isnan(row.change.p)]
    adjusted = dict(zip(told, holm(np.array([_p(rows[i]) for i in told])), strict=True))
    done = []
    for i, row in enumerate(rows):
        if i in adjusted and row.change is not None:
            done.append(replace(row, p=float(adjusted[i]), verdict=_in_words(row.change, adjusted[i], len(told))))
        elif has_values(row.setting.factors, wanted):
            done.append(replace(row, verdict="the baseline"))
        else:
            done.append(replace(row, verdict=_why_not(row, rows, wanted)))
    return done


def _p(row: Finding) -> float:
    assert row.change is not None
    return row.change.p


def _in_words(change: Estimate, p: float, family: int) -> str:
    if change.low == change.high == 0:
        return "no difference: right and wrong on the same test images"
    if change.images:
        return verdict(change, float(p), family)
    shown = f"{change.mean:+.1f} points, 95 % interval {change.low:.1f} to {change.high:.1f} (over seeds alone)"
    return f"{shown}: {('better' if change.mean > 0 else 'worse') if p < LEVEL else 'not distinguishable'}"


def _why_not(row: Finding, rows: Sequence[Finding], wanted: Mapping[str, str]) -> str:
    if row.change is not None:
        return "one seed, and no predictions were kept: nothing can be tested"
    if row.is_oracle and any(has_values(other.setting.factors, wanted) for other in rows):
        return "selected on the test rows: not compared"
    return "no baseline under the same conditions"


def _sortable(conditions: Conditions) -> tuple[tuple[float, str], ...]:
    return tuple((float(v) if isinstance(v, int | float) else 0.0, as_typed(v)) for _, v in conditions)
